"""The whole loss, values and gradients, against the reference in Python floats: every setting, every trap."""

import itertools
import math
from dataclasses import dataclass
from typing import get_args

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from services.trainer.step.losses import Aggregation, batch_denominator, importance_weights
from tests.fakes.loss import self_distillation_loss
from tests.unit.trainer.loss_reference import Batch, Choice, resolvable_in_fp32, whole_loss

torch.set_num_threads(1)

INF = math.inf
NAN = math.nan


@dataclass
class Case:
    batch: Batch
    choice: Choice
    cuts: list[int]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Logits are distinct sixteenths below 10: exact in bf16, and without ties in the student's top-k."""
    rows, tokens, vocabulary = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(2, 6))
    alpha = draw(st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0.01, 0.99))
    # Ids suppressed for the student alone only where the divergence stays finite.
    both = draw(st.sets(st.integers(0, vocabulary - 1), max_size=vocabulary - 1))
    more = draw(st.sets(st.integers(0, vocabulary - 1), max_size=vocabulary - 1)) if 0 < alpha < 1 else set()
    suppressed = both | more if len(both | more) < vocabulary else both
    levels = st.lists(st.integers(-160, 160), min_size=vocabulary, max_size=vocabulary, unique=True)
    logprob = st.floats(-30, 0, width=32)

    def grid(cell: st.SearchStrategy) -> list:  # type: ignore[type-arg]
        return [[draw(cell) for _ in range(tokens)] for _ in range(rows)]

    def logits(hidden: set[int]) -> list[list[list[float]]]:
        return [[[-INF if v in hidden else z / 16 for v, z in enumerate(cell)] for cell in row] for row in grid(levels)]

    finite = vocabulary - len(suppressed)
    batch = Batch(
        student=logits(suppressed),
        teacher=logits(both),
        trainer_logprobs=grid(logprob),
        rollout_logprobs=grid(logprob),
        token_mask=grid(st.integers(0, 1)),
        sample_mask=[draw(st.integers(0, 1)) for _ in range(rows)],
    )
    choice = Choice(
        alpha=alpha,
        # beyond the finite ones, which -inf comes first would be a tie
        top_k=draw(st.none() | st.integers(1, finite)),
        tail=draw(st.booleans()),
        aggregation=draw(st.sampled_from(get_args(Aggregation))),
        clip=draw(st.sampled_from([2.0, 1.0]) | st.floats(0.5, 5)),
    )
    return Case(batch, choice, sorted(draw(st.sets(st.integers(1, rows))) | {rows}))


def tensors(batch: Batch, dtype: torch.dtype, poison: float) -> dict[str, Tensor]:
    """The batch as the loss takes it, everything that a mask hides holding `poison`."""
    token_mask, sample_mask = torch.tensor(batch.token_mask), torch.tensor(batch.sample_mask)
    hidden = (token_mask * sample_mask[:, None]) == 0
    logprobs = [
        torch.tensor(side, dtype=torch.float64).masked_fill(hidden, poison)
        for side in (batch.trainer_logprobs, batch.rollout_logprobs)
    ]
    return {
        "student_logits": torch.tensor(batch.student, dtype=dtype).masked_fill(hidden[..., None], poison),
        "teacher_logits": torch.tensor(batch.teacher, dtype=dtype).masked_fill(hidden[..., None], poison),
        "trainer_logprobs": logprobs[0],
        "rollout_logprobs": logprobs[1],
        "token_mask": token_mask,
        "sample_mask": sample_mask,
    }


def loss_and_gradient(
    given_: dict[str, Tensor], choice: Choice, rows: slice, denominator: float | None
) -> tuple[float, Tensor]:
    part = {name: tensor[rows] for name, tensor in given_.items()}
    student = part["student_logits"].clone().requires_grad_()
    mask = part["token_mask"] * part["sample_mask"][:, None]
    loss = self_distillation_loss(
        student,
        part["teacher_logits"],
        part["token_mask"],
        part["sample_mask"],
        alpha=choice.alpha,
        top_k=choice.top_k,
        tail=choice.tail,
        weights=importance_weights(part["trainer_logprobs"], part["rollout_logprobs"], mask, clip=choice.clip),
        aggregation=choice.aggregation,  # type: ignore[arg-type]
        denominator=denominator,
    )
    (gradient,) = torch.autograd.grad(loss, student)
    return loss.item(), gradient


