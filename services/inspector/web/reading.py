"""What the pages are made of: the feed with its filters, one exchange with everything around it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from services.inspector.http.views import ExchangeView, TraceView
from services.inspector.store.filters import ExchangeFilter, Text, Whole
from services.inspector.store.sealed import SealedBatches
from services.inspector.store.store import Store
from services.inspector.store.traces import Traces
from services.inspector.web.colouring import Colour
from services.inspector.web.differences import Change, change_of
from services.inspector.web.distributions import Distribution, distributions
from services.inspector.web.folding import (
    FeedRow,
    SameAnswer,
    answers_of,
    feed_rows,
    group_of,
    rollouts_of,
)
from services.inspector.web.live import Place, newest_place
from services.inspector.web.marking import MarkedPiece, marked_concept, reviewed
from services.inspector.web.rendering import field_text
from shared.contracts.batches import BatchGroup, BatchSample
from shared.contracts.events import SHOWN_CHARS, GateDecided, GroupGraded
from shared.contracts.run import GateDecision
from shared.errors import NotFoundError, StorageError

PAGE = 50
FIRST_READ, NEXT_READ = 2 * PAGE, 8 * PAGE
"""Exchanges that are read at once for a page: enough where each is a row, and at the second time mostly where not.
Every read searches the texts anew."""

EXAMPLES_OF = 5000
"""Newest exchanges that examples are looked for in: a domain may have none at all, and the log be long."""
EXAMPLE_CHARS = 2000
"""At most: examples are addresses, and what stands before this service may take only short ones."""

Query = TypeVar("Query", bound="FeedQuery")


class FeedQuery(ExchangeFilter):
    """The address of a feed: its filter, for older pages the exchange that they end before, and what is shown above."""

    before: Whole | None = None
    shown: Literal["distributions"] | None = None


class LiveQuery(FeedQuery):
    """The address of a live feed: the page's, and the place in the feed where the page was made."""

    after: Text | None = None


class ExchangeQuery(FeedQuery):
    """The address of an exchange: the filter that next and previous go by; asked: what the reader just did; colour: by
    what tokens are coloured."""

    asked: Literal["flag", "exclude", "silence"] | None = None
    colour: Colour = "divergence"


async def feed_query(request: Request) -> FeedQuery:
    """From the address, where a form leaves fields empty that are not wanted, and mail programs, trackers and logins
    add fields of their own. Raises RequestValidationError (422)."""
    return _given(request, FeedQuery)


async def live_query(request: Request) -> LiveQuery:
    return _given(request, LiveQuery)


async def exchange_query(request: Request) -> ExchangeQuery:
    return _given(request, ExchangeQuery)


def _given(request: Request, query: type[Query]) -> Query:
    # Unknown fields are left out here and not refused, as the filter itself would.
    given = {name: value for name, value in request.query_params.items() if value and name in query.model_fields}
    try:
        return query.model_validate(given)
    except ValidationError as error:
        raise RequestValidationError([item | {"loc": ("query", *item["loc"])} for item in error.errors()]) from error


def filter_fields(query: ExchangeFilter) -> dict[str, Any]:
    """The fields of the filter that are given, for an address."""
    return query.model_dump(exclude_none=True, exclude={"before", "after", "asked", "shown", "colour"})


@dataclass(frozen=True)
class Feed:
    """One page of the feed, newest first. older: where the next page begins; place: where the live feed does."""

    query: FeedQuery
    filters: Mapping[str, Any]
    rows: list[FeedRow]
    older: int | None
    place: Place
    distributions: list[Distribution]

    @property
    def shown(self) -> dict[str, str]:
        """What is shown above the rows, as a field of addresses."""
        return {"shown": self.query.shown} if self.query.shown else {}

    @property
    def given(self) -> dict[str, str]:
        """The filter as the form's fields hold it."""
        return {name: field_text(value) for name, value in self.filters.items()}

    @property
    def narrowed(self) -> int:
        """How many fields of the filter are given beside the search."""
        return len(self.filters.keys() - {"q"})

    @property
    def live(self) -> bool:
        """Older pages stand still, so that an address shows the same later."""
        return self.query.before is None


