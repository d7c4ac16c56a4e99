"""The divergence between student and self-teacher at every token, with its gradient written out by hand.

Owns the arithmetic over the vocabulary: the support (whole vocabulary, or the student's top-k with or without
a tail bucket), the three divergences, and the derivative with respect to the student's logits.

What always holds:
- arithmetic is fp32 whatever the logits are (float64 for float64 logits): on bf16 log-probs the top-k of more
  than half of the tokens would hold more than all of the mass;
- 0 ln 0 = 0, and a student logit of -inf gets a zero gradient;
- the teacher gets no gradient.

The gradient is by hand because automatic differentiation keeps several fp32 copies of [B, T, V] alive, and
because its where/log/exp chains turn -inf logits into NaN gradients.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Entries of one whole-vocabulary scratch tensor: 16 MiB in fp32, 27 tokens at V = 152k. Larger is slower on a CPU.
CHUNK_ELEMENTS = 1 << 22
# Tokens of one on a GPU: each chunk reads the whole output layer, and 27 tokens are over before that is. 512 are 0.3 GB
# in fp32 at V = 152k.
GPU_CHUNK_ROWS = 512
# The captured log-mass is cut here, which floors the tail at 1e-7; an active cut passes no gradient.
LOG_CAPTURED_MAX = -1e-7


def chunk_rows(vocabulary: int, device: torch.device, elements: int | None = None) -> int:
    """Tokens that may exist over the whole vocabulary at once, one at least. elements: in place of the device's own."""
    if elements is None and device.type != "cpu":
        return GPU_CHUNK_ROWS
    return max(1, (elements or CHUNK_ELEMENTS) // vocabulary)


@dataclass(frozen=True)
class DivergenceRule:
    """Which divergence D of student S and teacher Q, in nats, over which buckets.

    alpha 0 is KL(Q‖S), alpha 1 is KL(S‖Q), and between them, with M = (1-alpha)·S + alpha·Q,
    D = alpha·KL(Q‖M) + (1-alpha)·KL(S‖M). The end points are switches, not limits: D tends to 0 towards both.

    The buckets are the student's top_k ids, where the teacher is read too, and, with `tail`, one more that
    holds the remaining mass (floored at 1e-7); without `tail` both are renormalised over those ids.
    `top_k=None` takes the whole vocabulary and has no tail. chunk_elements: as in `chunk_rows`.
    """

    alpha: float
    top_k: int | None
    tail: bool
    chunk_elements: int | None = None


def divergence_with_gradient(
    student_logits: Tensor, teacher_logits: Tensor, rule: DivergenceRule
) -> tuple[Tensor, Tensor]:
    """D of each token [N] and ∂D/∂(student's logits) [N, V], in fp32 (float64 for float64 logits).

    Logits [N, V], any float type, already divided by the rollout temperature. A NaN stays NaN. Where the divergence
    is infinite (alpha 0 and S = 0 < Q, or alpha 1 and Q = 0 < S) so is the value, and the step must be skipped.
    Source: paper eq. 1; SDPO core_algos.py::compute_self_distillation_loss.
    """
    dtype = _compute_dtype(student_logits, teacher_logits)
    if rule.top_k is None:
        ids = torch.empty((len(student_logits), 0), dtype=torch.long, device=student_logits.device)
    else:
        ids = student_logits.topk(rule.top_k, sorted=False).indices
    log_q = _buckets(_log_support(teacher_logits, ids, rule, dtype), ids, rule)
    log_p = _log_support(student_logits, ids, rule, dtype)
    log_s = _buckets(log_p, ids, rule)
    slope = _support_slope(log_s, log_q, rule)
    return _divergence(log_s, log_q, rule.alpha), _logit_gradient(slope, log_p, ids, student_logits, rule)


def _compute_dtype(student: Tensor, teacher: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)


def _log_support(logits: Tensor, ids: Tensor, rule: DivergenceRule, dtype: torch.dtype) -> Tensor:
    """Log-probs over what the softmax runs over: [N, V], or [N, K] where the ids alone are renormalised."""
    if rule.top_k is not None and not rule.tail:
        logits = logits.gather(1, ids)
    # log_softmax subtracts the maximum first; a bare logit - logsumexp at logits near 30 is off by 2e-6,
    # twenty times the floor of the tail.
    return torch.log_softmax(logits, dim=-1, dtype=dtype)


def _buckets(log_support: Tensor, ids: Tensor, rule: DivergenceRule) -> Tensor:
    """Log-probs of the buckets, [N, C]: the support itself, or its ids and then the tail."""
    if rule.top_k is None or not rule.tail:
        return log_support
    log_top = log_support.gather(1, ids)
    captured = log_top.logsumexp(1, keepdim=True).clamp(max=LOG_CAPTURED_MAX)
    return torch.cat([log_top, torch.log(-torch.expm1(captured))], dim=1)


def _log_mixture(log_s: Tensor, log_q: Tensor, alpha: float) -> Tensor:
    return torch.logaddexp(log_s + math.log1p(-alpha), log_q + math.log(alpha))


def _times_log_ratio(log_p: Tensor, log_r: Tensor) -> Tensor:
    """p·ln(p/r), 0 where p is 0 whatever r is."""
    p = log_p.exp()
    return torch.where(p == 0, 0.0, p * (log_p - log_r))


def _divergence(log_s: Tensor, log_q: Tensor, alpha: float) -> Tensor:
    """D of each row of buckets, [N]."""
    if alpha == 0.0:
        return _times_log_ratio(log_q, log_s).sum(1)
    if alpha == 1.0:
        return _times_log_ratio(log_s, log_q).sum(1)
    log_m = _log_mixture(log_s, log_q, alpha)
    terms = alpha * _times_log_ratio(log_q, log_m) + (1.0 - alpha) * _times_log_ratio(log_s, log_m)
    return terms.sum(1)


def _bucket_slope(log_s: Tensor, log_q: Tensor, alpha: float) -> Tensor:
    """∂D/∂ln S of each bucket, [N, C], the buckets taken as independent; 0 where S is exactly 0."""
    if alpha == 0.0:
        slope = -log_q.exp()
    elif alpha == 1.0:
        slope = _times_log_ratio(log_s, log_q) + log_s.exp()
    else:
        slope = (1.0 - alpha) * _times_log_ratio(log_s, _log_mixture(log_s, log_q, alpha))
    return slope.masked_fill(log_s == -math.inf, 0.0)


def _support_slope(log_s: Tensor, log_q: Tensor, rule: DivergenceRule) -> Tensor:
    """∂D/∂ln S of the support, [N, V] or [N, K]; what comes through the tail is folded into the ids."""
    slope = _bucket_slope(log_s, log_q, rule.alpha)
    if rule.top_k is None or not rule.tail:
        return slope
    log_top, log_tail = log_s[:, :-1], log_s[:, -1:]
    # ln S_tail = ln(1 - Σ S_c) falls by S_c / S_tail with ln S_c, and by nothing while the clamp holds it.
    clamped = log_top.logsumexp(1, keepdim=True) > LOG_CAPTURED_MAX
    tail_pull = (slope[:, -1:] / log_tail.exp()).masked_fill(clamped, 0.0)
    return slope[:, :-1] - tail_pull * log_top.exp()


def _logit_gradient(slope: Tensor, log_p: Tensor, ids: Tensor, logits: Tensor, rule: DivergenceRule) -> Tensor:
    """∂D/∂z [N, V] from ∂D/∂ln p: slope_v - p_v·Σ slope, the softmax's Jacobian."""
    total = slope.sum(1, keepdim=True)
    if rule.top_k is None:
        return slope - log_p.exp() * total
    if rule.tail:
        spread = log_p.exp().mul_(-total)
        return spread.scatter_(1, ids, spread.gather(1, ids) + slope)
    outside = torch.zeros(logits.shape, dtype=slope.dtype, device=slope.device)
    return outside.scatter_(1, ids, slope - log_p.exp() * total)
