"""The self-distillation loss and its gradient in Python floats, written from the method's formulas alone.

Slow and plain on purpose: no tensors and no automatic differentiation, so that it shares nothing with what it
checks. Buckets, divergences and slopes are those of one token; `whole_loss` puts them together.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

INF = math.inf
CAPTURED_MAX = -1e-7
LOG_RATIO_MAX = 20.0

Logits = Sequence[float]


def softmax(logits: Logits) -> list[float]:
    highest = max(logits)
    powers = [math.exp(z - highest) for z in logits]
    return [power / math.fsum(powers) for power in powers]


def relative_entropy(p: Sequence[float], r: Sequence[float]) -> float:
    """KL(p‖r), 0 ln 0 = 0."""
    total = 0.0
    for a, b in zip(p, r, strict=True):
        if a > 0:
            total += INF if b == 0 else a * math.log(a / b)
    return total


def top_ids(logits: Logits, k: int | None) -> list[int] | None:
    return None if k is None else sorted(range(len(logits)), key=lambda i: -logits[i])[:k]


def buckets(logits: Logits, ids: list[int] | None, tail: bool) -> list[float]:
    """The distribution that is compared: the whole vocabulary, the ids with a tail, or the ids renormalised."""
    if ids is None:
        return softmax(logits)
    if not tail:
        return softmax([logits[i] for i in ids])
    whole = softmax(logits)
    # Summed up, not what is left of 1: of a thin tail that is rounding, which differences would make a slope of.
    rest = math.fsum(whole[i] for i in range(len(whole)) if i not in ids)
    return [*(whole[i] for i in ids), max(rest, -math.expm1(CAPTURED_MAX))]


def resolvable_in_fp32(tokens: Iterable[Logits], alpha: float, top_k: int | None, tail: bool) -> bool:
    """Not a bare KL over a tail too thin for fp32: 1 - Σ is good to 6e-8, and a KL divides by it."""
    if top_k is None or not tail or 0 < alpha < 1:
        return True
    return all(buckets(logits, top_ids(logits, top_k), True)[-1] > 1e-3 for logits in tokens)


def divergence(student: Logits, teacher: Logits, alpha: float, ids: list[int] | None, tail: bool) -> float:
    s, q = buckets(student, ids, tail), buckets(teacher, ids, tail)
    if alpha == 0:
        return relative_entropy(q, s)
    if alpha == 1:
        return relative_entropy(s, q)
    m = mixture(s, q, alpha)
    return alpha * relative_entropy(q, m) + (1 - alpha) * relative_entropy(s, m)


def mixture(s: Sequence[float], q: Sequence[float], alpha: float) -> list[float]:
    return [(1 - alpha) * a + alpha * b for a, b in zip(s, q, strict=True)]


def differences(
    student: Logits, teacher: Logits, alpha: float, ids: list[int] | None, tail: bool, step: float = 1e-5
) -> list[float]:
    """∂D/∂z by central differences, the ids held; 0 at -inf."""
    slopes = []
    for v, logit in enumerate(student):
        if logit == -INF:
            slopes.append(0.0)
            continue
        up, down = list(student), list(student)
        up[v], down[v] = logit + step, logit - step
        difference = divergence(up, teacher, alpha, ids, tail) - divergence(down, teacher, alpha, ids, tail)
        slopes.append(difference / (2 * step))
    return slopes


def slope(student: Logits, teacher: Logits, alpha: float, ids: list[int] | None, tail: bool) -> list[float]:
    """∂D/∂z by the chain rule: dD/dz_v = Σ_c g_c · dS_c/dz_v with g_c = ∂D/∂S_c, bucket by bucket."""
    s, q = buckets(student, ids, tail), buckets(teacher, ids, tail)
    g = [_bucket_slope(a, b, alpha) for a, b in zip(s, q, strict=True)]
    if ids is None or not tail:
        kept = list(range(len(student))) if ids is None else ids
        mean = math.fsum(a * b for a, b in zip(g, s, strict=True))
        inside = {v: s[c] * (g[c] - mean) for c, v in enumerate(kept)}
        return [inside.get(v, 0.0) for v in range(len(student))]
    p = softmax(student)
    top = [p[i] for i in ids]
    # A floored tail is a constant: it moves with no logit.
    open_tail = math.log(math.fsum(top)) < CAPTURED_MAX
    outside = g[-1] if open_tail else 0.0
    bucket_of = {v: g[c] for c, v in enumerate(ids)}
    rest = 1 - math.fsum(top) if open_tail else 0.0
    mean = math.fsum([*(a * b for a, b in zip(g, top, strict=False)), outside * rest])
    return [p[v] * (bucket_of.get(v, outside) - mean) for v in range(len(student))]


def _bucket_slope(s: float, q: float, alpha: float) -> float:
    """∂D/∂S_c up to a constant over the buckets that hold mass; 0 where S_c is 0."""
    if s == 0:
        return 0.0
    if alpha == 0:
        return -q / s
    if alpha == 1:
        return math.log(s / q) + 1 if q > 0 else INF
    return (1 - alpha) * math.log(s / ((1 - alpha) * s + alpha * q))


@dataclass(frozen=True)
class Batch:
    """One row a sample; logits [B][T][V], log-probs and token_mask [B][T], sample_mask [B]."""

    student: list[list[list[float]]]
    teacher: list[list[list[float]]]
    trainer_logprobs: list[list[float]]
    rollout_logprobs: list[list[float]]
    token_mask: list[list[int]]
    sample_mask: list[int]


@dataclass(frozen=True)
class Choice:
    """The settings of the loss; top_k None is the whole vocabulary."""

    alpha: float
    top_k: int | None
    tail: bool
    aggregation: str
    clip: float


def coefficients(batch: Batch, choice: Choice) -> list[list[float]]:
    """What each token's divergence is multiplied by in the loss: mask, weight and both normalisations."""
    mask = [[t * s for t in row] for row, s in zip(batch.token_mask, batch.sample_mask, strict=True)]
    whole = {
        "seq_mean": len(mask),
        "seq_mean_active": sum(any(row) for row in mask),
        "token_mean": sum(map(sum, mask)),
    }[choice.aggregation]
    rows = []
    for j, row in enumerate(mask):
        own = 1 if choice.aggregation == "token_mean" else max(1, sum(row))
        rows.append([_weight(batch, choice, j, t) / (own * max(1, whole)) if m else 0.0 for t, m in enumerate(row)])
    return rows


def _weight(batch: Batch, choice: Choice, j: int, t: int) -> float:
    ratio = batch.trainer_logprobs[j][t] - batch.rollout_logprobs[j][t]
    return min(choice.clip, math.exp(max(-LOG_RATIO_MAX, min(LOG_RATIO_MAX, ratio))))


def whole_loss(batch: Batch, choice: Choice) -> tuple[float, list[list[list[float]]]]:
    """The loss, and its derivative in every student logit."""
    factors = coefficients(batch, choice)
    total, gradient = [], []
    for j, row in enumerate(batch.student):
        gradient.append([[0.0] * len(z) for z in row])
        for t, student in enumerate(row):
            if factors[j][t] == 0:
                continue
            teacher, ids = batch.teacher[j][t], top_ids(student, choice.top_k)
            total.append(factors[j][t] * divergence(student, teacher, choice.alpha, ids, choice.tail))
            own = slope(student, teacher, choice.alpha, ids, choice.tail)
            gradient[j][t] = [factors[j][t] * value for value in own]
    return math.fsum(total), gradient
