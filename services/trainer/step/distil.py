"""The output layer and the divergence together, chunk by chunk: logits of a whole batch never exist.

What always holds:
- of anything over the vocabulary only one chunk exists at a time, so memory grows with vocabulary or with tokens,
  never with their product;
- a chunk's gradient is taken down to the student's hidden states while its logits are there, and the backward pass
  only scales it;
- where the output layer is trained, too, its own gradient needs the logits once more, in the backward pass;
- sums run in a fixed order, so the same batch gives the same bits.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from services.trainer.step.divergence import DivergenceRule, chunk_rows, divergence_with_gradient
from services.trainer.step.trees import Places


@dataclass(frozen=True)
class OutputLayer:
    """A model's last layer, weight [V, H], and the temperature that divides its logits."""

    weight: Tensor
    bias: Tensor | None
    temperature: float

    def logits(self, hidden: Tensor) -> Tensor:
        """[N, H] to [N, V]."""
        logits = torch.nn.functional.linear(hidden, self.weight, self.bias)
        return logits if self.temperature == 1.0 else logits / self.temperature

    def to_hidden(self, gradient: Tensor) -> Tensor:
        """A derivative in the logits [N, V] as one in the hidden states [N, H], in the weight's type."""
        pulled = gradient.to(self.weight.dtype) @ self.weight
        return pulled if self.temperature == 1.0 else pulled / self.temperature


def distil(
    student_hidden: Tensor,
    teacher_hidden: Tensor,
    output: OutputLayer,
    taught: OutputLayer,
    places: Places,
    rule: DivergenceRule,
) -> tuple[Tensor, Tensor]:
    """Divergence of every pair of places [P], and the student's log-prob of every sampled token [R, T].

    Hidden states [P_s, H] and [P_q, H] at `places.student` and `places.teacher`, with the output layer of each. Both
    results are fp32 (float64 where the hidden states are); only the first has a gradient, in the student's hidden
    states and, where they take one, in the weights of `output`. Log-probs are 0 where padded. Values are those of
    `divergence_with_gradient` on the logits.
    """
    divergence, logprobs = _Distil.apply(  # type: ignore[no-untyped-call]
        student_hidden, output.weight, output.bias, output.temperature, teacher_hidden, taught, places, rule
    )
    return divergence, logprobs


def sampled_logprobs(hidden: Tensor, output: OutputLayer, places: Places) -> Tensor:
    """The student's log-prob of every sampled token [R, T] in fp32 from its hidden states [P_s, H]; 0 where padded.

    With a gradient, a chunk's logits are made again in the backward pass.
    """
    tokens = torch.nonzero(places.mask)
    rows = chunk_rows(len(output.weight), hidden.device)
    chosen = [
        checkpoint(
            _chosen, hidden, output, places.student_index[row, column], places.targets[row, column], use_reentrant=False
        )
        for row, column in (part.unbind(1) for part in torch.split(tokens, rows))
    ]
    logprobs_N = torch.cat(chosen)
    empty = torch.zeros(places.mask.shape, dtype=logprobs_N.dtype, device=hidden.device)
    return empty.masked_scatter(places.mask, logprobs_N)


def _chosen(hidden: Tensor, output: OutputLayer, at: Tensor, targets: Tensor) -> Tensor:
    distinct, which = torch.unique(at, return_inverse=True)
    logits = output.logits(hidden[distinct]).to(torch.promote_types(hidden.dtype, torch.float32))
    return logits[which, targets] - logits.logsumexp(1)[which]


@dataclass(frozen=True)
class _Chunk:
    """Some pairs of places [N] (`part` of all): logits of the student's distinct ones, and which one a pair has."""

    part: slice
    logits: Tensor
    which: Tensor
    divergence: Tensor
    gradient: Tensor


