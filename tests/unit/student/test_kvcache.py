"""The cache of keys and values: what was stored comes back, in no more memory than is used, about."""

import pytest
import torch
from transformers import LlamaConfig

from services.student.engines.kvcache import AT_ONCE, RowCache

pytestmark = pytest.mark.model

CONFIG = LlamaConfig(hidden_size=4, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=2, head_dim=2)


def test_a_long_context_is_made_as_it_fills_and_holds_what_was_stored() -> None:
    most = 100 * AT_ONCE
    cache = RowCache(CONFIG, 2, most, torch.float32, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    stored = torch.empty(2, 1, 0, 2)
    for tokens in (AT_ONCE - 1, 1, 1, 2 * AT_ONCE, 3):
        new = torch.randn(2, 1, tokens, 2, generator=generator)
        cache.window(0, 2, stored.shape[2])
        stored = torch.cat([stored, new], dim=2)
        for layer in range(2):
            keys, values = cache.update(new, -new, layer)
            assert torch.equal(keys, stored) and torch.equal(values, -stored)
    held = sum(buffer.numel() for buffer in (*cache._keys, *cache._values))
    assert held < 2 * 2 * 2 * stored.numel() < 2 * 2 * 2 * 2 * most


def test_no_more_is_made_than_was_asked_for() -> None:
    cache = RowCache(CONFIG, 1, AT_ONCE + 2, torch.float32, torch.device("cpu"))
    new = torch.ones(1, 1, AT_ONCE + 2, 2)
    cache.window(0, 1, 0)
    keys, _ = cache.update(new, new, 0)
    assert torch.equal(keys, new) and cache._values[0].shape[2] == AT_ONCE + 2
