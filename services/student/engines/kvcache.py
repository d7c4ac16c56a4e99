"""The keys and values of sequences that come, grow and leave, a row each, in buffers that are made as they fill.

Rows 0 to `rows` are in use. A row begins in column 0 and has a length of its own, so one that joins or leaves moves no
other column. What the buffers hold behind a row's end is finite, and never read as anything else than masked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor
from transformers import PretrainedConfig

FIRST_COLUMNS = 128
"""Columns that are there from the start. More are made as they are needed, doubling: who asks for all of a long context
mostly does not use it."""


@dataclass(frozen=True)
class _Pass:
    """Where a forward pass writes. read: the rows that it reads, a slice where they lie side by side. tokens: of
    [B, T], those that are no padding; None for all. end: the last column, plus one.
    """

    read: slice | Tensor
    tokens: Tensor | None
    rows: Tensor
    columns: Tensor
    end: int


class RowBudget:
    """Rows that all caches of an engine have together: never more than `slots`."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.caches: list[RowCache] = []

    @property
    def rows(self) -> int:
        """That there is memory for."""
        return sum(cache.capacity for cache in self.caches)

    def granted(self, cache: "RowCache", rows: int) -> int:
        """How many rows `cache`, which needs `rows`, may have; what others have and do not use is taken from them."""
        if self._left(cache) < rows:
            for other in self.caches:
                if other is not cache:
                    other.resize(other.rows, other.columns)
        left = self._left(cache)
        if left < rows:
            raise ValueError(f"expected at most {left} rows to be needed beside those in use, got {rows}")
        return min(left, max(rows, 2 * cache.capacity))

    def _left(self, cache: "RowCache") -> int:
        return self.slots - self.rows + cache.capacity


class RowCache:
    """What a transformers model takes for its cache. Keys lie transposed, [N, K, D, L]: scores read them so.

    rows: in use. capacity, columns: what there is memory for.
    """

    def __init__(self, config: PretrainedConfig, dtype: torch.dtype, device: torch.device, budget: RowBudget):
        heads = config.num_key_value_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        layers = range(config.num_hidden_layers)
        self._device = device
        self._keys = [torch.zeros(0, heads, width, 0, dtype=dtype, device=device) for _ in layers]
        self._values = [torch.zeros(0, heads, 0, width, dtype=dtype, device=device) for _ in layers]
        self.rows, self.capacity, self.columns = 0, 0, 0
        self._budget = budget
        budget.caches.append(self)
        self._pass: _Pass | None = None

    def reserve(self, rows: int, columns: int, most: int) -> None:
        """Have room for so many rows and columns. most: columns that will ever be needed."""
        if columns > self.columns:
            columns = max(columns, min(most, max(2 * self.columns, FIRST_COLUMNS)))
        if rows > self.capacity or columns > self.columns:
            granted = self._budget.granted(self, rows) if rows > self.capacity else self.capacity
            self.resize(granted, max(columns, self.columns))

    def resize(self, rows: int, columns: int) -> None:
        """Have exactly so many rows and columns, no fewer columns than there are; what fits is kept."""
        if (rows, columns) == (self.capacity, self.columns):
            return
        kept = min(rows, self.capacity)
        # Layer by layer, so that no more than one of them is there twice.
        for layer, (keys, values) in enumerate(zip(self._keys, self._values, strict=True)):
            # Zeros and not whatever lies there: masked columns are read, and NaN would go through any mask.
            self._keys[layer] = keys.new_zeros(rows, *keys.shape[1:3], columns)
            self._keys[layer][:kept, :, :, : self.columns] = keys[:kept]
            self._values[layer] = values.new_zeros(rows, values.shape[1], columns, values.shape[3])
            self._values[layer][:kept, :, : self.columns] = values[:kept]
        self.capacity, self.columns = rows, columns

    def grow_by_one(self, lengths: Sequence[int]) -> None:
        """The next forward pass has one token for each of the first rows, behind so many tokens."""
        rows = torch.arange(len(lengths), device=self._device)
        columns = torch.tensor(lengths, device=self._device)
        self._pass = _Pass(slice(0, len(lengths)), None, rows, columns, max(lengths) + 1)

    def fill(self, rows: Sequence[int], starts: Sequence[int], counts: Sequence[int]) -> None:
        """The next forward pass has tokens for these rows, padded on the right: so many, from these columns on."""
        most = max(counts)
        spans = zip(starts, counts, strict=True)
        columns = chain.from_iterable(range(start, start + count) for start, count in spans)
        tokens = chain.from_iterable(range(place * most, place * most + n) for place, n in enumerate(counts))
        owners = chain.from_iterable([row] * count for row, count in zip(rows, counts, strict=True))
        end = max(start + count for start, count in zip(starts, counts, strict=True))
        where = [torch.tensor(list(each), device=self._device) for each in (tokens, owners, columns)]
        side_by_side = list(rows) == list(range(rows[0], rows[0] + len(rows)))
        read = slice(rows[0], rows[0] + len(rows)) if side_by_side else torch.tensor(rows, device=self._device)
        self._pass = _Pass(read, where[0], where[1], where[2], end)

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Store new keys and values [B, K, T, D] of one layer; return all of the pass' rows, [B, K, end, D]."""
        now = self._pass
        if now is None:
            raise RuntimeError("expected to be told where the forward pass writes, with grow_by_one or fill")
        stored_keys, stored_values = self._keys[layer_idx], self._values[layer_idx]
        stored_keys[now.rows, :, :, now.columns] = _by_token(keys, now.tokens)
        stored_values[now.rows, :, now.columns] = _by_token(values, now.tokens)
        return stored_keys[now.read, :, :, : now.end].transpose(2, 3), stored_values[now.read, :, : now.end]

    def get_seq_length(self, _layer_idx: int = 0) -> int:
        """Columns before the pass, which a model asks for only where it is not told positions and mask."""
        return 0

    def copy(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        """Make the first `length` columns of each target what they are in its source, all at once."""
        if not targets:
            return
        source_rows, target_rows = list(sources), list(targets)
        # Indexing with a list copies what it reads first, so a row may be a source and a target at once.
        for keys, values in zip(self._keys, self._values, strict=True):
            keys[target_rows, :, :, :length] = keys[source_rows, :, :, :length]
            values[target_rows, :, :length] = values[source_rows, :, :length]

    def scrub(self) -> None:
        """Put numbers in place of what is none. After a row that gave no numbers: others come to lie where it lay."""
        for buffer in chain(self._keys, self._values):
            buffer.nan_to_num_(0.0, 0.0, 0.0)


def _by_token(states_BKTD: Tensor, tokens: Tensor | None) -> Tensor:
    """As [M, K, D], one for each token that is no padding."""
    flat = states_BKTD.transpose(1, 2).flatten(0, 1)
    return flat if tokens is None else flat[tokens]
