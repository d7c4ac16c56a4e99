"""The cache of keys and values: what was stored comes back, rows of any length, in about the memory that is used."""

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig

from services.student.engines.kvcache import FIRST_COLUMNS, RowBudget, RowCache

pytestmark = pytest.mark.model

CONFIG = LlamaConfig(hidden_size=4, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=2, head_dim=2)


def cache_of(budget: RowBudget) -> RowCache:
    return RowCache(CONFIG, torch.float32, torch.device("cpu"), budget)


def states(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def stored(cache: RowCache, row: int, length: int) -> Tensor:
    """Keys of layer 0."""
    return cache._keys[0][row, 0, :, :length].T


def test_rows_grow_each_behind_its_own_end() -> None:
    cache = cache_of(RowBudget(3))
    cache.reserve(3, 6, most=9)
    prompts = states(2, 1, 4, 2)
    cache.fill([2, 0], [0, 0], [4, 2])
    for layer in range(2):
        keys, values = cache.update(prompts, -prompts, layer)
        assert keys.shape == (2, 1, 4, 2)
        assert torch.equal(keys[0], prompts[0]) and torch.equal(values[1, :, :2], -prompts[1, :, :2])
    # Padding is stored nowhere.
    assert not stored(cache, 0, 4)[2:].any() and not stored(cache, 1, 4).any()
    new = states(3, 1, 1, 2)
    cache.grow_by_one([2, 0, 4])
    keys, values = cache.update(new, -new, 0)
    assert keys.shape == (3, 1, 5, 2) and torch.equal(values, -keys)
    assert torch.equal(stored(cache, 0, 3), torch.cat([prompts[1, 0, :2], new[0, 0]]))
    assert torch.equal(stored(cache, 1, 1), new[1, 0])
    assert torch.equal(stored(cache, 2, 5), torch.cat([prompts[0, 0], new[2, 0]]))


def test_a_long_context_is_made_as_it_fills_and_keeps_what_was_stored() -> None:
    most, budget = 1000 * FIRST_COLUMNS, RowBudget(2)
    cache = cache_of(budget)
    whole = torch.empty(1, 1, 0, 2)
    for tokens in (FIRST_COLUMNS - 1, 1, 1, 2 * FIRST_COLUMNS, 3):
        start = whole.shape[2]
        cache.reserve(1, start + tokens, most)
        new = states(1, 1, tokens, 2)
        whole = torch.cat([whole, new], dim=2)
        cache.fill([0], [start], [tokens])
        for layer in range(2):
            keys, values = cache.update(new, -new, layer)
            assert torch.equal(keys, whole) and torch.equal(values, -whole)
    held = sum(buffer.numel() for buffer in (*cache._keys, *cache._values))
    assert held <= 2 * 2 * 2 * whole.numel()


def test_no_more_columns_are_made_than_will_be_needed() -> None:
    cache = cache_of(RowBudget(1))
    cache.reserve(1, 5, most=7)
    assert cache.columns == 7


def test_rows_are_copied_all_at_once() -> None:
    cache = cache_of(RowBudget(3))
    cache.reserve(3, 4, most=4)
    new = states(3, 1, 3, 2)
    cache.fill([0, 1, 2], [0, 0, 0], [3, 3, 3])
    cache.update(new, -new, 0)
    cache.copy([2, 0], [0, 1], 2)
    assert torch.equal(stored(cache, 0, 3), torch.cat([new[2, 0, :2], new[0, 0, 2:]]))
    assert torch.equal(stored(cache, 1, 2), new[0, 0, :2])


def test_rows_in_all_caches_are_bounded_and_go_where_they_are_used() -> None:
    budget = RowBudget(8)
    one, other = cache_of(budget), cache_of(budget)
    one.reserve(5, 2, most=4)
    one.rows = 5
    one.reserve(6, 2, most=4)
    assert one.capacity == 8
    one.rows = 3
    other.reserve(4, 2, most=4)
    other.rows = 4
    assert (one.capacity, other.capacity) == (3, 4)
    with pytest.raises(ValueError, match="expected at most 5 rows"):
        other.reserve(6, 2, most=4)
    budget.caches.remove(one)
    other.reserve(6, 2, most=4)
    assert other.capacity == budget.rows == 8


def test_what_is_no_number_does_not_stay() -> None:
    cache = cache_of(RowBudget(1))
    cache.reserve(1, 2, most=2)
    cache.fill([0], [0], [2])
    cache.update(torch.full((1, 1, 2, 2), torch.nan), torch.full((1, 1, 2, 2), torch.inf), 0)
    cache.scrub()
    assert not cache._keys[0].any() and not cache._values[0].any()
