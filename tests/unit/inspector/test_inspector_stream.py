"""The live stream without a server: frames out of the generator, slots out of the ASGI call."""

import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

import anyio
import httpx2
import pytest
from fastapi.testclient import TestClient
from starlette.types import Message

from services.inspector.app import build_app
from services.inspector.http.stream import Viewers, ViewerStream, frame, live_events
from services.inspector.ingest import Ingest
from services.inspector.store.records import LOGGED_EVENT, Entry
from services.inspector.store.store import LoggedRow, Store
from tests.fakes.listening import listening
from tests.unit.inspector.told import EventLog, config, feedback, status


def append(store: Store, *numbers: int) -> None:
    store.append([Entry(f"{number}-0", status(number)) for number in numbers], f"{numbers[-1]}-0")


def seen_ids(frames: list[bytes]) -> list[str]:
    return [line[4:] for part in frames for line in part.decode().split("\n") if line.startswith("id: ")]


async def take(frames: AsyncIterator[bytes], count: int) -> list[bytes]:
    with anyio.fail_after(10):
        return [await anext(frames) for _ in range(count)]


def in_time(check: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with anyio.fail_after(20):
            await check()

    anyio.run(bounded)


def live(
    store: Store, position: int, stopping: threading.Event, keep_alive_s: float = 15.0
) -> AsyncGenerator[bytes, None]:
    return live_events(store, position, stopping.is_set, poll_s=0.01, keep_alive_s=keep_alive_s)


def test_a_frame_is_one_line_of_data_whatever_the_text() -> None:
    event = feedback(response="one\ntwo\r\nid: 9-9\n\nevent: fake\u2028<img onerror>")
    row = LoggedRow(1, "5-0", "feedback", event.model_dump_json())
    kind, data, head, *rest = frame(row).decode().split("\n")
    assert (head, kind, rest) == ("id: 5-0", "event: feedback", ["", ""])
    assert LOGGED_EVENT.validate_json(data.removeprefix("data: ")) == event
    assert "\r" not in data


def test_two_viewers_see_the_same_events_in_order(store: Store) -> None:
    async def check() -> None:
        stopping = threading.Event()
        first, second = live(store, 0, stopping), live(store, 1, stopping)
        append(store, 1, 2)
        assert seen_ids(await take(first, 3)) == ["1-0", "2-0"]
        append(store, 3)
        assert seen_ids(await take(first, 1)) == ["3-0"]
        assert seen_ids(await take(second, 3)) == ["2-0", "3-0"]

    in_time(check)


def test_a_viewer_far_behind_gets_every_page(store: Store) -> None:
    async def check() -> None:
        append(store, *range(1, 501))
        frames = await take(live(store, 0, threading.Event()), 501)
        assert seen_ids(frames) == [f"{number}-0" for number in range(1, 501)]

    in_time(check)


def test_a_quiet_stream_is_kept_alive_and_ends_when_the_service_stops(store: Store) -> None:
    async def check() -> None:
        stopping = threading.Event()
        frames = live(store, 0, stopping, keep_alive_s=0.02)
        assert (await take(frames, 3))[1:] == [b": still here\n\n"] * 2
        stopping.set()
        assert [part async for part in frames] == []

    in_time(check)


def test_who_saw_more_than_the_log_has_gets_a_gap_and_all_of_it(client: TestClient, store: Store) -> None:
    append(store, 5, 6)
    assert told(client, "6-0", 1, lambda: append(store, 7)) == [("7-0", "status")]
    assert told(client, "9-1", 4) == [("5-0.gap", "gap"), ("5-0", "status"), ("6-0", "status"), ("7-0", "status")]
    assert told(client, "5-0.gap", 1) == [("5-0", "status")]


def test_where_there_is_nothing_yet_the_gap_comes_with_the_first_event(client: TestClient, store: Store) -> None:
    assert told(client, "9-1", 2, lambda: append(store, 1)) == [("1-0.gap", "gap"), ("1-0", "status")]
    assert told(client, "0", 1) == [("1-0", "status")]


def told(client: TestClient, seen: str, count: int, then: Callable[[], None] = lambda: None) -> list[tuple[str, str]]:
    """(id, kind) of the first events after `seen`; `then`: what happens once it is connected."""
    found: list[tuple[str, str]] = []
    with listening(client.app) as url:  # type: ignore[arg-type]
        asked = httpx2.stream("GET", f"{url}/v1/stream", headers={"Last-Event-ID": seen}, trust_env=False, timeout=10)
        with asked as answer:
            then()
            for event in httpx2.EventSource(answer):
                if event.event != "message":
                    found.append((event.id, event.event))
                if len(found) == count:
                    break
    return found


def test_over_the_limit_is_429_and_a_slot_comes_back_with_its_connection(store: Store) -> None:
    async def check() -> None:
        viewers, stopping = Viewers(1), threading.Event()
        leave = anyio.Event()
        async with anyio.create_task_group() as group:
            opened: list[Message] = []
            group.start_soon(serve, ViewerStream(live(store, 0, stopping), viewers), opened, leave)
            while not opened:
                await anyio.sleep(0.01)
            refused: list[Message] = []
            await serve(ViewerStream(live(store, 0, stopping), viewers), refused, leave)
            assert refused[0]["status"] == 429
            assert (b"retry-after", b"5") in refused[0]["headers"]
            leave.set()
        assert opened[0]["status"] == 200
        assert viewers.open == 0

    in_time(check)


async def serve(response: ViewerStream, sent: list[Message], leave: anyio.Event) -> None:
    async def receive() -> Message:
        await leave.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await response({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)


@pytest.mark.parametrize("path", ["/live", "/v1/stream"])
def test_a_stream_ends_with_the_session_that_asked_for_it(
    path: str, store: Store, ingest: Ingest, log: EventLog, tmp_path: Path
) -> None:
    """Another session's, and one with a key, go on."""
    app = build_app(config(tmp_path, "open-sesame"), store, ingest, log, threading.Event())
    with listening(app) as url, ExitStack() as opened:
        readers = [opened.enter_context(httpx2.Client(base_url=url, timeout=10, trust_env=False)) for _ in range(3)]
        for reader in readers[:2]:
            assert reader.post("/login", data={"key": "open-sesame"}, headers={"Origin": url}).status_code == 303
        readers[2].headers["Authorization"] = "Bearer open-sesame"
        streams = [opened.enter_context(reader.stream("GET", path)).iter_lines() for reader in readers]
        assert [next(stream) for stream in streams] == ["retry: 2000"] * 3
        assert readers[0].post("/logout", headers={"Origin": url}).status_code == 303
        assert list(streams[0]) == [""]
        append(store, 1)
        for stream in streams[1:]:
            assert any(line.startswith("data: ") for line in stream)
        assert readers[0].get(path).status_code == 401
