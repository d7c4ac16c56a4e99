"""The sizes of a model: what its weights, an adapter, a forward pass and a cache take. Pure but for `read_shape`.

Nothing is loaded: they follow from the model's config.json and, of a model that is here, from what the headers of its
weights say there is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from shared.modeling.checksums import tensor_shapes
from shared.modeling.directory import MODEL_CONFIG, holds_weights, read_object, weight_files
from shared.modeling.rotary import vllm_tokens

DTYPE_BYTES = {"bfloat16": 2, "float32": 4}

# What transformers has no other attention for than the plain one, on a GPU as well (`_supports_sdpa`).
PLAIN_ATTENTION = frozenset(
    {
        *("big_bird", "flint", "gemma2", "git", "gpt_oss", "granite_swa", "granitemoe_swa", "hy_v4", "megatron-bert"),
        *("mimo_v2_flash", "rembert", "roformer", "vaultgemma"),
    }
)

# One thing by the names that configurations have for it.
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_EXPERTS_PER_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "top_k_experts")
_SHARED_EXPERTS = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
_SHARED_WIDTH = ("shared_expert_intermediate_size", "shared_experts_intermediate_size", "shared_intermediate_size")


@dataclass(frozen=True)
class Experts:
    """Of a block: how many, of what width each, and how many of them a token goes through. beside: the width of the
    widest feed-forward that all tokens of a block go through, which an adapter changes; 0 where there is none.
    """

    count: int
    width: int
    active: int
    beside: int = 0


@dataclass(frozen=True)
class ModelShape:
    """A decoder of the Llama kind: gated feed-forward, grouped query heads. norms: of query and key, as in Qwen3;
    context: tokens of its longest sequence, 0 where that is not known.

    intermediate: all that a token goes through in a block, of as many experts as it is sent to. counted: the weights in
    its files, 0 where there are none; a model with experts has them. plain: its attention keeps its weights on a GPU,
    too.
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
    counted: int = 0
    experts: Experts | None = None
    plain: bool = False

    @property
    def parameters(self) -> int:
        """All weights, the embedding once if it is the output layer, too."""
        if self.counted:
            return self.counted
        norms = 2 * self.hidden + (2 * self.head_width if self.norms else 0)
        block = sum(rows * columns for rows, columns in self._linear()) + norms
        return self.layers * block + self.outside_parameters

    @property
    def outside_parameters(self) -> int:
        """Those of `parameters` that are in no block."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2) + self.hidden

    @property
    def largest_tensor(self) -> int:
        """Parameters of the largest one; transformers has those of all experts of a block in one."""
        experts = 2 * self.experts.count * self.experts.width if self.experts else 0
        return self.hidden * max(self.vocabulary, self.intermediate, experts)

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
        inputs = 5 * self.hidden + self.heads * self.head_width + self._fed
        adapters = 4 * inputs if copied else 0
        attended = 2 * (self.heads + 2 * self.key_heads) * self.head_width
        # What an expert takes in and gives back, and the latter by its weight.
        routed = 3 * self.experts.active * self.hidden if self.experts else 0
        kept = dtype_bytes * (4 * self.hidden + 3 * self.intermediate + attended + routed) + 8 * self.hidden
        blocks = self._adapted(first_layer)
        scores = blocks * self.score_bytes(tokens, row_tokens, dtype_bytes) if dense else 0
        return tokens * blocks * (adapters + kept) + scores

    def recomputed_bytes(
        self, tokens: int, first_layer: int, dtype_bytes: int, row_tokens: int, *, dense: bool, copied: bool = True
    ) -> int:
        """As `activation_bytes`, where of each block only the input is kept and the backward pass makes the rest again,
        a block at a time.
        """
        inputs = tokens * self._adapted(first_layer) * self.hidden * dtype_bytes
        one = self.activation_bytes(tokens, self.layers - 1, dtype_bytes, row_tokens, dense=dense, copied=copied)
        return inputs + one

    def passing_bytes(self, tokens: int, dtype_bytes: int, row_tokens: int, *, gpu: bool) -> int:
        """What a forward pass makes and drops again, in the widest of its blocks. On a CPU plain attention is in what
        the allocator was measured to keep."""
        scores = self.score_bytes(tokens, row_tokens, dtype_bytes) if gpu and self.plain else 0
        return tokens * dtype_bytes * (8 * self.hidden + 3 * self.intermediate) + scores

    def score_bytes(self, tokens: int, row_tokens: int, dtype_bytes: int) -> int:
        """The weights of a block's plain attention, of `tokens` in rows of `row_tokens`: a softmax in fp32, and what it
        is made from and into.
        """
        return tokens * self.heads * row_tokens * (4 + 2 * dtype_bytes)

    def cache_bytes(self, tokens: int, dtype_bytes: int) -> int:
        """Keys and values of `tokens` in all layers."""
        return tokens * self.layers * 2 * self.key_heads * self.head_width * dtype_bytes

    def _adapted(self, first_layer: int) -> int:
        return max(0, self.layers - first_layer)

    @property
    def _fed(self) -> int:
        """The width of the feed-forward that an adapter changes: experts are no linear layers."""
        return self.intermediate if self.experts is None else self.experts.beside

    def _linear(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of one block's linear layers: query, key, value, output, gate, up, down."""
        query, shared = self.heads * self.head_width, self.key_heads * self.head_width
        attention = [(self.hidden, query), (self.hidden, shared), (self.hidden, shared), (query, self.hidden)]
        feed = [(self.hidden, self._fed), (self.hidden, self._fed), (self._fed, self.hidden)]
        return [*attention, *(feed if self._fed else ())]


