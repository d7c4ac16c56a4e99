"""The divergence and its gradient against the reference in Python floats and against central differences."""

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from services.trainer.step.divergence import CHUNK_ELEMENTS
from tests.fakes.loss import token_divergence
from tests.unit.trainer.loss_reference import differences, divergence, resolvable_in_fp32, slope, top_ids

torch.set_num_threads(1)

INF = math.inf
NAN = math.nan


# --- drawn cases -------------------------------------------------------------------------------------------------


@dataclass
class Case:
    student: list[list[list[float]]]
    teacher: list[list[list[float]]]
    mask: list[list[int]]
    alpha: float
    top_k: int | None
    tail: bool


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Logits are distinct multiples of 1/16 below 16: exact in bf16, and the student's top-k has no ties."""
    rows, tokens, vocabulary = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(2, 7))
    levels = st.lists(st.integers(-160, 160), min_size=vocabulary, max_size=vocabulary, unique=True)
    # One set of suppressed ids for both, never all of them, as padded vocabularies have.
    suppressed = draw(st.sets(st.integers(0, vocabulary - 1), max_size=vocabulary - 1))

    def one_token() -> list[float]:
        return [-INF if v in suppressed else level / 16 for v, level in enumerate(draw(levels))]

    def logits() -> list[list[list[float]]]:
        return [[one_token() for _ in range(tokens)] for _ in range(rows)]

    return Case(
        student=logits(),
        teacher=logits(),
        mask=[[draw(st.integers(0, 1)) for _ in range(tokens)] for _ in range(rows)],
        alpha=draw(st.sampled_from([0.0, 1.0, 0.5]) | st.floats(0.01, 0.99)),
        top_k=draw(st.none() | st.integers(1, vocabulary)),
        tail=draw(st.booleans()),
    )


def run(
    case: Case, dtype: torch.dtype, poison: float = 0.0, chunk_elements: int = CHUNK_ELEMENTS
) -> tuple[Tensor, Tensor]:
    """Value [B, T] and gradient [B, T, V] of the sum, what is masked holding `poison`."""
    mask = torch.tensor(case.mask)
    hidden = (mask == 0).unsqueeze(-1)
    student = torch.tensor(case.student, dtype=dtype).masked_fill(hidden, poison).requires_grad_()
    value = token_divergence(
        student,
        torch.tensor(case.teacher, dtype=dtype).masked_fill(hidden, poison),
        alpha=case.alpha,
        top_k=case.top_k,
        tail=case.tail,
        token_mask=mask,
        chunk_elements=chunk_elements,
    )
    (gradient,) = torch.autograd.grad(value.sum(), student)
    return value.detach(), gradient


def assert_close_to_reference(case: Case, value: Tensor, gradient: Tensor, atol: float, grad_atol: float) -> None:
    for b, t in itertools.product(range(len(case.mask)), range(len(case.mask[0]))):
        student, teacher = case.student[b][t], case.teacher[b][t]
        ids = top_ids(student, case.top_k)
        if case.mask[b][t]:
            wanted = divergence(student, teacher, case.alpha, ids, case.tail)
            slopes = differences(student, teacher, case.alpha, ids, case.tail)
            # The reference's own derivative, which test_losses_reference.py relies on, is that of its values.
            own = slope(student, teacher, case.alpha, ids, case.tail)
            assert own == pytest.approx(slopes, abs=grad_atol, rel=grad_atol)
        else:
            wanted, slopes = 0.0, [0.0] * len(student)
        assert value[b, t].item() == pytest.approx(wanted, abs=atol, rel=atol)
        assert gradient[b, t].tolist() == pytest.approx(slopes, abs=grad_atol, rel=grad_atol)


@settings(max_examples=150)
@given(cases(), st.sampled_from([NAN, INF, -INF, 0.0]))
def test_float64_matches_the_reference_whatever_the_mask_hides(case: Case, poison: float) -> None:
    value, gradient = run(case, torch.float64, poison)
    # Differences of a 1e-5 step on values up to 20 are good to about 1e-8 relative to curvature.
    assert_close_to_reference(case, value, gradient, atol=1e-9, grad_atol=2e-6)


