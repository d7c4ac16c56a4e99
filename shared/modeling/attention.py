"""Which models attend to whole rows, and attention for CPUs: query heads that share a key head are computed together,
as plain matrix products.

Torch's fused attention is the slow part of a small model on a CPU (for one query a sequence, and backwards in
bf16); this is the same function of the same inputs for models without sliding windows, soft caps or sinks.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from shared.errors import ModelError
from shared.modeling.rotary import WITH_LENGTH, unchanged_tokens

GROUPED = "opcod_grouped"
PLAIN_MODEL_TYPES = frozenset({"llama", "qwen2", "qwen3", "smollm3"})
_ANY_LENGTH = 2**31


def require_plain(config: Any) -> None:
    """Refuse a model that the transformers engine would compute otherwise than its authors meant: there every layer
    sees the whole row, and rows of all lengths share a step. Raises ModelError.
    """
    context = getattr(config, "max_position_embeddings", 0)
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if config.model_type not in PLAIN_MODEL_TYPES:
        reason = f"runs models of type {', '.join(sorted(PLAIN_MODEL_TYPES))}, got {config.model_type}"
    elif kinds and not (kinds == {"sliding_attention"} and window is not None and context <= window):
        seen = f", which see {window} of {context} tokens" if window else ""
        reason = f"runs layers that see every token before them, got {', '.join(sorted(kinds))}{seen}"
    elif (same := same_angles_tokens(config)) < context:
        reason = f"runs models whose rotary angles stay the same at every length, here they change at {same} tokens"
    else:
        return
    raise ModelError(f"the transformers engine {reason}: serve this model with another engine")


def same_angles_tokens(config: Any) -> int:
    """Up to how many tokens a token's rotary angle depends on its position alone. Where it changes with the longest
    sequence of a pass, a long row would change a short one beside it."""
    names = ("rope_parameters", "max_position_embeddings")
    found = unchanged_tokens({name: getattr(config, name, None) for name in names}, WITH_LENGTH)
    return _ANY_LENGTH if found is None else found


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
