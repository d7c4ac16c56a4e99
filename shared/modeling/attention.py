"""Attention for CPUs: query heads that share a key head are computed together, as plain matrix products.

Torch's fused attention is the slow part of a small model on a CPU (for one query a sequence, and backwards in
bf16); this is the same function of the same inputs for models without sliding windows, soft caps or sinks.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

GROUPED = "opcod_grouped"
PLAIN_MODEL_TYPES = frozenset({"llama", "qwen2", "qwen3", "smollm3"})


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    spans: Sequence[tuple[int, int]] = (),
    **_unused: object,
) -> tuple[Tensor, None]:
    """Attend from `query` [B, H, T, D] to `key` and `value` [B, K, L, D], K a divisor of H; return [B, T, H, D].

    `attention_mask` [B, 1, T, L] is added to the scores; the softmax is in fp32. It must be given for T > 1.
    spans: how many sequences, one lot after the other, need how many of the L columns; no more of them is looked at.
    """
    if len(spans) > 1:
        return torch.cat(_by_span(module, query, key, value, attention_mask, scaling, dropout, spans)), None
    if attention_mask is None and query.shape[2] > 1:
        raise ValueError("grouped attention needs a mask for more than one query a sequence")
    batch, heads, queries, width = query.shape
    shared, length = key.shape[1], key.shape[2]
    # The queries of all heads that share a key head, one below the other: more rows of one product.
    stacked = (query * scaling).reshape(batch, shared, -1, width)
    scores = (stacked @ key.transpose(2, 3)).view(batch, heads, queries, length)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    if dropout:
        weights = nn.functional.dropout(weights, dropout, module.training)
    mixed = weights.view(batch, shared, -1, length) @ value
    return mixed.view(batch, heads, queries, width).transpose(1, 2).contiguous(), None


def _by_span(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float,
    spans: Sequence[tuple[int, int]],
) -> list[Tensor]:
    found, first = [], 0
    for count, columns in spans:
        lot = slice(first, first + count)
        mask = None if attention_mask is None else attention_mask[lot, :, :, :columns]
        keys, values = key[lot, :, :columns], value[lot, :, :columns]
        found.append(grouped_attention(module, query[lot], keys, values, mask, scaling, dropout)[0])
        first += count
    return found


# Importing this module makes it known to transformers by its name, with masks that are added to the scores.
AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, eager_mask)
