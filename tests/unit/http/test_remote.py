"""Calls that wait for another server: in threads of their own, with a bound on how long one waits for a thread."""

import threading

import anyio
import pytest
from anyio import to_thread
from fastapi import FastAPI
from fastapi.testclient import TestClient

from shared.errors import UnavailableError
from shared.http.remote import RemoteCalls

LONG_S = 20.0


def test_a_call_answers_or_raises_as_it_does() -> None:
    async def made() -> int:
        calls = RemoteCalls(1.0)
        with pytest.raises(ZeroDivisionError):
            await calls.make(divmod, 1, 0)
        return await calls.make(int, "12", base=8)

    assert anyio.run(made) == 10


def test_calls_that_wait_leave_the_other_threads_alone_and_are_not_queued_for_ever() -> None:
    back, refused = threading.Event(), []

    async def waits(calls: RemoteCalls) -> None:
        try:
            assert await calls.make(back.wait, LONG_S)
        except UnavailableError as error:
            refused.append(str(error))

    async def full() -> None:
        calls = RemoteCalls(0.2, threads=40)
        async with anyio.create_task_group() as tasks:
            for _ in range(60):
                tasks.start_soon(waits, calls)
            with anyio.fail_after(LONG_S):
                assert await to_thread.run_sync(lambda: "from the other threads") == "from the other threads"
                while len(refused) < 20:
                    await anyio.sleep(0.01)
            back.set()
        assert await calls.make(int) == 0

    anyio.run(full)
    assert len(refused) == 20
    assert refused[0].startswith("40 requests wait for Redis or another service already")


def test_a_route_of_such_calls_reads_its_parameters_as_any_other() -> None:
    app, calls = FastAPI(), RemoteCalls(1.0)

    @app.get("/twice/{number}")
    @calls.route
    def twice(number: int, plus: int = 0) -> int:
        assert threading.current_thread() is not threading.main_thread()
        return 2 * number + plus

    client = TestClient(app)
    assert client.get("/twice/4?plus=1").json() == 9
    assert client.get("/twice/x").status_code == 422
