"""The chunked output layer: the same values and gradients as whole logits, and never more than a chunk of them."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from services.trainer.step.distil import OutputLayer, distil
from services.trainer.step.divergence import DivergenceRule, chunk_rows
from services.trainer.step.trees import Places, pack_rows, places_of
from tests.fakes.loss import token_divergence
from tests.unit.trainer.ground import rows

torch.set_num_threads(1)

HIDDEN, VOCABULARY = 6, 40


def layer(dtype: torch.dtype, temperature: float = 1.0) -> OutputLayer:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(VOCABULARY, HIDDEN, generator=generator, dtype=torch.float64)
    return OutputLayer(weight.to(dtype), None, temperature)


def ground(dtype: torch.dtype) -> tuple[Places, Tensor, Tensor]:
    """Rows that share prefixes, so that one student's place stands against several of the teacher's."""
    made = [row for row in rows(groups=3, samples=5) if row.active]
    places = places_of(pack_rows(made), torch.device("cpu"))
    places.targets.remainder_(VOCABULARY)
    assert len(places.pairs) > len(places.student)
    generator = torch.Generator().manual_seed(2)
    student = torch.randn(len(places.student), HIDDEN, generator=generator, dtype=torch.float64).to(dtype)
    teacher = torch.randn(len(places.teacher), HIDDEN, generator=generator, dtype=torch.float64).to(dtype)
    return places, student.requires_grad_(), teacher


def rule(top_k: int | None = 7, tail: bool = True, rows_at_once: int = 5) -> DivergenceRule:
    return DivergenceRule(alpha=0.5, top_k=top_k, tail=tail, chunk_elements=rows_at_once * VOCABULARY)


def upstream(places: Places) -> Tensor:
    return torch.linspace(-1, 2, len(places.pairs), dtype=torch.float64)


@pytest.mark.parametrize(("top_k", "tail"), [(7, True), (7, False), (None, True)])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("rows_at_once", [1, 5, 1000])
def test_values_and_gradient_are_those_of_whole_logits(
    top_k: int | None, tail: bool, temperature: float, rows_at_once: int
) -> None:
    output, (places, student, teacher) = layer(torch.float64, temperature), ground(torch.float64)
    own, taught = student @ output.weight.T / temperature, teacher @ output.weight.T / temperature
    of_student, of_teacher = places.pairs.unbind(1)
    wanted = token_divergence(own[of_student][None], taught[of_teacher][None], top_k=top_k, tail=tail)[0]
    (slope,) = torch.autograd.grad(wanted, student, upstream(places))
    chosen = own.log_softmax(1)[places.student_index, places.targets].where(places.mask, torch.zeros(()))

    value, logprobs = distil(student, teacher, output, output, places, rule(top_k, tail, rows_at_once))
    (gradient,) = torch.autograd.grad(value, student, upstream(places))
    torch.testing.assert_close(value, wanted, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradient, slope, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(logprobs, chosen.detach(), rtol=1e-12, atol=1e-14)
    assert not logprobs.requires_grad


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("rows_at_once", [1, 5, 1000])
def test_a_trained_output_layer_has_the_gradient_of_whole_logits(temperature: float, rows_at_once: int) -> None:
    frozen, (places, student, teacher) = layer(torch.float64, temperature), ground(torch.float64)
    bias = torch.linspace(-1, 1, VOCABULARY, dtype=torch.float64)
    output = OutputLayer(frozen.weight.clone().requires_grad_(), bias.requires_grad_(), temperature)
    own, taught = output.logits(student), frozen.logits(teacher)
    of_student, of_teacher = places.pairs.unbind(1)
    wanted = token_divergence(own[of_student][None], taught[of_teacher][None], top_k=7)[0]
    value, _ = distil(student, teacher, output, frozen, places, rule(rows_at_once=rows_at_once))
    torch.testing.assert_close(value, wanted, rtol=1e-12, atol=1e-14)
    trained = (student, output.weight, bias)
    for found, slope in zip(
        torch.autograd.grad(value, trained, upstream(places)),
        torch.autograd.grad(wanted, trained, upstream(places)),
        strict=True,
    ):
        torch.testing.assert_close(found, slope, rtol=1e-10, atol=1e-12)


def test_bf16_hidden_states_differ_by_rounding_only() -> None:
    places, student, teacher = ground(torch.bfloat16)
    value, logprobs = distil(student, teacher, layer(torch.bfloat16), layer(torch.bfloat16), places, rule())
    (gradient,) = torch.autograd.grad(value, student, upstream(places).float())
    exactly = student.detach().double().requires_grad_()
    output = OutputLayer(layer(torch.bfloat16).weight.double(), None, 1.0)
    wanted, chosen = distil(exactly, teacher.double(), output, output, places, rule())
    (slope,) = torch.autograd.grad(wanted, exactly, upstream(places))
    assert (value.dtype, logprobs.dtype, gradient.dtype) == (torch.float32, torch.float32, torch.bfloat16)
    torch.testing.assert_close(value.double(), wanted, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(logprobs.double(), chosen, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(gradient.double(), slope, rtol=5e-2, atol=5e-2)


def test_the_same_input_gives_the_same_bits() -> None:
    places, student, teacher = ground(torch.float32)
    seen = []
    for _ in range(2):
        value, logprobs = distil(student, teacher, layer(torch.float32), layer(torch.float32), places, rule())
        (gradient,) = torch.autograd.grad(value, student, upstream(places).float())
        seen.append((value.detach(), logprobs, gradient))
    assert all(torch.equal(left, right) for left, right in zip(*seen, strict=True))


class Largest(TorchDispatchMode):
    """The most rows over the vocabulary that any one operation made; views of the weight are none."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.rows = 0
        self._weight = weight.untyped_storage().data_ptr()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, tuple | list) else (result,):
            if isinstance(made, Tensor) and made.shape[-1:] == (VOCABULARY,):
                owned = made.untyped_storage().data_ptr() != self._weight
                self.rows = max(self.rows, owned * made.numel() // VOCABULARY)
        return result


@pytest.mark.parametrize("rows_at_once", [1, 4])
def test_no_operation_makes_more_than_a_chunk_of_logits(rows_at_once: int) -> None:
    places, student, teacher = ground(torch.float32)
    output = layer(torch.float32)
    with Largest(output.weight) as seen:
        value, _ = distil(student, teacher, output, output, places, rule(rows_at_once=rows_at_once))
        value.backward(upstream(places).float())
    assert seen.rows == rows_at_once


@pytest.mark.parametrize(
    ("device", "elements", "rows"),
    [("cpu", None, 27), ("cuda", None, 512), ("cpu", 1_000_000, 6), ("cuda", 1_000_000, 6), ("cpu", 1, 1)],
)
def test_a_chunk_suits_its_device(device: str, elements: int | None, rows: int) -> None:
    assert chunk_rows(151_936, torch.device(device), elements) == rows


def test_a_nan_in_the_student_reaches_log_probs_and_value() -> None:
    places, student, teacher = ground(torch.float32)
    with torch.no_grad():
        student[places.student_index[0, 0]] = float("nan")
    value, logprobs = distil(student, teacher, layer(torch.float32), layer(torch.float32), places, rule())
    assert bool(torch.isnan(logprobs[0, 0]))
    assert bool(torch.isnan(value[places.pair_index[0, 0]]))
    assert bool(torch.isfinite(value).any())
