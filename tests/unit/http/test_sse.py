"""Answers that come bit by bit, where the bits do not come."""

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from shared.errors import OpcodError, UnavailableError
from shared.http.app import create_app
from shared.http.sse import Frames, open_stream
from tests.fakes.access import LOCAL, PLENTY


def streaming(frames: Frames) -> FastAPI:
    app = create_app("test", ready=lambda: None, keys=None, limits=PLENTY)

    @app.get("/stream", response_model=None)
    async def stream(request: Request) -> object:
        return await open_stream(request, frames)

    return app


async def broken(*before: bytes, error: OpcodError | None) -> Frames:
    for each in before:
        yield each
    if error is not None:
        raise error


@pytest.mark.parametrize("error", [None, UnavailableError("b is down")])
def test_without_a_first_event_it_is_an_ordinary_error(error: OpcodError | None) -> None:
    answer = TestClient(streaming(broken(error=error)), base_url=LOCAL).get("/stream")
    said = "the answer ended before its first event; ask again" if error is None else "b is down"
    assert (answer.status_code, answer.json()["error"]["message"]) == (503, said)


def test_an_error_later_is_the_last_event() -> None:
    frames = broken(b"data: one\n\n", error=UnavailableError("b is down"))
    answer = TestClient(streaming(frames), base_url=LOCAL).get("/stream")
    assert answer.status_code == 200
    first, last = answer.text.strip().split("\n\n")
    assert first == "data: one"
    assert last.startswith("event: error\n") and "b is down" in last