# Of the models that presets name, from their config.json, for where they are not on this machine yet.
KNOWN_SHAPES = {
    "embedded": ModelShape(576, 1536, 30, 9, 3, 64, 49152, tied=True, context=8192),
    "Qwen/Qwen3-8B": ModelShape(4096, 12288, 36, 32, 8, 128, 151936, tied=False, norms=True, context=40960),
}


def read_shape(model_dir: Path) -> ModelShape | None:
    """The shape of the model in that directory; None where its config.json lacks a size. Raises ModelError."""
    tensors = tensor_shapes(*weight_files(model_dir)) if holds_weights(model_dir) else {}
    return shape_of(read_object(model_dir / MODEL_CONFIG), tensors)


def shapes_in(models: Mapping[str, Path]) -> dict[str, ModelShape]:
    """By student, of the models in those directories, without those that lack a size. Raises ModelError."""
    return {name: shape for name, path in models.items() if (shape := read_shape(path)) is not None}


def shape_of(config: Mapping[str, Any], tensors: Mapping[str, Sequence[int]] | None = None) -> ModelShape | None:
    """The shape that a config.json tells; None where it lacks a size. tensors: shapes of those in the model's files, by
    name; without them a model with experts is of unknown size, and of one that sees, too, only the text model is told.
    """
    config = _text(config)
    try:
        heads, hidden, vocabulary = (int(config[name]) for name in ("num_attention_heads", "hidden_size", "vocab_size"))
        experts = _experts(config)
        if experts is not None and not tensors:
            return None
        every = [tuple(shape) for shape in (tensors or {}).values()]
        copies = every.count((vocabulary, hidden))
        # Left out, it is what the model's class has by default: its files show whether there is an output layer.
        tied = bool(config["tie_word_embeddings"]) if "tie_word_embeddings" in config else copies == 1
        twice = (copies - 1) * vocabulary * hidden if tied and copies else 0
        routed = experts.active * experts.width if experts else 0
        return ModelShape(
            hidden=hidden,
            intermediate=routed + experts.beside if experts else int(config["intermediate_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            key_heads=int(config.get("num_key_value_heads") or heads),
            # Older configurations leave it out, and the heads then share the hidden size.
            head_width=int(config.get("head_dim") or hidden // heads),
            vocabulary=vocabulary,
            tied=tied,
            norms=config.get("model_type") == "qwen3",
            context=int(config.get("max_position_embeddings") or 0),
            counted=sum(map(prod, every)) - twice,
            experts=experts,
            plain=config.get("model_type") in PLAIN_ATTENTION,
        )
    except (KeyError, TypeError, ValueError):
        return None


def _experts(config: Mapping[str, Any]) -> Experts | None:
    """Those of each block, None where there are none. Raises KeyError, TypeError or ValueError where a size is missing
    or something else."""
    count = int(_first(config, _EXPERTS) or 0)
    if count < 2:
        return None
    own = config.get("moe_intermediate_size")
    width = int(own or config["intermediate_size"])
    shared = int(_first(config, _SHARED_WIDTH) or width * int(_first(config, _SHARED_EXPERTS) or 0))
    # Where experts have a width of their own, the other one is that of blocks without any, of which there may be none.
    every = "mlp_only_layers" in config and not config["mlp_only_layers"] and config.get("decoder_sparse_step") == 1
    dense = 0 if own is None or every else int(config["intermediate_size"])
    active = _first(config, _EXPERTS_PER_TOKEN)
    if active is None:
        raise KeyError(_EXPERTS_PER_TOKEN[0])
    return Experts(count, width, int(active), max(shared, dense))


def _first(config: Mapping[str, Any], names: Sequence[str]) -> Any:
    """What stands under the first of these names that has something."""
    return next((config[name] for name in names if config.get(name) is not None), None)


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a config.json says of the text model, where that is one among others: in `text_config`."""
    text = config.get("text_config")
    return {**config, **text} if isinstance(text, dict) else config


def context_in(model_dir: Path) -> int:
    """Tokens that the model in that directory takes, also where its sizes are told below `text_config`; 0 where none
    are told. Raises ModelError."""
    found = _text(read_object(model_dir / MODEL_CONFIG)).get("max_position_embeddings")
    return found if isinstance(found, int) else 0


def vllm_context(model_dir: Path) -> int | None:
    """Up to which length of its sequences vLLM computes the model in that directory as the trainer does; None where
    that is so of all that it takes. Raises ModelError.
    """
    return vllm_tokens(_text(read_object(model_dir / MODEL_CONFIG)))
