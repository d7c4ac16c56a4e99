"""People at a deployment, all at once: clients of the API, viewers of the page, and questions at a steady rate.

Questions come when their time has come, whether or not those before them are answered, so that a deployment that falls
behind shows it. Whoever is told to come back does. Whatever has no answer in the end is noted, and so is what a viewer
was not told.
"""

import asyncio
import re
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx2

from services.inspector.http.views import FeedbackPage
from shared.http.client import async_client, bearer

CLIENTS, VIEWERS, ASKS_PER_S = 200, 50, 10
PAUSE_S = 5.0
"""Of a client, from one request to the next: those of all make 40 a second."""

BUSY, BACK_S = 503, 1.0
ANSWERED_S = 120.0
TOLD_S = 60.0
"""How much later than the inspector itself a viewer may know of an exchange; only a defect takes so long."""

QUESTION = "A circuit carries 3 A through 4 ohm. What is the voltage?"
PAGE = 200
_ROW = re.compile(r'data-id="(\d+)"')

Group = tuple[str, int, str]


@dataclass
class Found:
    """seconds: of the answers, by what was asked, with what came before them. busy: how often somebody was told to come
    back. refused: whatever went wrong, in words. rows: that all viewers were told together."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    busy: int = 0
    refused: list[str] = field(default_factory=list)
    rows: int = 0

    def add(self, other: "Found") -> None:
        for what, seconds in other.seconds.items():
            self.seconds.setdefault(what, []).extend(seconds)
        self.busy += other.busy
        self.refused += other.refused
        self.rows += other.rows


@dataclass
class Viewer:
    """What a page that is open was told. rows: by the lowest exchange of each. upto: the newest exchange."""

    rows: set[int] = field(default_factory=set)
    upto: int = 0
    behind: int = 0

    def read(self, line: str) -> None:
        if line.startswith("id:"):
            self.upto = int(line.removeprefix("id:").strip().partition(".")[0])
        elif line.startswith("event:"):
            self.behind += "behind" in line
        else:
            self.rows.update(map(int, _ROW.findall(line)))


class Crowd:
    """api, page: addresses of broker and inspector. key: admits to both."""

    def __init__(self, api: str, page: str, run: str, key: str) -> None:
        self._api = api
        self._page = page
        self._key = key
        self._found = Found()
        chat = {"model": "a", "messages": [{"role": "user", "content": QUESTION}]}
        self._requests: Sequence[tuple[str, str, dict[str, Any] | None]] = (
            ("run", f"/v1/runs/{run}", None),
            ("peers", "/v1/peers", None),
            ("models", "/v1/models", None),
            ("chat", "/v1/chat/completions", chat),
        )

    async def stay(self, for_s: float) -> Found:
        """All of them for so long; returns when every answer is there and every viewer was told everything."""
        async with AsyncExitStack() as open_:
            clients = [await open_.enter_async_context(self._client()) for _ in range(CLIENTS + VIEWERS + 1)]
            viewers, (reader, *people) = clients[:VIEWERS], clients[VIEWERS:]
            told = [Viewer() for _ in viewers]
            opened = asyncio.Barrier(VIEWERS + 1)
            watching = [asyncio.create_task(self._watch(*each, opened)) for each in zip(viewers, told, strict=True)]
            async with asyncio.timeout(ANSWERED_S):
                await opened.wait()
            begun, until_s = (await self._page_of(reader, limit=1)).newest, time.monotonic() + for_s
            async with asyncio.TaskGroup() as working:
                for number, client in enumerate(people):
                    working.create_task(self._use(client, number, until_s))
                working.create_task(self._wonder(people, until_s))
            newest = (await self._page_of(reader, limit=1)).newest
            await self._require_told(reader, told, watching, begun, newest)
        return self._found

    def _client(self) -> httpx2.AsyncClient:
        return async_client(ANSWERED_S, bearer(self._key))

    async def _use(self, client: httpx2.AsyncClient, number: int, until_s: float) -> None:
        """A client's requests, one after the other."""
        await asyncio.sleep(PAUSE_S * number / CLIENTS)
        while time.monotonic() < until_s:
            await self._request(client, *self._requests[number % len(self._requests)])
            number += 1
            await asyncio.sleep(PAUSE_S)

    async def _wonder(self, people: Sequence[httpx2.AsyncClient], until_s: float) -> None:
        """Questions for the peers, each by another of the people."""
        began_s, asked = time.monotonic(), 0
        async with asyncio.TaskGroup() as waiting:
            while time.monotonic() < until_s:
                body = {"problem": QUESTION, "seed": asked, "first": "ab"[asked % 2]}
                waiting.create_task(self._request(people[asked % CLIENTS], "ask", "/v1/peers/ask", body))
                asked += 1
                await asyncio.sleep(max(0.0, began_s + asked / ASKS_PER_S - time.monotonic()))

    async def _request(self, client: httpx2.AsyncClient, what: str, path: str, body: dict[str, Any] | None) -> None:
        began_s, method = time.monotonic(), "GET" if body is None else "POST"
        try:
            answer = await client.request(method, self._api + path, json=body)
            # As OpenAI's own client does: a student that has its hands full says so, and to come back.
            while answer.status_code == BUSY and time.monotonic() - began_s < ANSWERED_S:
                self._found.busy += 1
                await asyncio.sleep(BACK_S)
                answer = await client.request(method, self._api + path, json=body)
        except httpx2.HTTPError as error:
            self._found.refused.append(f"{what}: {error!r}")
            return
        if answer.status_code != 200:
            self._found.refused.append(f"{what}: {answer.status_code} {answer.text[:200]}")
            return
        self._found.seconds.setdefault(what, []).append(time.monotonic() - began_s)

    async def _watch(self, client: httpx2.AsyncClient, told: Viewer, opened: asyncio.Barrier) -> None:
        async with client.stream("GET", f"{self._page}/live") as answer:
            assert answer.status_code == 200, answer.status_code
            lines = answer.aiter_lines()
            await anext(lines)  # a stream begins with how soon to come back
            await opened.wait()
            async for line in lines:
                told.read(line)

    async def _page_of(self, client: httpx2.AsyncClient, **wanted: int) -> FeedbackPage:
        answer = await client.get(f"{self._page}/v1/feedback", params=wanted)
        assert answer.status_code == 200, answer.text
        return FeedbackPage.model_validate_json(answer.content)

    async def _require_told(
        self,
        reader: httpx2.AsyncClient,
        viewers: Sequence[Viewer],
        watching: Sequence[asyncio.Task[None]],
        begun: int,
        newest: int,
    ) -> None:
        """Every viewer comes to know every group of rollouts that began while all were there."""
        deadline_s = time.monotonic() + TOLD_S
        while min(viewer.upto for viewer in viewers) < newest and time.monotonic() < deadline_s:
            await asyncio.sleep(0.1)
        for task in watching:
            task.cancel()
        for ended in await asyncio.gather(*watching, return_exceptions=True):
            if not isinstance(ended, asyncio.CancelledError):
                self._found.refused.append(f"viewer: its stream ended: {ended!r}")
        wanted = {lowest for lowest in (await self._groups(reader, begun, newest)).values() if lowest > begun}
        for viewer in viewers:
            if viewer.behind or not wanted <= viewer.rows:
                missed = sorted(wanted - viewer.rows)[:5]
                self._found.refused.append(f"viewer: told to load {viewer.behind} times, never of {missed} …")
        self._found.rows += sum(len(viewer.rows) for viewer in viewers)

    async def _groups(self, reader: httpx2.AsyncClient, after: int, upto: int) -> dict[Group, int]:
        """The lowest exchange of each group that has one behind `after`. A few before it say which began earlier."""
        lowest: dict[Group, int] = {}
        place = max(0, after - PAGE)
        while place < upto:
            page = await self._page_of(reader, after=place, limit=PAGE)
            for one in reversed(page.items):
                if one.id <= upto:
                    lowest.setdefault((one.student, one.step, one.problem_id), one.id)
            place = page.newest
        return lowest
