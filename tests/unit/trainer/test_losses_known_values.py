"""The divergence where the answer is known: its bounds, its end points, its support, and what it must refuse."""

import math

import pytest
import torch
from torch import Tensor

from tests.fakes.loss import token_divergence

torch.set_num_threads(1)

INF = math.inf
NAN = math.nan


def relative_entropy(p: list[float], r: list[float]) -> float:
    return math.fsum(a * math.log(a / b) for a, b in zip(p, r, strict=True))


def one(logits: list[float]) -> Tensor:
    return torch.tensor([[logits]], dtype=torch.float64)


def of_probabilities(p: list[float]) -> Tensor:
    return one([math.log(x) if x else -INF for x in p])


def test_argument_order_forward_is_teacher_first() -> None:
    student, teacher = of_probabilities([0.9, 0.1]), of_probabilities([0.5, 0.5])
    teacher_first = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    student_first = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert abs(teacher_first - student_first) > 0.1
    assert token_divergence(student, teacher, alpha=0.0, top_k=None).item() == pytest.approx(teacher_first)
    assert token_divergence(student, teacher, alpha=1.0, top_k=None).item() == pytest.approx(student_first)


def test_mixture_weights_the_student_with_one_minus_alpha() -> None:
    student, teacher = of_probabilities([0.9, 0.1]), of_probabilities([0.2, 0.8])
    mixture = [0.75 * 0.9 + 0.25 * 0.2, 0.75 * 0.1 + 0.25 * 0.8]
    wanted = 0.25 * relative_entropy([0.2, 0.8], mixture) + 0.75 * relative_entropy([0.9, 0.1], mixture)
    assert token_divergence(student, teacher, alpha=0.25, top_k=None).item() == pytest.approx(wanted)


@pytest.mark.parametrize(("alpha", "bound"), [(0.5, math.log(2)), (0.1, 0.3250829733914482)])
def test_disjoint_supports_reach_the_binary_entropy_of_alpha(alpha: float, bound: float) -> None:
    student, teacher = of_probabilities([1, 0]), of_probabilities([0, 1])
    assert token_divergence(student, teacher, alpha=alpha, top_k=None).item() == pytest.approx(bound)


def test_half_is_symmetric() -> None:
    student, teacher = one([0.3, 2.0, -1.0]), one([1.0, 0.0, 0.5])
    there = token_divergence(student, teacher, alpha=0.5, top_k=None)
    torch.testing.assert_close(there, token_divergence(teacher, student, alpha=0.5, top_k=None))


@pytest.mark.parametrize(("end", "near"), [(0.0, 1e-6), (1.0, 1 - 1e-6)])
def test_end_points_are_switches_not_limits(end: float, near: float) -> None:
    student, teacher = one([0.0, 2.0, -1.0]), one([1.0, 0.0, 0.5])
    assert token_divergence(student, teacher, alpha=near, top_k=None).item() < 1e-5
    assert token_divergence(student, teacher, alpha=end, top_k=None).item() > 0.5


def test_equal_distributions_give_zero_and_no_gradient() -> None:
    logits = one([0.0, 2.0, -1.0, 0.5]).requires_grad_()
    value = token_divergence(logits, logits, alpha=0.5, top_k=2)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert value.item() == pytest.approx(0, abs=1e-15)
    assert gradient.abs().max() < 1e-15


def test_support_is_the_students_top_k_not_the_teachers() -> None:
    student, teacher = of_probabilities([0.6, 0.3, 0.06, 0.04]), of_probabilities([0.04, 0.06, 0.3, 0.6])
    wanted = relative_entropy([0.6, 0.3, 0.1], [0.04, 0.06, 0.9])
    assert token_divergence(student, teacher, alpha=1.0, top_k=2, tail=True).item() == pytest.approx(wanted)
    renormalised = relative_entropy([2 / 3, 1 / 3], [0.4, 0.6])
    assert token_divergence(student, teacher, alpha=1.0, top_k=2, tail=False).item() == pytest.approx(renormalised)


def test_top_100_with_tail_is_close_to_and_below_the_whole_vocabulary() -> None:
    generator = torch.Generator().manual_seed(0)
    student = 4 * torch.randn(1, 20, 5000, generator=generator)
    teacher = student + 0.3 * torch.randn(1, 20, 5000, generator=generator)
    whole = token_divergence(student, teacher, top_k=None)
    coarse = token_divergence(student, teacher, top_k=100, tail=True)
    assert (coarse <= whole + 1e-6).all()
    assert coarse.mean().item() == pytest.approx(whole.mean().item(), rel=0.1)


