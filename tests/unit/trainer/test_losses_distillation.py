"""The self-distillation loss: masks, weights, the three means and micro-batches."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from services.trainer.step.losses import Aggregation, aggregate, batch_denominator
from shared.errors import ConfigError
from tests.fakes.loss import self_distillation_loss, token_divergence

torch.set_num_threads(1)

AGGREGATIONS: list[Aggregation] = ["seq_mean", "seq_mean_active", "token_mean"]
VOCABULARY = 6


def batch(seed: int, rows: int, tokens: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(rows, tokens, VOCABULARY, generator=generator, dtype=torch.float64)

    return {
        "student_logits": normal(),
        "teacher_logits": normal(),
        "token_mask": torch.randint(0, 2, (rows, tokens), generator=generator),
        "sample_mask": torch.randint(0, 2, (rows,), generator=generator),
        "weights": 2 * torch.rand(rows, tokens, generator=generator, dtype=torch.float64),
    }


def by_loops(arguments: dict[str, Tensor], aggregation: str) -> float:
    """The formulas of the three means, token by token in Python floats."""
    divergence = token_divergence(arguments["student_logits"], arguments["teacher_logits"], top_k=3).tolist()
    tokens, samples = arguments["token_mask"].tolist(), arguments["sample_mask"].tolist()
    weights = arguments["weights"].tolist()
    total, samples_seen, active, tokens_seen = 0.0, 0, 0, 0
    for j, sample in enumerate(samples):
        mask = [m * sample for m in tokens[j]]
        length = sum(mask)
        inner = math.fsum(m * w * d for m, w, d in zip(mask, weights[j], divergence[j], strict=True))
        total += inner if aggregation == "token_mean" else inner / max(1, length)
        samples_seen += 1
        active += length > 0
        tokens_seen += length
    return total / max(1, {"seq_mean": samples_seen, "seq_mean_active": active, "token_mean": tokens_seen}[aggregation])


def gradient(arguments: dict[str, Tensor], **options: object) -> tuple[float, Tensor]:
    student = arguments["student_logits"].clone().requires_grad_()
    loss = self_distillation_loss(**(arguments | {"student_logits": student}), top_k=3, **options)  # type: ignore[arg-type]
    (slope,) = torch.autograd.grad(loss, student)
    return loss.item(), slope


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 5), st.sampled_from(AGGREGATIONS))
def test_value_is_the_formulas(seed: int, rows: int, aggregation: Aggregation) -> None:
    arguments = batch(seed, rows)
    loss = self_distillation_loss(**arguments, top_k=3, aggregation=aggregation)  # type: ignore[arg-type]
    assert loss.shape == ()
    assert loss.item() == pytest.approx(by_loops(arguments, aggregation), rel=1e-12, abs=1e-15)


@settings(max_examples=60)
@given(st.data(), st.integers(0, 10**6), st.integers(1, 6), st.sampled_from(AGGREGATIONS))
def test_any_split_into_micro_batches_gives_the_same_gradient(
    data: st.DataObject, seed: int, rows: int, aggregation: Aggregation
) -> None:
    arguments = batch(seed, rows)
    order = torch.tensor(data.draw(st.permutations(range(rows))))
    cuts = sorted(data.draw(st.sets(st.integers(1, rows), max_size=rows)) | {rows})
    denominator = batch_denominator(arguments["token_mask"], arguments["sample_mask"], aggregation)
    whole, whole_gradient = gradient(arguments, aggregation=aggregation)
    summed, pieces, start = 0.0, torch.zeros_like(whole_gradient), 0
    for stop in cuts:
        part = order[start:stop]
        start = stop
        one = {name: value[part] for name, value in arguments.items()}
        loss, slope = gradient(one, aggregation=aggregation, denominator=denominator)
        summed += loss
        pieces[part] = slope
    assert summed == pytest.approx(whole, rel=1e-12, abs=1e-15)
    torch.testing.assert_close(pieces, whole_gradient, atol=1e-15, rtol=1e-12)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["student_logits", "teacher_logits", "weights"])
@pytest.mark.parametrize("top_k", [None, 3])
def test_what_the_masks_hide_may_hold_anything(poison: float, where: str, top_k: int | None) -> None:
    arguments = batch(5, 6)
    arguments["sample_mask"] = torch.tensor([1, 0, 1, 1, 0, 1])
    clean = self_distillation_loss(**arguments, top_k=top_k)  # type: ignore[arg-type]
    mask = (arguments["token_mask"] * arguments["sample_mask"].unsqueeze(1)).bool()
    hidden = ~(mask if arguments[where].dim() == 2 else mask.unsqueeze(-1))
    arguments[where] = arguments[where].masked_fill(hidden, poison)
    student = arguments["student_logits"].requires_grad_()
    loss = self_distillation_loss(**arguments, top_k=top_k)  # type: ignore[arg-type]
    (slope,) = torch.autograd.grad(loss, student)
    assert loss.item() == clean.item()
    assert torch.isfinite(slope).all()
    assert slope[~mask].abs().sum() == 0


def test_a_masked_out_sample_still_counts_in_seq_mean_alone() -> None:
    arguments = batch(1, 4) | {
        "token_mask": torch.ones(4, 4),
        "sample_mask": torch.tensor([1, 0, 0, 0]),
    }
    loss = {
        name: self_distillation_loss(**arguments, top_k=3, aggregation=name).item()  # type: ignore[arg-type]
        for name in AGGREGATIONS
    }
    assert loss["seq_mean"] == pytest.approx(loss["seq_mean_active"] / 4)
    assert loss["token_mean"] == pytest.approx(loss["seq_mean_active"])


def test_denominators() -> None:
    tokens, samples = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 0]]), torch.tensor([1, 0, 1])
    assert [batch_denominator(tokens, samples, name) for name in AGGREGATIONS] == [3.0, 1.0, 2.0]
    none = torch.zeros(3)
    assert [batch_denominator(tokens, none, name) for name in AGGREGATIONS] == [3.0, 1.0, 1.0]


def test_no_active_sample_gives_zero_loss_and_gradient() -> None:
    arguments = batch(2, 3) | {"sample_mask": torch.zeros(3)}
    for aggregation in AGGREGATIONS:
        loss, slope = gradient(arguments, aggregation=aggregation)
        assert loss == 0.0
        assert slope.abs().sum() == 0


def test_weights_are_detached_and_scale_each_token() -> None:
    arguments = batch(3, 2) | {"token_mask": torch.ones(2, 4), "sample_mask": torch.ones(2)}
    weights = arguments["weights"].requires_grad_()
    student = arguments["student_logits"].requires_grad_()
    torch.autograd.backward(self_distillation_loss(**arguments, top_k=3))  # type: ignore[arg-type]
    assert weights.grad is None
    plain = arguments | {"weights": torch.ones(2, 4)}
    _, slope = gradient({name: value.detach() for name, value in plain.items()})
    assert student.grad is not None
    torch.testing.assert_close(student.grad, slope * weights.detach().unsqueeze(-1))


def test_bf16_logits_give_an_fp32_loss() -> None:
    arguments = batch(4, 3)
    exact = self_distillation_loss(**arguments, top_k=3)  # type: ignore[arg-type]
    rounded = arguments | {name: arguments[name].bfloat16() for name in ("student_logits", "teacher_logits")}
    loss = self_distillation_loss(**rounded, top_k=3)  # type: ignore[arg-type]
    assert loss.dtype is torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=0.05)


def test_bf16_values_are_summed_in_fp32() -> None:
    ones = torch.ones(1, 1000, dtype=torch.bfloat16)
    assert aggregate(ones, ones, torch.ones(1), aggregation="token_mean", denominator=3.0).item() == pytest.approx(
        1000 / 3
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"aggregation": "mean"}, "seq_mean, seq_mean_active, token_mean, got 'mean'"),
        ({"denominator": 0.0}, "denominator must be positive"),
        ({"denominator": math.nan}, "denominator must be positive"),
        ({"token_mask": torch.full((2, 4), 0.5)}, "token_mask must hold only 0 and 1"),
        ({"token_mask": torch.full((2, 4), math.nan)}, "token_mask must hold only 0 and 1"),
        ({"sample_mask": torch.full((2,), 2)}, "sample_mask must hold only 0 and 1"),
        ({"sample_mask": torch.ones(3)}, r"got \[2, 4\] and \[3\]"),
        ({"weights": torch.ones(2, 3)}, r"weights must have .* \[2, 4\], got \[2, 3\]"),
        ({"weights": torch.full((2, 4), math.nan)}, r"not finite in rows \[0, 1\]; reject those samples"),
    ],
)
def test_unusable_arguments_are_named(changes: dict[str, object], message: str) -> None:
    arguments = batch(0, 2) | {"token_mask": torch.ones(2, 4), "sample_mask": torch.ones(2)}
    with pytest.raises(ConfigError, match=message):
        self_distillation_loss(**({"top_k": 3} | arguments | changes))  # type: ignore[arg-type]


def test_values_of_another_shape_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"values must have .* \[2, 4\], got \[2, 3\]"):
        aggregate(torch.ones(2, 3), torch.ones(2, 4), torch.ones(2))