def read_feed(store: Store, query: FeedQuery) -> Feed:
    place = newest_place(store)
    # From the place that was noted first: what comes meanwhile is told by the live feed, and not twice.
    before = place.exchange + 1 if query.before is None else query.before
    rows = list(islice(feed_rows(_exchanges(store, query, before)), PAGE + 1))
    older = rows[PAGE - 1].lowest if len(rows) > PAGE else None
    filters = filter_fields(query)
    # Counted only where somebody wants to see them: that reads every exchange of the filter.
    spread = distributions(store.spread(query), filters) if query.shown else []
    return Feed(query, filters, rows[:PAGE], older, place, spread)


def _exchanges(store: Store, query: ExchangeFilter, before: int) -> Iterator[ExchangeView]:
    """Newest first, read as far as somebody asks for more."""
    limit = FIRST_READ
    while items := store.newest_exchanges(query, before=before, limit=limit):
        yield from items
        if len(items) < limit:
            return
        before, limit = items[-1].id, NEXT_READ


def example_problems(store: Store, domains: Iterable[str], among: int = EXAMPLES_OF) -> list[str]:
    """Questions to ask the peers: of each domain the newest, and the newest whose answer the feedback fixed, of the
    newest exchanges."""
    wanted = [ExchangeFilter(domain=domain, change=change) for domain in domains for change in (None, "fixed")]
    since = store.newest_exchange_id() - among
    found = [store.newest_exchanges(each, before=None, after=since, limit=1) for each in wanted]
    questions = (exchange.question for each in found for exchange in each)
    return list(dict.fromkeys(question for question in questions if len(question) <= EXAMPLE_CHARS))


@dataclass(frozen=True)
class Attempt:
    """The student's rollouts of the same problem at one step: which of them were right."""

    step: int
    version: str
    rewards: tuple[float, ...]
    exchange: int | None
    here: bool


@dataclass(frozen=True)
class Around:
    """One exchange and all that belongs to it. sealed: the rollout as it was sealed, None before;
    no_sealed, no_trace: why there is none. change: from the first answer to the revised one, None where one is cut."""

    exchange: ExchangeView
    question: list[MarkedPiece]
    raw: list[MarkedPiece] | None
    sealed: BatchSample | None
    no_sealed: str
    gate: GateDecision | None
    trace: TraceView | None
    no_trace: str
    attempts: list[Attempt]
    change: Change | None
    newer: int | None
    older: int | None

    @property
    def removed(self) -> list[MarkedPiece]:
        """What was taken out of the raw text beside the concept."""
        return [p for p in self.raw or () if p.removed and p.mark != "concept_tag" and p.text.strip()]


def read_exchange(
    store: Store, batches: SealedBatches, traces: Traces, exchange: ExchangeView, query: FeedQuery
) -> Around:
    newer = store.exchanges_between(query, after=exchange.id, limit=1)
    older = store.newest_exchanges(query, before=exchange.id, limit=1)
    gates = [event.decision for event in store.log.all_of(GateDecided) if event.decision.round == exchange.round]
    sealed, no_sealed = _sealed(batches, exchange)
    trace, no_trace = _trace(traces, exchange)
    return Around(
        exchange=exchange,
        question=marked_concept(exchange.question, exchange.word),
        raw=None
        if exchange.raw is None
        else reviewed(exchange.raw, exchange.removed, exchange.delivered or exchange.withheld),
        sealed=sealed,
        no_sealed=no_sealed,
        # The last one: a broker that was started again in a round may have told its gate once more.
        gate=gates[-1] if gates else None,
        trace=trace,
        no_trace=no_trace,
        attempts=[_attempt(store, exchange, group) for group in _groups(store, exchange)],
        change=_change(exchange),
        newer=newer[0].id if newer else None,
        older=older[0].id if older else None,
    )


