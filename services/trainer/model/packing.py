"""Which sequences may share a forward pass of a model: the branches of a prefix tree, and rows padded to one length.

A tree is right where a layer learns of the other tokens through nothing but the mask and the positions that it is
given. A convolution or a recurrence mixes in the tokens that stand before a token instead, a window or ALiBi counts
them: the next branch of a tree would read the one before it.

What always holds:
- an architecture shares only what is listed here and found right by tests/seams/test_packing.py against rows alone;
  one that is not listed gets a pass for every row;
- before a model is trained, the trainer's own way through it (the body, then the output layer, with shared passes) is
  compared with the model called as its authors meant. A model that comes out otherwise is refused by name; where only
  its trees do, none are made.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import structlog
import torch
from torch import Tensor

from services.trainer.step.trees import TREE_TOKENS, Tree
from shared.errors import ModelError
from shared.modeling.attention import same_angles_tokens
from shared.modeling.logprobs import token_logprobs

log = structlog.get_logger()

_TREES = """
    afmoe apertus arcee aria_text biogpt bitnet codegen cwm deepseek_v2 deepseek_v3 diffllama dots1 ernie4_5
    ernie4_5_moe exaone4 exaone_moe flex_olmo gemma gemma3_text gemma4_text glm glm4 glm4_moe glm4_moe_lite gpt2
    gpt_bigcode gpt_neox gpt_neox_japanese gpt_oss gptj granite granite_swa granitemoe granitemoe_swa granitemoeshared
    helium hunyuan_v1_dense hunyuan_v1_moe hy_v3 hyperclovax internlm3 iquestcoder jais2 jetmoe llama mimo_v2_flash
    minimax_m2 ministral ministral3 mistral mixtral nemotron olmo olmo2 olmo3 olmoe opt persimmon phi phi3 phimoe
    qwen2 qwen2_moe qwen3 qwen3_moe seed_oss smollm3 solar_open stablelm starcoder2 youtu
"""
TREES = frozenset(_TREES.split())
"""Model types that compute a prefix tree right as long as it is no longer than any window that their layers have."""

_PADDED = """
    bamba falcon falcon_h1 granitemoehybrid jamba lfm2 lfm2_moe minimax nemotron_h olmo_hybrid qwen3_5_moe_text
    qwen3_5_text qwen3_next
"""
PADDED = frozenset(_PADDED.split())
"""Model types that compute rows side by side right, but no trees: convolutions, linear attention, ALiBi by setting."""

_MASKED_LAYERS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
_WINDOWS = ("sliding_window", "attention_chunk_size")


@dataclass(frozen=True)
class Packing:
    """tree_tokens: of the largest prefix tree, 0 for none. together_tokens: of the longest pass that several
    sequences share; in a longer one each has a pass of its own. reason: why a tree is less than TREE_TOKENS."""

    tree_tokens: int
    together_tokens: int
    reason: str = ""


def packing_of(config: Any) -> Packing:
    """What a model with this configuration (of transformers) may share."""
    kind = config.model_type
    if kind not in TREES | PADDED:
        return Packing(0, 0, f"models of type {kind} are not known to compute rows alike alone and together")
    together = same_angles_tokens(config)
    if kind in PADDED:
        return Packing(0, together, f"models of type {kind} cannot tell the branches of a tree apart")
    if odd := set(getattr(config, "layer_types", None) or ()) - _MASKED_LAYERS:
        return Packing(0, 0, f"its layers of type {', '.join(sorted(odd))} are not known to take a mask")
    limits = {name: getattr(config, name, None) or TREE_TOKENS for name in _WINDOWS}
    limits["the length at which its rotary angles change"] = together
    name = min(limits, key=lambda each: limits[each])
    if limits[name] >= TREE_TOKENS:
        return Packing(TREE_TOKENS, together)
    return Packing(limits[name], together, f"{name} is {limits[name]}")


_TOLERANCE_NATS = {torch.float32: 3e-4, torch.bfloat16: 0.25}
"""Mean |difference| a token. Rounding stays below 1e-4 and 0.1; another mask or output layer makes it more than 1."""

_NEAR = 2
"""Tokens after a branch that are looked at in a tree: a short convolution reaches no further into the other branch."""

# What a model that is called otherwise than its authors meant raises.
_MISCALLED = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class Way(Protocol):
    """The trainer's way through a model. network: the model, callable by itself."""

    network: Any
    config: Any
    packing: Packing

    @property
    def vocabulary(self) -> int: ...

    @property
    def context_tokens(self) -> int: ...

    def logits(self, trees: Sequence[Tree], nodes: Sequence[tuple[int, int]]) -> Tensor: ...


