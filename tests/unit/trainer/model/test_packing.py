"""What a configuration says of sharing a pass."""

from types import SimpleNamespace
from typing import Any

import pytest

from services.trainer.model.packing import packing_of
from services.trainer.step.trees import TREE_TOKENS


def config(kind: str = "qwen3", **facts: object) -> SimpleNamespace:
    return SimpleNamespace(model_type=kind, max_position_embeddings=8192, **facts)


@pytest.mark.parametrize(
    ("facts", "tree_tokens"),
    [
        ({}, TREE_TOKENS),
        ({"sliding_window": None}, TREE_TOKENS),
        ({"sliding_window": 4096}, TREE_TOKENS),
        ({"sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"]}, 128),
        ({"attention_chunk_size": 512, "layer_types": ["chunked_attention"]}, 512),
        ({"layer_types": ["full_attention", "linear_attention"]}, 0),
        ({"layer_types": ["conv", "full_attention"]}, 0),
        ({"layer_types": ["a kind of next year"]}, 0),
    ],
)
def test_a_tree_is_no_longer_than_a_window_and_none_is_made_where_a_layer_takes_no_mask(
    facts: dict[str, Any], tree_tokens: int
) -> None:
    packing = packing_of(config(**facts))
    assert packing.tree_tokens == tree_tokens
    assert (packing.reason == "") == (tree_tokens == TREE_TOKENS)


def test_an_architecture_that_is_not_listed_shares_nothing() -> None:
    packing = packing_of(config("transformer_of_next_year"))
    assert (packing.tree_tokens, packing.together_tokens) == (0, 0)
    assert "transformer_of_next_year" in packing.reason


def test_linear_attention_shares_a_pass_of_rows_and_no_tree() -> None:
    packing = packing_of(config("qwen3_next", layer_types=["linear_attention", "full_attention"]))
    assert packing.tree_tokens == 0
    assert packing.together_tokens > 10**6


@pytest.mark.parametrize(
    "parameters",
    [
        {"rope_type": "longrope", "original_max_position_embeddings": 640},
        {"full_attention": {"rope_type": "longrope", "original_max_position_embeddings": 640}},
        {"rope_type": "dynamic", "original_max_position_embeddings": 640},
    ],
)
def test_rows_share_a_pass_up_to_the_length_at_which_rotary_angles_change(parameters: dict[str, object]) -> None:
    packing = packing_of(config("phi3", rope_parameters=parameters))
    assert (packing.tree_tokens, packing.together_tokens) == (640, 640)


def test_angles_that_depend_on_the_position_alone_limit_nothing() -> None:
    parameters = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 640}
    assert packing_of(config(rope_parameters=parameters)).tree_tokens == TREE_TOKENS