class _Distil(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        temperature: float,
        teacher: Tensor,
        taught: OutputLayer,
        places: Places,
        rule: DivergenceRule,
    ) -> tuple[Tensor, Tensor]:
        output = OutputLayer(weight, bias, temperature)
        dtype = torch.promote_types(student.dtype, torch.float32)
        divergence = torch.empty(len(places.pairs), dtype=dtype, device=student.device)
        slope = torch.empty((len(places.pairs), student.shape[1]), dtype=dtype, device=student.device)
        logprobs = torch.zeros(places.mask.shape, dtype=dtype, device=student.device)
        for chunk in _chunks(student, teacher, output, taught, places, rule):
            divergence[chunk.part] = chunk.divergence
            slope[chunk.part] = output.to_hidden(chunk.gradient)
            first, last = chunk.part.start, chunk.part.stop
            inside = places.mask & (places.pair_index >= first) & (places.pair_index < last)
            at, logits = chunk.which[places.pair_index[inside] - first], chunk.logits
            logprobs[inside] = logits[at, places.targets[inside]].to(dtype) - logits.to(dtype).logsumexp(1)[at]
        ctx.dtype = student.dtype
        ctx.others = (temperature, taught, places, rule)
        ctx.save_for_backward(slope, student, weight, bias, teacher)
        ctx.mark_non_differentiable(logprobs)
        return divergence, logprobs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        slope, student, weight, bias, teacher = ctx.saved_tensors
        temperature, taught, places, rule = ctx.others
        scaled = slope * upstream.unsqueeze(1)
        # Not index_add, whose sums run in no fixed order on a GPU: pairs are sorted, so each place is one segment.
        lengths = torch.bincount(places.pairs[:, 0], minlength=len(student))
        hidden = torch.segment_reduce(scaled, "sum", lengths=lengths).to(ctx.dtype)
        of_weight = of_bias = None
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            output = OutputLayer(weight, bias, temperature)
            chunks = _chunks(student, teacher, output, taught, places, rule)
            of_weight, of_bias = _gradient_of_layer(chunks, student, output, places, upstream)
        return hidden, of_weight, of_bias, None, None, None, None, None


def _chunks(
    student: Tensor, teacher: Tensor, output: OutputLayer, taught: OutputLayer, places: Places, rule: DivergenceRule
) -> Iterator[_Chunk]:
    """All pairs in their order. Those which share the student's place follow each other, and share its logits."""
    rows = chunk_rows(len(output.weight), student.device, rule.chunk_elements)
    for first in range(0, len(places.pairs), rows):
        part = slice(first, first + rows)
        of_student, of_teacher = places.pairs[part].unbind(1)
        # Consecutive is enough and keeps the order: `places_of` sorts pairs by the student's place.
        distinct, which = torch.unique_consecutive(of_student, return_inverse=True)
        logits = output.logits(student[distinct])
        divergence, gradient = divergence_with_gradient(logits[which], taught.logits(teacher[of_teacher]), rule)
        yield _Chunk(part, logits, which, divergence, gradient)


def _gradient_of_layer(
    chunks: Iterable[_Chunk], student: Tensor, output: OutputLayer, places: Places, upstream: Tensor
) -> tuple[Tensor, Tensor | None]:
    """In weight [V, H] and bias [V] of the student's output layer, summed over chunks in fp32 or better."""
    # In fp32 though the weight may be bf16: summed over many chunks, the small ones would be lost.
    weight = torch.zeros(output.weight.shape, dtype=upstream.dtype, device=upstream.device)
    bias = None if output.bias is None else torch.zeros(len(weight), dtype=upstream.dtype, device=upstream.device)
    for chunk in chunks:
        of_logits = chunk.gradient * (upstream[chunk.part].unsqueeze(1) / output.temperature)
        hidden = student[places.pairs[chunk.part, 0]]
        weight += of_logits.to(hidden.dtype).T @ hidden
        if bias is not None:
            bias += of_logits.sum(0)
    return weight, bias
