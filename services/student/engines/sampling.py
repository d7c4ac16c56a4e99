"""Drawing tokens from logits, one uniform number a draw.

A draw depends on its own row of logits, its settings and its number alone, never on the other rows.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

_BLOCK = 256
"""The vocabulary is searched in two levels, blocks and inside one: a full cumulative sum costs more."""

_NUCLEUS_GUESSES = (32, 1024)
"""How many top tokens to try before a whole row is sorted, which is 40 times slower."""


def distribution(logits_RV: Tensor, temperatures: Sequence[float], top_ps: Sequence[float]) -> Tensor:
    """Return the probabilities [R, V], fp32, that tokens are drawn from; temperature 0 counts as 1."""
    scaled_RV = logits_RV.float()
    if any(temperature not in (0.0, 1.0) for temperature in temperatures):
        scaled_RV = scaled_RV / torch.tensor([[t or 1.0] for t in temperatures], device=scaled_RV.device)
    probabilities_RV = scaled_RV.softmax(-1)
    cut = [row for row, top_p in enumerate(top_ps) if top_p < 1.0 and temperatures[row] > 0]
    if not cut:
        return probabilities_RV
    limits_R1 = torch.tensor([[top_p] for top_p in top_ps], device=scaled_RV.device)
    # Only the rows that are cut are sorted and rescaled, so a neighbour's top-p never touches another row's numbers.
    if len(cut) == len(top_ps):
        return _nucleus(probabilities_RV, limits_R1)
    probabilities_RV[cut] = _nucleus(probabilities_RV[cut], limits_R1[cut])
    return probabilities_RV


def draw(probabilities_RV: Tensor, rows: Sequence[int], uniforms: Sequence[float]) -> Tensor:
    """Return the token [N] that each uniform number in [0, 1) picks out of its row, by the inverse of the CDF."""
    blocks_RBW = _blocks(probabilities_RV)
    device = probabilities_RV.device
    rows_N = torch.tensor(rows, device=device)
    target_N = torch.tensor(uniforms, dtype=torch.float64, device=device)
    cumulative_NB = blocks_RBW.sum(-1).cumsum(-1, dtype=torch.float64)[rows_N]
    # The sum of a row is not exactly 1, so the number is scaled to it. Cumulative sums are fp64: over a whole
    # vocabulary fp32 would lose the small masses.
    target_N = target_N * cumulative_NB[:, -1]
    block_N = _first_above(cumulative_NB, target_N)
    before_N = cumulative_NB.gather(1, (block_N - 1).clamp(min=0)[:, None])[:, 0].where(block_N > 0, 0.0)
    inside_NW = blocks_RBW[rows_N, block_N].cumsum(-1, dtype=torch.float64)
    return block_N * _BLOCK + _first_above(inside_NW, target_N - before_N)


def _blocks(probabilities_RV: Tensor) -> Tensor:
    missing = -probabilities_RV.shape[1] % _BLOCK
    whole = pad(probabilities_RV, (0, missing)) if missing else probabilities_RV
    return whole.view(whole.shape[0], -1, _BLOCK)


def _first_above(cumulative_NW: Tensor, target_N: Tensor) -> Tensor:
    """Return the first index whose cumulative sum exceeds the target; rounding never leads to one of mass 0."""
    # `<=` passes over tokens of mass 0, whose sum equals the one before; `last` stops at the last that has mass.
    found_N = (cumulative_NW <= target_N[:, None]).sum(1)
    last_N = (cumulative_NW < cumulative_NW[:, -1:]).sum(1)
    return torch.minimum(found_N, last_N)


def _nucleus(probabilities_RV: Tensor, limits_R1: Tensor) -> Tensor:
    """Keep the most probable tokens up to the one whose sum reaches the limit, and rescale them to 1, in place.

    Tokens as probable as the last one stay too: which of them came first would be chance.
    """
    least_R1 = _least_kept(probabilities_RV, limits_R1)
    kept_RV = probabilities_RV.masked_fill_(probabilities_RV < least_R1, 0.0)
    return kept_RV.div_(kept_RV.sum(-1, keepdim=True))


def _least_kept(probabilities_RV: Tensor, limits_R1: Tensor) -> Tensor:
    """Return the probability [R, 1] of the token with which the sum of the most probable ones reaches the limit."""
    size = probabilities_RV.shape[1]
    least_R1 = torch.zeros_like(limits_R1)
    open_R = torch.arange(len(probabilities_RV), device=probabilities_RV.device)
    for count in (*(guess for guess in _NUCLEUS_GUESSES if guess < size), size):
        # Indexing copies whole vocabularies, and at first all rows are open.
        open_RV = probabilities_RV if len(open_R) == len(probabilities_RV) else probabilities_RV[open_R]
        top_RK = open_RV.topk(count).values
        short_RK = top_RK.cumsum(-1) < limits_R1[open_R]
        # With all tokens tried, rounding may leave the sum short of the limit: then the last one is the place.
        place_R1 = short_RK.sum(-1, keepdim=True).clamp(max=count - 1)
        least_R1[open_R] = top_RK.gather(1, place_R1)
        open_R = open_R[short_RK[:, -1]]
        if not len(open_R):
            break
    return least_R1
