"""What the ranks of a trainer tell each other while they work on a step.

What always holds: every method is called by all ranks, in the same order, and gives all of them the same answer. With
one rank each returns what it was given, as it is.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from torch import Tensor

from shared.errors import (
    EXIT_UNAVAILABLE,
    MalformedMessageError,
    ModelError,
    OpcodError,
    ReadError,
    StorageError,
    WriteError,
)


class RankLostError(OpcodError):
    """Another rank has ended, or has not answered in time; the group has to begin again."""

    exit_code = EXIT_UNAVAILABLE


class Group(Protocol):
    """rank: ours, from 0. size: how many there are."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def any(self, mine: bool) -> bool:
        """Whether it is so on any rank."""

    def sums(self, mine: Sequence[float]) -> list[float]:
        """Of all ranks, one by one, in float64."""

    def joined(self, mine: Tensor) -> Tensor:
        """The values [N] of all ranks [N_0 + N_1 + …], those of rank 0 first; N may differ."""

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Make each the sum of those of all ranks, in place; shapes and types are the same on all."""

    def texts(self, mine: str) -> list[str]:
        """What each rank says, by rank."""


class Alone:
    """A group of one."""

    rank = 0
    size = 1

    def any(self, mine: bool) -> bool:
        return mine

    def sums(self, mine: Sequence[float]) -> list[float]:
        return list(mine)

    def joined(self, mine: Tensor) -> Tensor:
        return mine

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """They are the sums."""

    def texts(self, mine: str) -> list[str]:
        return [mine]


_RAISED_ALIKE: dict[str, type[OpcodError]] = {
    each.__name__: each for each in (StorageError, WriteError, ReadError, ModelError, MalformedMessageError)
}


@contextmanager
def together(group: Group) -> Iterator[None]:
    """An OpcodError within it on any rank is raised on all of them: their own, or else that of the lowest rank.

    For what each rank does for itself, such as reading a file. Nothing in it may wait for the other ranks.
    """
    own: OpcodError | None = None
    try:
        yield
    except OpcodError as error:
        own = error
    # Also where all went well: the others cannot know that without being told.
    said = group.texts("" if own is None else f"{type(own).__name__}: {own}")
    # Its own first: that one has the traceback of what happened here.
    if own is not None:
        raise own
    for rank, text in enumerate(said):
        if text:
            kind = _RAISED_ALIKE.get(text.partition(":")[0], OpcodError)
            raise kind(f"on rank {rank} of {group.size}: {text}")


def total_norm(group: Group, norm: float) -> float:
    """Of parts with these norms, one on each rank."""
    # Squares add up over parts of one vector; norms do not.
    return math.sqrt(group.sums([norm * norm])[0])