@dataclass(frozen=True)
class ShownGroup:
    """All rollouts of one problem of one step. no_sealed: why only those are there that a tutor was asked about.

    rewards: of all, as they were graded; newer, older: an exchange of the next groups of the filter.
    """

    exchange: ExchangeView
    answers: list[SameAnswer]
    rewards: tuple[float, ...]
    no_sealed: str
    newer: int | None
    older: int | None

    @property
    def trained(self) -> int | None:
        """How many rollouts had a loss; None until that is known."""
        sealed = [rollout.sealed for answer in self.answers for rollout in answer.items if rollout.sealed is not None]
        return sum(sample.mask for sample in sealed) if sealed else None


def read_group(store: Store, batches: SealedBatches, exchange: ExchangeView, query: ExchangeFilter) -> ShownGroup:
    """The group that the exchange belongs to."""
    student, step, problem_id = group_of(exchange)
    told = store.group_told(ExchangeFilter(), student=student, step=step, problem_id=problem_id)
    sealed, no_sealed = _sealed_group(batches, exchange)
    rollouts = rollouts_of(told, sealed)
    graded = [group.rewards for group in _groups(store, exchange) if group.step == step]
    # Beyond the whole group, whose own exchanges are all here.
    newer = store.exchanges_between(query, after=told[-1].id, limit=1)
    older = store.newest_exchanges(query, before=told[0].id, limit=1)
    return ShownGroup(
        exchange=exchange,
        answers=answers_of(rollouts),
        rewards=graded[-1] if graded else tuple(float(rollout.correct) for rollout in rollouts),
        no_sealed=no_sealed,
        newer=newer[0].id if newer else None,
        older=older[0].id if older else None,
    )


def _sealed_group(batches: SealedBatches, exchange: ExchangeView) -> tuple[BatchGroup | None, str]:
    """The group as it was sealed, or why it is not there."""
    if not exchange.sealed:
        return None, "rollouts that no tutor was asked about are shown when the step's batch is sealed"
    try:
        return batches.group(*group_of(exchange)), ""
    except StorageError as error:
        return None, f"the sealed batch cannot be read here: {error}"


def _sealed(batches: SealedBatches, exchange: ExchangeView) -> tuple[BatchSample | None, str]:
    """The rollout as it was sealed, or why it is not there."""
    if not exchange.sealed:
        return None, "known when the step's batch is sealed"
    try:
        return batches.sample(exchange.student, exchange.step, exchange.problem_id, exchange.sample), ""
    except StorageError as error:
        return None, f"the sealed batch cannot be read here: {error}"


def _change(exchange: ExchangeView) -> Change | None:
    revised = exchange.revision
    # Events cut both; the end of a text that is cut is not gone.
    if revised is None or exchange.cut or len(revised.text) >= SHOWN_CHARS:
        return None
    return change_of(exchange.response, revised.text, exchange.delivered)


def _trace(traces: Traces, exchange: ExchangeView) -> tuple[TraceView | None, str]:
    """The trace, or why there is none."""
    try:
        return traces.of(exchange), ""
    except (NotFoundError, StorageError) as error:
        return None, str(error)


def _groups(store: Store, exchange: ExchangeView) -> list[GroupGraded]:
    """One a step: a step that was made again after a crash has its last ones."""
    # A later one of the same step replaces the one before it.
    by_step = {group.step: group for group in store.log.groups_of(exchange.student, exchange.problem_id)}
    return [by_step[step] for step in sorted(by_step)]


def _attempt(store: Store, exchange: ExchangeView, group: GroupGraded) -> Attempt:
    found = store.exchange_told(
        ExchangeFilter(),
        student=group.student,
        step=group.step,
        problem_id=group.problem_id,
        sample=exchange.sample,
    )
    return Attempt(
        step=group.step,
        version=found.version if found else f"{group.student}@v{group.step - 1}",
        rewards=group.rewards,
        exchange=found.id if found else None,
        here=group.step == exchange.step,
    )