def test_open_tail_passes_gradient_to_ids_outside_the_top_k() -> None:
    student, teacher = one([2.0, 1.0, 0.0]).requires_grad_(), one([0.0, 1.0, 2.0])
    (gradient,) = torch.autograd.grad(token_divergence(student, teacher, top_k=2, tail=True).sum(), student)
    assert gradient[0, 0, 2].abs() > 1e-2
    (cut,) = torch.autograd.grad(token_divergence(student, teacher, top_k=2, tail=False).sum(), student)
    assert cut[0, 0, 2] == 0


@pytest.mark.parametrize("top_k", [None, 3, 4])
@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_suppressed_ids_have_neither_value_nor_gradient(alpha: float, top_k: int | None, tail: bool) -> None:
    student = one([1.0, -INF, 0.0, -INF]).float().requires_grad_()
    teacher = one([0.0, -INF, 1.0, -INF]).float()
    value = token_divergence(student, teacher, alpha=alpha, top_k=top_k, tail=tail)
    (gradient,) = torch.autograd.grad(value.sum(), student)
    without = token_divergence(one([1.0, 0.0]), one([0.0, 1.0]), alpha=alpha, top_k=None)
    assert value.item() == pytest.approx(without.item(), abs=1e-6)
    assert gradient[0, 0, 1] == gradient[0, 0, 3] == 0
    assert torch.isfinite(gradient).all()


def test_suppressed_in_the_student_alone_stays_finite_under_the_mixture() -> None:
    student = one([1.0, -INF, 0.0]).requires_grad_()
    value = token_divergence(student, one([0.0, 1.0, 1.0]), alpha=0.5, top_k=None)
    (gradient,) = torch.autograd.grad(value.sum(), student)
    assert torch.isfinite(value).all()
    assert torch.isfinite(gradient).all()
    assert gradient[0, 0, 1] == 0


@pytest.mark.parametrize(("alpha", "missing"), [(0.0, "student"), (1.0, "teacher")])
def test_an_infinite_divergence_is_reported_as_infinite(alpha: float, missing: str) -> None:
    lacking, full = one([1.0, -INF]), one([0.0, 1.0])
    pair = (lacking, full) if missing == "student" else (full, lacking)
    assert token_divergence(*pair, alpha=alpha, top_k=None).item() == INF


@pytest.mark.parametrize(("top_k", "tail"), [(None, True), (3, True), (3, False)])
def test_forward_gradient_stays_zero_where_the_student_is_suppressed(top_k: int | None, tail: bool) -> None:
    student = one([1.0, -INF, 0.0]).requires_grad_()
    value = token_divergence(student, one([0.0, 1.0, 1.0]), alpha=0.0, top_k=top_k, tail=tail)
    (gradient,) = torch.autograd.grad(value.sum(), student)
    assert gradient[0, 0, 1] == 0
    assert torch.isfinite(gradient).all()


def test_nan_inside_the_mask_is_not_hidden() -> None:
    assert torch.isnan(token_divergence(one([NAN, 1.0]), one([0.0, 1.0]), top_k=1)).all()


def test_large_logits_keep_the_tail_in_fp32() -> None:
    gap = math.log(1e-6)
    student, teacher = one([30.0, 30.0 + gap]), one([30.0 + gap, 30.0])
    exact = token_divergence(student, teacher, top_k=1)
    rough = token_divergence(student.float(), teacher.float(), top_k=1)
    assert rough.item() == pytest.approx(exact.item(), rel=1e-6)


def test_teacher_gets_no_gradient_and_a_slice_needs_no_copy() -> None:
    storage = torch.randn(2, 5, 9, requires_grad=True)
    teacher = torch.randn(2, 4, 9, requires_grad=True)
    torch.autograd.backward(token_divergence(storage[:, 1:], teacher, top_k=4).sum())
    assert teacher.grad is None
    assert storage.grad is not None
    assert storage.grad[:, 0].abs().sum() == 0
    assert (storage.grad[:, 1:].abs().sum(-1) > 0).all()


def test_nothing_unmasked_gives_zeros_and_a_zero_gradient() -> None:
    student = torch.full((1, 2, 3), NAN, requires_grad=True)
    value = token_divergence(student, student.detach(), top_k=2, token_mask=torch.zeros(1, 2))
    (gradient,) = torch.autograd.grad(value.sum(), student)
    assert value.tolist() == [[0.0, 0.0]]
    assert gradient.abs().sum() == 0