def in_one_piece(case: Case, dtype: torch.dtype, poison: float) -> tuple[float, Tensor]:
    return loss_and_gradient(tensors(case.batch, dtype, poison), case.choice, slice(None), None)


def in_micro_batches(case: Case, dtype: torch.dtype, poison: float) -> tuple[float, Tensor]:
    made = tensors(case.batch, dtype, poison)
    denominator = batch_denominator(made["token_mask"], made["sample_mask"], case.choice.aggregation)  # type: ignore[arg-type]
    edges = zip([0, *case.cuts], case.cuts, strict=False)
    parts = [loss_and_gradient(made, case.choice, slice(*edge), denominator) for edge in edges]
    return math.fsum(loss for loss, _ in parts), torch.cat([gradient for _, gradient in parts])


@settings(max_examples=200)
@given(cases(), st.sampled_from([NAN, INF, -INF]))
def test_float64_is_the_reference(case: Case, poison: float) -> None:
    wanted, slopes = whole_loss(case.batch, case.choice)
    loss, gradient = in_one_piece(case, torch.float64, poison)
    assert loss == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    # 1 - Σ in floats is good to 1e-16, and a tail of 1e-7 divides by it.
    torch.testing.assert_close(gradient, torch.tensor(slopes, dtype=torch.float64), rtol=1e-7, atol=1e-9)


@settings(max_examples=100)
@given(cases(), st.sampled_from([NAN, INF, -INF]))
def test_micro_batches_are_the_reference_however_they_are_cut(case: Case, poison: float) -> None:
    wanted, slopes = whole_loss(case.batch, case.choice)
    loss, gradient = in_micro_batches(case, torch.float64, poison)
    assert loss == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    torch.testing.assert_close(gradient, torch.tensor(slopes, dtype=torch.float64), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@settings(max_examples=100)
@given(case=cases(), poison=st.sampled_from([NAN, INF, -INF]))
def test_lower_types_are_the_reference_up_to_fp32(dtype: torch.dtype, case: Case, poison: float) -> None:
    tokens, choice = itertools.chain(*case.batch.student, *case.batch.teacher), case.choice
    assume(resolvable_in_fp32(tokens, choice.alpha, choice.top_k, choice.tail))
    wanted, slopes = whole_loss(case.batch, choice)
    loss, gradient = in_one_piece(case, dtype, poison)
    assert gradient.dtype is dtype
    assert loss == pytest.approx(wanted, rel=1e-4, abs=1e-4)
    rounding = 2**-8 if dtype is torch.bfloat16 else 1e-4
    torch.testing.assert_close(gradient.double(), torch.tensor(slopes, dtype=torch.float64), rtol=rounding, atol=1e-4)


def test_the_reference_can_tell_the_settings_apart() -> None:
    """Each setting moves the value: a reference that ignored one would pass by agreeing with itself."""
    batch = Batch(
        student=[[[0.0, 2.0, -1.0, 0.5], [1.0, 0.0, 3.0, -2.0]], [[0.5, 0.0, 1.0, 2.0], [0.0, 1.0, 2.0, 3.0]]],
        teacher=[[[1.0, 0.0, 0.5, 0.0], [0.0, 2.0, 1.0, 1.0]], [[2.0, 1.0, 0.0, 0.0], [3.0, 1.0, 0.0, 0.0]]],
        trainer_logprobs=[[-1.0, -2.0], [-0.5, -1.0]],
        rollout_logprobs=[[-2.0, -1.5], [-2.5, -1.0]],
        token_mask=[[1, 1], [1, 0]],
        sample_mask=[1, 1],
    )
    plain = Choice(0.5, 2, True, "seq_mean", 2.0)
    variants = [
        plain,
        Choice(0.0, 2, True, "seq_mean", 2.0),
        Choice(1.0, 2, True, "seq_mean", 2.0),
        Choice(0.5, 1, True, "seq_mean", 2.0),
        Choice(0.5, None, True, "seq_mean", 2.0),
        Choice(0.5, 2, False, "seq_mean", 2.0),
        Choice(0.5, 2, True, "token_mean", 2.0),
        Choice(0.5, 2, True, "seq_mean", 1.0),
    ]
    values = [whole_loss(batch, variant)[0] for variant in variants]
    assert len({round(value, 9) for value in values}) == len(variants)
    masked = Batch(**{**vars(batch), "sample_mask": [1, 0]})
    assert whole_loss(masked, plain)[0] < whole_loss(masked, Choice(0.5, 2, True, "seq_mean_active", 2.0))[0]
