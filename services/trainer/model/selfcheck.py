"""Before a model is trained: whether the trainer's way through it gives the log-probs that the model itself gives.

The trainer calls a model's body, applies the output layer by itself, and lets sequences share a pass. What always
holds: a model for which that comes out otherwise is refused by name, and where only its trees do, none are made.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import structlog
import torch
from torch import Tensor

from services.trainer.model.packing import Packing
from services.trainer.step.trees import Tree
from shared.errors import ModelError
from shared.modeling.logprobs import token_logprobs

log = structlog.get_logger()

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
    whole, beginning, *_ = expected
    tolerance = _TOLERANCE_NATS[way.network.dtype]
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
    moved = _difference([one[-_NEAR:] for one in found[2:]], [one[-_NEAR:] for one in expected[2:]])
    if moved <= tolerance:
        return way.packing
    return _without_trees(way, f"in a tree its log-probs differ by {moved:.2g} nats a token")


def _without_trees(way: Way, reason: str) -> Packing:
    log.warning("prefix trees come out wrong, every row goes alone", model_type=way.config.model_type, reason=reason)
    return replace(way.packing, tree_tokens=0, reason=reason)


def _rows(vocabulary: int, context_tokens: int) -> list[list[int]]:
    """A row, its beginning, and rows that leave it one after the other."""
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
