"""The sizes of a model: what its weights, an adapter, a forward pass and a cache take. Pure but for `read_shape`.

Nothing is loaded: they follow from the model's config.json.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.modeling.directory import MODEL_CONFIG, read_object

DTYPE_BYTES = {"bfloat16": 2, "float32": 4}


@dataclass(frozen=True)
class ModelShape:
    """A decoder of the Llama kind: gated feed-forward, grouped query heads. norms: of query and key, as in Qwen3;
    context: tokens of its longest sequence, 0 where that is not known.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_heads: int
    head_width: int
    vocabulary: int
    tied: bool
    norms: bool = False
    context: int = 0

    @property
    def parameters(self) -> int:
        """All weights, the embedding once if it is the output layer, too."""
        norms = 2 * self.hidden + (2 * self.head_width if self.norms else 0)
        block = sum(rows * columns for rows, columns in self._linear()) + norms
        return self.layers * block + self.outside_parameters

    @property
    def outside_parameters(self) -> int:
        """Those of `parameters` that are in no block."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2) + self.hidden

    def linear_parameters(self, first_layer: int) -> int:
        """Weights of the linear layers that an adapter changes."""
        return self._adapted(first_layer) * sum(rows * columns for rows, columns in self._linear())

    def adapter_parameters(self, rank: int, first_layer: int) -> int:
        return self._adapted(first_layer) * sum(rank * (rows + columns) for rows, columns in self._linear())

    def activation_bytes(
        self, tokens: int, first_layer: int, dtype_bytes: int, row_tokens: int, *, dense: bool, copied: bool = True
    ) -> int:
        """What a forward pass over `tokens` keeps for the backward pass in the blocks that have an adapter.

        Nothing is recomputed. The norms' inputs are kept in fp32. copied: so are the adapters', as adapters in fp32
        want them; one in the model's own type takes those that are kept anyway. dense: attention keeps its weights over
        a row of `row_tokens`, as it does on a CPU.
        """
        inputs = 5 * self.hidden + self.heads * self.head_width + self.intermediate
        adapters = 4 * inputs if copied else 0
        attended = 2 * (self.heads + 2 * self.key_heads) * self.head_width
        kept = dtype_bytes * (4 * self.hidden + 3 * self.intermediate + attended) + 8 * self.hidden
        scores = self.heads * row_tokens * (4 + 2 * dtype_bytes) if dense else 0
        return tokens * self._adapted(first_layer) * (adapters + kept + scores)

    def recomputed_bytes(self, tokens: int, first_layer: int, dtype_bytes: int, *, copied: bool = True) -> int:
        """As `activation_bytes`, of attention that keeps no weights, where of each block only the input is kept and the
        backward pass makes the rest again, a block at a time.
        """
        inputs = tokens * self._adapted(first_layer) * self.hidden * dtype_bytes
        return inputs + self.activation_bytes(tokens, self.layers - 1, dtype_bytes, tokens, dense=False, copied=copied)

    def cache_bytes(self, tokens: int, dtype_bytes: int) -> int:
        """Keys and values of `tokens` in all layers."""
        return tokens * self.layers * 2 * self.key_heads * self.head_width * dtype_bytes

    def _adapted(self, first_layer: int) -> int:
        return max(0, self.layers - first_layer)

    def _linear(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of one block's linear layers: query, key, value, output, gate, up, down."""
        query, shared = self.heads * self.head_width, self.key_heads * self.head_width
        attention = [(self.hidden, query), (self.hidden, shared), (self.hidden, shared), (query, self.hidden)]
        return [
            *attention,
            (self.hidden, self.intermediate),
            (self.hidden, self.intermediate),
            (self.intermediate, self.hidden),
        ]


# Of the models that presets name, from their config.json, for where they are not on this machine yet.
KNOWN_SHAPES = {
    "embedded": ModelShape(576, 1536, 30, 9, 3, 64, 49152, tied=True, context=8192),
    "Qwen/Qwen3-8B": ModelShape(4096, 12288, 36, 32, 8, 128, 151936, tied=False, norms=True, context=40960),
}


def read_shape(model_dir: Path) -> ModelShape | None:
    """The shape of the model in that directory; None where its config.json lacks a size. Raises ModelError."""
    return shape_of(read_object(model_dir / MODEL_CONFIG))


def shapes_in(models: Mapping[str, Path]) -> dict[str, ModelShape]:
    """By student, of the models in those directories, without those that lack a size. Raises ModelError."""
    return {name: shape for name, path in models.items() if (shape := read_shape(path)) is not None}


def shape_of(config: Mapping[str, Any]) -> ModelShape | None:
    """The shape that a config.json tells; None where it lacks a size."""
    try:
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        return ModelShape(
            hidden=hidden,
            intermediate=int(config["intermediate_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            key_heads=int(config.get("num_key_value_heads") or heads),
            # Older configurations leave it out, and the heads then share the hidden size.
            head_width=int(config.get("head_dim") or hidden // heads),
            vocabulary=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
            norms=config.get("model_type") == "qwen3",
            context=int(config.get("max_position_embeddings") or 0),
        )
    except (KeyError, TypeError, ValueError):
        return None


def longrope_tokens(model_dir: Path) -> int | None:
    """Up to which length a model with two sets of rotary angles takes the short ones; None of one with one set.

    Raises ModelError.
    """
    config = read_object(model_dir / MODEL_CONFIG)
    ropes = [config.get(name) for name in ("rope_parameters", "rope_scaling")]
    for rope in ropes:
        if isinstance(rope, dict) and (rope.get("rope_type") or rope.get("type")) in ("longrope", "su"):
            original = rope.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
            return int(original or config.get("max_position_embeddings") or 0)
    return None
