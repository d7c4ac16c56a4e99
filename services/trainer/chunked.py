"""The output layer and the divergence together, chunk by chunk: logits of a whole batch never exist.

What always holds:
- of anything over the vocabulary only one chunk exists at a time, so memory grows with vocabulary or with tokens,
  never with their product;
- distilling computes nothing twice: a chunk's gradient is taken down to the student's hidden states while its logits
  are there, and the backward pass only scales it;
- sums run in a fixed order, so the same batch gives the same bits.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from services.trainer.divergence import DivergenceRule, chunk_rows, divergence_with_gradient
from services.trainer.places import Places


@dataclass(frozen=True)
class OutputLayer:
    """A model's frozen last layer, weight [V, H], and the temperature that divides its logits."""

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
    student_hidden: Tensor, teacher_hidden: Tensor, output: OutputLayer, places: Places, rule: DivergenceRule
) -> tuple[Tensor, Tensor]:
    """Divergence of every pair of places [P], and the student's log-prob of every sampled token [R, T].

    Hidden states [P_s, H] and [P_q, H] at `places.student` and `places.teacher`. Both results are fp32 (float64
    where the hidden states are); only the first has a gradient, in the student's hidden states. Log-probs are 0
    where padded. Values are those of `token_divergence` on `output`'s logits.
    """
    divergence, logprobs = _Distil.apply(student_hidden, teacher_hidden, output, places, rule)  # type: ignore[no-untyped-call]
    return divergence, logprobs


def sampled_logprobs(hidden: Tensor, output: OutputLayer, places: Places) -> Tensor:
    """The student's log-prob of every sampled token [R, T] in fp32 from its hidden states [P_s, H]; 0 where padded.

    With a gradient, a chunk's logits are made again in the backward pass.
    """
    tokens = torch.nonzero(places.mask)
    rows = chunk_rows(len(output.weight))
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


class _Distil(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, output: OutputLayer, places: Places, rule: DivergenceRule
    ) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(student.dtype, torch.float32)
        divergence = torch.empty(len(places.pairs), dtype=dtype, device=student.device)
        slope = torch.empty((len(places.pairs), student.shape[1]), dtype=dtype, device=student.device)
        logprobs = torch.zeros(places.mask.shape, dtype=dtype, device=student.device)
        rows = chunk_rows(len(output.weight), rule.chunk_elements)
        for first in range(0, len(places.pairs), rows):
            part = slice(first, first + rows)
            of_student, of_teacher = places.pairs[part].unbind(1)
            # Pairs are sorted by the student's place, so that those which share one share its logits.
            distinct, which = torch.unique_consecutive(of_student, return_inverse=True)
            logits = output.logits(student[distinct])
            divergence[part], gradient = divergence_with_gradient(
                logits[which], output.logits(teacher[of_teacher]), rule
            )
            slope[part] = output.to_hidden(gradient)
            inside = places.mask & (places.pair_index >= first) & (places.pair_index < first + rows)
            at = which[places.pair_index[inside] - first]
            logprobs[inside] = logits[at, places.targets[inside]].to(dtype) - logits.to(dtype).logsumexp(1)[at]
        ctx.dtype = student.dtype
        ctx.save_for_backward(slope, torch.bincount(places.pairs[:, 0], minlength=len(student)))
        ctx.mark_non_differentiable(logprobs)
        return divergence, logprobs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor, None, None, None, None]:
        slope, pairs_of_place = ctx.saved_tensors
        scaled = slope * upstream.unsqueeze(1)
        return torch.segment_reduce(scaled, "sum", lengths=pairs_of_place).to(ctx.dtype), None, None, None, None
