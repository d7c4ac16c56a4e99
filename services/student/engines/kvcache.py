"""The keys and values of a batch of sequences that grow in step, in buffers that are allocated once, or as they fill.

Sequences end at the same column (they are padded on the left), one row each; rows 0 to `rows` are in use. Columns
before `length` hold what the model wrote there for every row in use.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PretrainedConfig

AT_ONCE = 4096
"""Columns that are there from the start. More are made as they are needed, doubling: who asks for all of a long context
mostly does not use it."""


class RowCache:
    """What a transformers model takes for its cache. Keys lie transposed, [N, K, D, L]: scores read them so."""

    def __init__(self, config: PretrainedConfig, rows: int, columns: int, dtype: torch.dtype, device: torch.device):
        heads = config.num_key_value_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        layers = range(config.num_hidden_layers)
        self._most, columns = columns, min(columns, AT_ONCE)
        self._keys = [torch.empty(rows, heads, width, columns, dtype=dtype, device=device) for _ in layers]
        self._values = [torch.empty(rows, heads, columns, width, dtype=dtype, device=device) for _ in layers]
        self.first_row, self.rows, self.length = 0, 0, 0

    def window(self, first_row: int, rows: int, length: int) -> None:
        """Say where the next forward pass writes: these rows, from column `length` on."""
        self.first_row, self.rows, self.length = first_row, rows, length

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Store new keys and values [B, K, T, D] of one layer; return all so far, [B, K, length + T, D]."""
        rows = slice(self.first_row, self.first_row + self.rows)
        end = self.length + keys.shape[2]
        # Each layer grows by itself, when its own turn comes: `length` moves on only after the last one.
        if end > self._values[layer_idx].shape[2]:
            self._grow(layer_idx, end)
        stored_keys, stored_values = self._keys[layer_idx][rows], self._values[layer_idx][rows]
        stored_keys[..., self.length : end] = keys.transpose(2, 3)
        stored_values[:, :, self.length : end] = values
        return stored_keys[..., :end].transpose(2, 3), stored_values[:, :, :end]

    def get_seq_length(self, _layer_idx: int = 0) -> int:
        return self.length

    def rearrange(self, parents: Sequence[int]) -> None:
        """Make row i what row parents[i] was; only rows that change are copied."""
        targets = [row for row, parent in enumerate(parents) if row != parent]
        if targets:
            sources = [parents[row] for row in targets]
            # Indexing with a list copies what it reads first, so a row may be a source and a target at once.
            for keys, values in zip(self._keys, self._values, strict=True):
                keys[targets, :, :, : self.length] = keys[sources, :, :, : self.length]
                values[targets, :, : self.length] = values[sources, :, : self.length]
        self.rows = len(parents)

    def _grow(self, layer: int, columns: int) -> None:
        more = min(max(columns, 2 * self._values[layer].shape[2]), self._most) - self._values[layer].shape[2]
        self._keys[layer] = pad(self._keys[layer], (0, more))
        self._values[layer] = pad(self._values[layer], (0, 0, 0, more))