def checked_packing(way: Way) -> Packing:
    """What rows may share after it was tried. Raises ModelError where even rows that share nothing come out wrong."""
    rows = _rows(way.vocabulary, way.context_tokens)
    try:
        with torch.no_grad():
            expected = [token_logprobs(way.network, [row[:1]], [row[1:]])[0] for row in rows]
            apart = _logprobs(way, rows, [Tree() for _ in rows])
    except _MISCALLED as error:
        raise ModelError(
            f"{_cannot(way)}: a pass through it ended with {type(error).__name__}: {error}; choose another base model"
        ) from error
    # The second row is the beginning of the first: a causal model says the same of the tokens that they share.
    whole, beginning, *_ = expected
    tolerance = _TOLERANCE_NATS[way.network.dtype]
    # `not … <=`, here and below: a NaN fails it, too.
    if not _difference([whole[: len(beginning)]], [beginning]) <= tolerance:
        raise ModelError(
            f"{_cannot(way)}: what it says of a token changes with the tokens after it, or is no number; choose a "
            "causal language model"
        )
    if not (moved := _difference(apart, expected)) <= tolerance:
        raise ModelError(
            f"{_cannot(way)}: its log-probs are not those of its output layer on its last hidden states (they differ "
            f"by {moved:.2g} nats a token, at most {tolerance:g} is rounding); choose another base model"
        )
    return _with_trees(way, rows, expected, tolerance)


def _with_trees(way: Way, rows: Sequence[Sequence[int]], expected: Sequence[Tensor], tolerance: float) -> Packing:
    tree = Tree()
    for row in rows:
        tree.insert(row)
    if len(tree.tokens) > way.packing.tree_tokens:
        return way.packing
    try:
        with torch.no_grad():
            found = _logprobs(way, rows, [tree])
    except _MISCALLED as error:
        return _without_trees(way, f"a tree ended with {type(error).__name__}: {error}")
    # Of the branches alone, and there of the tokens after the fork: averaged over the rest, which no other branch can
    # disturb, a wrong one would pass as rounding.
    moved = _difference([one[-_NEAR:] for one in found[2:]], [one[-_NEAR:] for one in expected[2:]])
    if moved <= tolerance:
        return way.packing
    return _without_trees(way, f"in a tree its log-probs differ by {moved:.2g} nats a token")


def _without_trees(way: Way, reason: str) -> Packing:
    log.warning("prefix trees come out wrong, every row goes alone", model_type=way.config.model_type, reason=reason)
    return replace(way.packing, tree_tokens=0, reason=reason)


def _rows(vocabulary: int, context_tokens: int) -> list[list[int]]:
    """A row, its beginning, and rows that leave it one after the other."""
    # Always the same rows, so that a model is refused or taken the same each time.
    draw = random.Random(0)
    whole, *others = ([draw.randrange(vocabulary) for _ in range(16)] for _ in range(6))
    branches = [whole[: 2 * at + 4] + other[: _NEAR + 1] for at, other in enumerate(others)]
    return [row[:context_tokens] for row in (whole, whole[:10], *branches)]


def _logprobs(way: Way, rows: Sequence[Sequence[int]], trees: Sequence[Tree]) -> list[Tensor]:
    """Of each row's tokens after the first, with row r in tree r, or all of them in the only one."""
    at = [min(row, len(trees) - 1) for row in range(len(rows))]
    paths = [trees[tree].insert(row) for tree, row in zip(at, rows, strict=True)]
    nodes = [(tree, node) for tree, path in zip(at, paths, strict=True) for node in path[:-1]]
    logits = way.logits(trees, nodes).float()
    targets = torch.tensor([token for row in rows for token in row[1:]], device=logits.device)
    chosen = logits.log_softmax(1).gather(1, targets[:, None])[:, 0]
    return list(torch.split(chosen, [len(row) - 1 for row in rows]))


def _difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The mean |difference| a token. NaN where a log-prob is NaN."""
    return float((torch.cat(list(found)) - torch.cat(list(expected))).abs().mean())


def _cannot(way: Way) -> str:
    return f"training does not support this model of type {way.config.model_type}"