@settings(max_examples=100)
@given(cases(), st.sampled_from([NAN, INF]))
def test_bf16_logits_are_computed_in_fp32(case: Case, poison: float) -> None:
    tokens = itertools.chain(*case.student, *case.teacher)
    assume(resolvable_in_fp32(tokens, case.alpha, case.top_k, case.tail))
    exact, exact_gradient = run(case, torch.float64)
    value, gradient = run(case, torch.bfloat16, poison)
    assert value.dtype is torch.float32
    assert gradient.dtype is torch.bfloat16
    torch.testing.assert_close(value.double(), exact, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(gradient.double(), exact_gradient, atol=2e-5, rtol=2**-8)


@settings(max_examples=60)
@given(cases(), st.integers(1, 20))
def test_chunking_changes_nothing(case: Case, elements: int) -> None:
    whole = run(case, torch.float64)
    pieces = run(case, torch.float64, chunk_elements=elements)
    for one, other in zip(whole, pieces, strict=True):
        torch.testing.assert_close(one, other, atol=1e-13, rtol=1e-13)


@settings(max_examples=60)
@given(cases())
def test_it_is_a_divergence_not_negative_bounded_and_shift_invariant(case: Case) -> None:
    value, gradient = run(case, torch.float64)
    assert value.min() >= -1e-12
    if 0 < case.alpha < 1:
        entropy = -case.alpha * math.log(case.alpha) - (1 - case.alpha) * math.log(1 - case.alpha)
        # The floored tail adds at most 1e-7 of mass to a distribution.
        assert value.max() <= entropy + 1e-5
    torch.testing.assert_close(gradient.sum(-1), torch.zeros_like(value), atol=1e-9, rtol=0)


# --- autograd of the textbook formula ----------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize(("top_k", "tail"), [(None, True), (5, True), (5, False)])
def test_gradient_equals_autograd_with_uneven_upstream(alpha: float, top_k: int | None, tail: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    student = torch.randn(3, 4, 40, generator=generator, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, 4, 40, generator=generator, dtype=torch.float64)
    upstream = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    log_s, log_q = student.log_softmax(-1), teacher.log_softmax(-1)
    if top_k is not None:
        ids = student.topk(top_k).indices
        log_s, log_q = log_s.gather(-1, ids), log_q.gather(-1, ids)
        if tail:
            log_s, log_q = (torch.cat([x, (1 - x.exp().sum(-1, True)).log()], -1) for x in (log_s, log_q))
        else:
            log_s, log_q = log_s.log_softmax(-1), log_q.log_softmax(-1)
    s, q = log_s.exp(), log_q.exp()
    m = (1 - alpha) * s + alpha * q
    if alpha in (0.0, 1.0):
        textbook = (q * (q / s).log()).sum(-1) if alpha == 0 else (s * (s / q).log()).sum(-1)
    else:
        textbook = (alpha * q * (q / m).log() + (1 - alpha) * s * (s / m).log()).sum(-1)
    (wanted,) = torch.autograd.grad(textbook, student, upstream)
    value = token_divergence(student, teacher, alpha=alpha, top_k=top_k, tail=tail)
    (gradient,) = torch.autograd.grad(value, student, upstream)
    torch.testing.assert_close(value, textbook, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(gradient, wanted, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_clamped_tail_passes_no_gradient_and_is_floored(alpha: float) -> None:
    # Half the floor is the hard case: the mass outside is small, yet 1/S_tail would make its gradient large.
    student = torch.tensor([[[0.6, 0.4 - 5e-8, 5e-8]]], dtype=torch.float64).log().requires_grad_()
    teacher = torch.tensor([[[0.1, 0.3, 0.6]]], dtype=torch.float64).log()
    value = token_divergence(student, teacher, alpha=alpha, top_k=2, tail=True)
    (gradient,) = torch.autograd.grad(value.sum(), student)
    logits = student[0, 0].tolist(), teacher[0, 0].tolist()
    assert value.item() == pytest.approx(divergence(*logits, alpha, [0, 1], True), rel=1e-9)
    assert gradient[0, 0].tolist() == pytest.approx(differences(*logits, alpha, [0, 1], True), abs=1e-8)
    # The third logit is seen through the normaliser alone.
    assert gradient[0, 0, 2].abs() < 1e-6
