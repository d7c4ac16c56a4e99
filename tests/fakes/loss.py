"""The self-distillation loss on whole logits [B, T, V], as a reader of the paper would write it.

A step never holds such logits: it goes from hidden states through `services/trainer/step/distil.py`. Both are built on
one divergence, so this is what a step's chunks, masks and packing are held against.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from services.trainer.step.divergence import CHUNK_ELEMENTS, DivergenceRule, chunk_rows, divergence_with_gradient
from services.trainer.step.losses import Aggregation, aggregate, effective_mask


def self_distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    token_mask: Tensor,
    sample_mask: Tensor,
    *,
    alpha: float = 0.5,
    top_k: int | None = 100,
    tail: bool = True,
    weights: Tensor | None = None,
    aggregation: Aggregation = "seq_mean",
    denominator: float | None = None,
) -> Tensor:
    """`aggregate` over `token_divergence`, a scalar.

    Shapes: logits [B, T, V]; token_mask and weights [B, T]; sample_mask [B].
    """
    mask = effective_mask(token_mask, sample_mask)
    divergence = token_divergence(student_logits, teacher_logits, alpha=alpha, top_k=top_k, tail=tail, token_mask=mask)
    return aggregate(
        divergence, token_mask, sample_mask, weights=weights, aggregation=aggregation, denominator=denominator
    )


def token_divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    alpha: float = 0.5,
    top_k: int | None = 100,
    tail: bool = True,
    token_mask: Tensor | None = None,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Tensor:
    """D of `DivergenceRule` at every token; differentiable in the student only.

    Shapes: logits [B, T, V], any float type; token_mask [B, T], 0 or 1, None for all ones; result [B, T] in
    fp32 (float64 if the logits are), 0 outside the mask.
    Scratch is cut to chunk_elements entries a tensor, one token at least.
    """
    rule = DivergenceRule(alpha, top_k, tail, chunk_elements)
    if token_mask is None:
        token_mask = torch.ones(student_logits.shape[:2], dtype=torch.bool, device=student_logits.device)
    positions = token_mask.bool().nonzero()
    value: Tensor = _TokenDivergence.apply(student_logits, teacher_logits.detach(), positions, rule)
    return value


class _TokenDivergence(torch.autograd.Function):
    """Value and gradient chunk by chunk in the forward pass; the backward pass only scales the gradient."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, positions: Tensor, rule: DivergenceRule) -> Tensor:
        value = torch.zeros(
            student.shape[:2],
            dtype=torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32),
            device=student.device,
        )
        gradient = torch.zeros(student.shape, dtype=value.dtype, device=student.device)
        for part in torch.split(positions, chunk_rows(student.shape[-1], student.device, rule.chunk_elements)):
            row, column = part.unbind(1)
            value[row, column], gradient[row, column] = divergence_with_gradient(
                student[row, column], teacher[row, column], rule
            )
        ctx.dtype = student.dtype
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * upstream.unsqueeze(-1)).to(ctx.dtype), None, None, None
