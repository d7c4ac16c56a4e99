"""Exchanges and rollouts of one problem put together: equal texts are one, with how many they are. Pure.

What always holds: nothing is lost by folding, since every fold holds all that it stands for.
"""

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Generic, TypeVar

from services.inspector.http.views import ActView, ExchangeView
from shared.contracts.batches import BatchGroup, BatchSample
from shared.method.grading import SUCCESS_THRESHOLD

Item = TypeVar("Item")

NOTHING_CAME = "Nothing came."
SHOWN_FOLDS = 2
"""Of a row in the feed: the rest is on the group's page."""


@dataclass(frozen=True)
class Fold(Generic[Item]):
    """Things that a reader cannot tell apart."""

    items: tuple[Item, ...]

    @property
    def first(self) -> Item:
        return self.items[0]

    @property
    def count(self) -> int:
        return len(self.items)


def folded(items: Iterable[Item], alike: Callable[[Item], Hashable]) -> list[Fold[Item]]:
    """The most frequent first; of equally many, the first."""
    found: dict[Hashable, list[Item]] = {}
    for item in items:
        found.setdefault(alike(item), []).append(item)
    return [Fold(tuple(same)) for same in sorted(found.values(), key=len, reverse=True)]


def said_of(exchange: ExchangeView) -> str:
    """What a row of the feed says of an exchange."""
    return exchange.delivered or exchange.withheld or exchange.raw or NOTHING_CAME


@dataclass(frozen=True)
class Feedback(Fold[ExchangeView]):
    """Exchanges with the same feedback and verdict."""

    @property
    def said(self) -> str:
        return said_of(self.first)

    @property
    def outcomes(self) -> list[Fold[ExchangeView]]:
        """By what became of the answer."""
        return folded(self.items, lambda item: (item.correct, item.revision and item.revision.change))

    @property
    def removed(self) -> list[str]:
        """What rules took out of their raw texts, each once."""
        return list(dict.fromkeys(text for exchange in self.items for text in exchange.removed))

    @property
    def acts(self) -> list[ActView]:
        """What people did about them, without what was refused."""
        return [act for exchange in self.items for act in exchange.history if not act.refused]


@dataclass(frozen=True)
class FeedRow:
    """Neighbours in the feed that are about one problem of one step, newest first, as one row."""

    exchanges: tuple[ExchangeView, ...]

    @property
    def first(self) -> ExchangeView:
        return self.exchanges[0]

    @property
    def lowest(self) -> int:
        """The id that older pages begin before."""
        return min(exchange.id for exchange in self.exchanges)

    @property
    def name(self) -> str:
        """Of the row in the page, the same whichever of the group's exchanges are in it."""
        # A hash, since ids of problems come from outside, and an element's name may not hold a blank.
        return "x" + hashlib.sha256(repr(group_of(self.first)).encode()).hexdigest()[:16]

    @property
    def feedbacks(self) -> list[Feedback]:
        return feedbacks_of(self.exchanges)

    @property
    def shown(self) -> list[Feedback]:
        return self.feedbacks[:SHOWN_FOLDS]

    @property
    def others(self) -> int:
        """Further feedbacks, each counted once."""
        return len(self.feedbacks[SHOWN_FOLDS:])


def group_of(exchange: ExchangeView) -> tuple[str, int, str]:
    return exchange.student, exchange.step, exchange.problem_id


def feed_rows(exchanges: Iterable[ExchangeView]) -> Iterator[FeedRow]:
    """Reads no further than to the first exchange of the next row."""
    return (FeedRow(tuple(group)) for _, group in groupby(exchanges, key=group_of))


def feedbacks_of(exchanges: Iterable[ExchangeView]) -> list[Feedback]:
    # Not by the raw text: where the rules took different things out of it, what is shown is the same.
    alike = folded(exchanges, lambda item: (said_of(item), item.verdict, item.word))
    return [Feedback(fold.items) for fold in alike]


@dataclass(frozen=True)
class GroupRollout:
    """One rollout of a group. sealed: as it was sealed, None before; exchange: None where no tutor was asked."""

    sample: int
    text: str
    correct: bool
    sealed: BatchSample | None
    exchange: ExchangeView | None


@dataclass(frozen=True)
class SameAnswer(Fold[GroupRollout]):
    """Rollouts with the same text, and what was said of them. shown_to: rollouts whose self-teacher was shown it."""

    shown_to: tuple[int, ...]

    @property
    def feedbacks(self) -> list[Feedback]:
        return feedbacks_of(self._exchanges)

    @property
    def untold(self) -> list[int]:
        """Samples that no tutor was asked about."""
        return [rollout.sample for rollout in self.items if rollout.exchange is None]

    @property
    def revisions(self) -> list[Fold[ExchangeView]]:
        """Exchanges by their revised answer."""
        revised = [exchange for exchange in self._exchanges if exchange.revision is not None]
        return folded(revised, lambda item: item.revision and (item.revision.text, item.revision.after))

    @property
    def untrained(self) -> list[int]:
        """Samples without a loss, as far as that is known."""
        return [rollout.sample for rollout in self.items if rollout.sealed is not None and not rollout.sealed.mask]

    @property
    def _exchanges(self) -> list[ExchangeView]:
        return [rollout.exchange for rollout in self.items if rollout.exchange is not None]


def rollouts_of(exchanges: Iterable[ExchangeView], sealed: BatchGroup | None) -> list[GroupRollout]:
    """All that the sealed group has, by sample; before it is sealed those that a tutor was asked about."""
    told = {exchange.sample: exchange for exchange in exchanges}
    if sealed is None:
        return [
            GroupRollout(number, told[number].response, told[number].correct, None, told[number])
            for number in sorted(told)
        ]
    return [
        GroupRollout(sample.index, sample.text, sample.reward >= SUCCESS_THRESHOLD, sample, told.get(sample.index))
        for sample in sealed.samples
    ]


def answers_of(rollouts: Sequence[GroupRollout]) -> list[SameAnswer]:
    """Side by side, the most frequent first."""
    alike = folded(rollouts, lambda rollout: (rollout.text, rollout.correct))
    return [SameAnswer(fold.items, _shown_to(fold, rollouts)) for fold in alike]


def _shown_to(fold: Fold[GroupRollout], rollouts: Sequence[GroupRollout]) -> tuple[int, ...]:
    here = {rollout.sample for rollout in fold.items}
    return tuple(each.sample for each in rollouts if each.sealed is not None and each.sealed.demonstration in here)
