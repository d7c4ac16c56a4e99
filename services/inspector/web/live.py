"""The live feed: rows of exchanges as HTML over server-sent events, and the few events that the page tells beside them.

What always holds: a viewer that comes back with the id of the last message it saw gets every exchange and every
revision after it, in order. An id is a Place: how far exchanges and the log were told.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from operator import attrgetter

from fastapi.sse import format_sse_event

from services.inspector.http.stream import ANEW, PAGE, follow
from services.inspector.http.views import ExchangeView
from services.inspector.store.filters import ExchangeFilter, TextSearch
from services.inspector.store.records import LOGGED_EVENT
from services.inspector.store.store import LoggedRow, Store
from services.inspector.web.folding import FeedRow, feed_rows
from services.inspector.web.rendering import sentence
from shared.contracts.events import Revised
from shared.errors import ConfigError
from shared.http.sse import Frames

MAX_BEHIND = 1000
"""Who is further behind than this is told to load the page again: its rows would be gone from the page anyway."""

TOLD = {
    "status": "status",
    "taken_up": "status",
    "alarm": "warning",
    "silenced": "warning",
    "acted": "warning",
    "gap": "warning",
    "gate": "progress",
    "evaluated": "progress",
    "step": "progress",
}
"""Events that are told beside the rows, and the names they are told under."""

_PLACE = re.compile(r"([0-9]{1,18})\.([0-9]{1,18})")

Render = Callable[[FeedRow], str]


@dataclass(frozen=True)
class Place:
    """The last exchange that was told (its id), and the last event of the log (its position)."""

    exchange: int
    position: int

    def __str__(self) -> str:
        return f"{self.exchange}.{self.position}"


FROM_ELSEWHERE = Place(ANEW, ANEW)
"""Instead of a place that this log does not reach: it is of an earlier one, and says nothing of what was told."""


def place_of(text: str) -> Place:
    """Raises ConfigError if it is not one."""
    match = _PLACE.fullmatch(text)
    if match is None:
        raise ConfigError(f"expected a place in the feed such as 812.4021, got {text[:80]!r}; load the page again")
    return Place(int(match[1]), int(match[2]))


def newest_place(store: Store) -> Place:
    """Taken before rows are read: what comes in between is told twice rather than not at all."""
    # The log's end first: an exchange is stored with its event, so every one up to that end is among those found.
    position = store.head
    return Place(store.newest_exchange_id(), position)


def live_feed(store: Store, wanted: ExchangeFilter, place: Place, render: Render, ended: Callable[[], bool]) -> Frames:
    """Messages after `place` until it `ended`. Rows have no name, so that htmx puts them into the page."""
    if place.position > store.head or place.exchange > store.newest_exchange_id():
        place = FROM_ELSEWHERE
    return follow(store, place, attrgetter("position"), lambda seen: news(store, wanted, seen, render), ended)


def news(store: Store, wanted: ExchangeFilter, place: Place, render: Render) -> tuple[list[bytes], Place]:
    """What is to be told after `place`, at most a page of it, and the place behind it."""
    newest = newest_place(store)
    if place == FROM_ELSEWHERE:
        return [_message("anew", newest, "behind")], newest
    if (missed := newest.exchange - place.exchange) > MAX_BEHIND:
        return [_message(str(missed), newest, "behind")], newest
    with closing(TextSearch(wanted.q or "")) as search:
        return _news(_Finder(store, wanted, search), place, newest, render)


class _Finder:
    """What the filter finds of exchanges that are named, of which the text is looked for in these alone."""

    def __init__(self, store: Store, wanted: ExchangeFilter, search: TextSearch) -> None:
        self.store = store
        self.wanted = wanted
        self.search = search
        self._but_text = wanted.model_copy(update={"q": None})

    def page(self, after: int, upto: int) -> list[ExchangeView]:
        """Those of the next page, before the text is looked for."""
        return self.store.exchanges_between(self._but_text, after=after, upto=upto, limit=PAGE)

    def revised(self, event: Revised) -> ExchangeView | None:
        key = event.model_dump(include={"student", "step", "problem_id", "sample"})
        found = self.store.exchange_told(self._but_text, **key)
        return found if found is not None and self.search.among([found]) else None

    def row(self, one: ExchangeView) -> FeedRow:
        """With what came of the group before; in the page this row takes the place of an earlier one."""
        found = self.store.group_told(self._but_text, student=one.student, step=one.step, problem_id=one.problem_id)
        return FeedRow(tuple(reversed(self.search.among(found))))


def _news(finder: _Finder, place: Place, newest: Place, render: Render) -> tuple[list[bytes], Place]:
    messages = []
    if finder.wanted.change is None:
        page = finder.page(place.exchange, newest.exchange)
        for row in feed_rows(finder.search.among(page)):
            place = replace(place, exchange=row.exchanges[-1].id)
            messages.append(_message(render(finder.row(row.first)), place))
        if len(page) == PAGE:
            return messages, replace(place, exchange=page[-1].id)
    place = replace(place, exchange=newest.exchange)
    for event in finder.store.events_after(place.position, PAGE):
        # What came since then may have brought exchanges: behind its position nobody would look for them.
        if event.position > newest.position:
            break
        place = replace(place, position=event.position)
        messages += _told(finder, place, render, event)
    return messages, place


def _told(finder: _Finder, place: Place, render: Render, row: LoggedRow) -> Iterator[bytes]:
    if row.kind != "revised" and row.kind not in TOLD:
        return
    event = LOGGED_EVENT.validate_json(row.body)
    if isinstance(event, Revised):
        found = finder.revised(event)
        if found is not None:
            # With a filter on how answers changed, a row becomes one of the feed only now.
            yield _message(render(finder.row(found)), place, "changed" if finder.wanted.change is None else None)
    elif row.kind in TOLD:
        yield _message(sentence(event), place, TOLD[row.kind])


def _message(data: str, place: Place, event: str | None = None) -> bytes:
    return format_sse_event(data_str=data, id=str(place), event=event)
