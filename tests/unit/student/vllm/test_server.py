"""The watch over a vLLM server, against one in which a fault is injected."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.student.engines.port import (
    EngineAwayError,
)
from services.student.engines.vllm.build import log_tail
from services.student.engines.vllm.client import Call, VllmClient
from services.student.engines.vllm.health import Bounds, Condition
from services.student.engines.vllm.process import ServerProcess
from services.student.engines.vllm.server import POLL_S, Server
from services.student.engines.vllm.wire import ADAPTERS, AS_IDS
from shared.errors import ConfigError, UnavailableError
from tests.fakes.student import HandClock
from tests.fakes.vllm import BASE
from tests.fakes.vllm_bench import HANG_S, Bench, until
from tests.fakes.waiting import WAIT_S


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def test_it_is_stale_until_it_holds_a_version(bench: Bench) -> None:
    assert bench.turn() is Condition.STALE
    bench.hold("a@v1")
    assert bench.turn() is Condition.HEALTHY


@pytest.mark.parametrize("fault", ["hung", "dead"])
def test_a_server_that_lists_its_models_and_answers_nothing_is_dead(bench: Bench, fault: str) -> None:
    bench.turn()
    bench.hold("a@v1")
    life = bench.server.life
    getattr(bench.fake, fault).set()
    assert bench.turn(1.0) is Condition.SUSPECT
    assert bench.turn(HANG_S) is Condition.RESTARTING
    assert bench.server.held == {} and bench.server.life.number > life.number
    getattr(bench.fake, fault).clear()
    assert bench.turn() is Condition.STALE


def test_a_server_whose_answers_wait_behind_others_is_busy_and_not_dead(bench: Bench) -> None:
    """More sequences than run at once, or than its cache has room for: a question waits as they do."""
    bench.turn()
    bench.hold("a@v1")
    bench.fake.hung.set()
    bench.fake.works = 100
    assert [bench.turn(HANG_S) for _ in range(2)] == [Condition.HEALTHY] * 2
    bench.fake.works = 0
    assert [bench.turn(1.0), bench.turn(HANG_S)] == [Condition.SUSPECT, Condition.RESTARTING]


@pytest.mark.parametrize("told", [2, None])
def test_a_copy_that_hangs_behind_another_that_answers_is_a_dead_server(tmp_path: Path, told: int | None) -> None:
    """Questions that name no copy go to the one with the least to do, and its count grows."""
    bench = Bench(tmp_path, copies=told)
    try:
        bench.fake.copies, bench.fake.in_hand = 2, 1
        bench.turn()
        bench.hold("a@v1")
        assert bench.turn() is Condition.HEALTHY
        bench.fake.hung_copies, bench.fake.works = {"1"}, 100
        assert [bench.turn(1.0), bench.turn(HANG_S)] == [Condition.SUSPECT, Condition.RESTARTING]
    finally:
        bench.fake.hung_copies = set()
        bench.close()


def test_a_request_that_a_server_answers_without_is_lost_once_it_has_had_none_for_long(bench: Bench) -> None:
    bench.turn()
    bench.hold("a@v1")
    bench.fake.in_hand = 0
    bench.turn(HANG_S)
    lost = bench.server.losing()
    for server_load in (0, 1, None, 0):
        bench.fake.in_hand = server_load
        bench.turn(HANG_S / 2)
        assert lost() is None
    with bench.server.undisturbed():
        bench.clock.now_s += HANG_S
    bench.turn()
    # What it had until now is nothing to a request that comes now.
    later = bench.server.losing()
    assert (lost(), later()) == (None, None)
    assert bench.turn(HANG_S) is Condition.HEALTHY and later() is not None
    with pytest.raises(EngineAwayError, match=r"it answers, and says that none runs or waits in it for 6 s"):
        raise lost() or AssertionError
    bench.fake.in_hand = 2
    bench.turn()
    assert lost() is None


@pytest.mark.parametrize("counted", [None, 0])
def test_what_is_heard_of_completions_is_progress_with_or_without_a_count(bench: Bench, counted: int | None) -> None:
    bench.fake.counted = counted
    client = bench.server.life.client
    before = client.progress()
    client.complete([Call({"model": BASE, "prompt": [7], "max_tokens": 2, **AS_IDS})], lambda: None)
    assert client.progress() == before + 1
    client.complete([Call({"model": BASE, "prompt": [7], "max_tokens": 2, **AS_IDS}, lambda _: True)], lambda: None)
    assert client.progress() == before + 3


def test_a_server_that_came_back_with_base_weights_is_stale_whoever_brought_it_back(bench: Bench) -> None:
    bench.turn()
    bench.hold("a@v1")
    life = bench.server.life
    bench.fake.restart_empty()
    assert bench.turn() is Condition.STALE
    assert bench.server.held == {} and bench.server.life.number > life.number
    with pytest.raises(EngineAwayError, match="lost while a@v2"):
        bench.server.loaded("a@v2", "a@v2", life)
    assert bench.turn() is Condition.STALE


def test_nothing_is_loaded_into_a_server_that_does_not_answer_yet(bench: Bench) -> None:
    with pytest.raises(EngineAwayError, match="lost while a@v0"):
        bench.server.loaded("a@v0", "base", bench.server.life)
    assert bench.server.health.condition is Condition.RESTARTING


def test_a_server_that_never_comes_back_is_given_up(bench: Bench) -> None:
    bench.turn()
    bench.fake.stop()
    conditions = [bench.turn(10.0) for _ in range(3)]
    assert conditions == [Condition.RESTARTING, Condition.FAILED, Condition.FAILED]


@pytest.mark.parametrize("failure", [OSError(28, "no space left"), EngineAwayError("the connection was closed")])
def test_a_start_that_fails_is_a_life_that_ended(bench: Bench, failure: Exception) -> None:
    bench.turn()
    bench.fake.stop()
    bench.failure = failure
    assert [bench.turn(10.0) for _ in range(3)] == [Condition.DEAD, Condition.FAILED, Condition.FAILED]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_server_that_nothing_watches_has_failed(bench: Bench) -> None:
    bench.server.start()
    bench.hold("a@v1")
    assert bench.server.health.condition is Condition.HEALTHY
    bench.failure = RuntimeError("can't start new thread")
    bench.fake.dead.set()
    bench.clock.now_s += HANG_S
    bench.server.look()
    until(lambda: not bench.server._thread.is_alive())
    assert bench.server.health.condition is Condition.FAILED


def test_a_log_that_cannot_be_read_is_no_reason_to_end(tmp_path: Path) -> None:
    assert log_tail(tmp_path).startswith("(no log: ") and "runs elsewhere" in log_tail(tmp_path / "none")


def test_a_server_that_does_not_answer_at_all_is_an_error_with_its_url(tmp_path: Path) -> None:
    bounds = Bounds(hang_s=1.0, start_s=0.0, max_restarts=1)
    nowhere = VllmClient(f"unix:{tmp_path / 'none'}", None)
    server = Server(lambda: (nowhere, None), ADAPTERS, bounds, HandClock(), lambda: "the end")
    with pytest.raises(UnavailableError, match=r"(?s)did not answer within 0 s, at last: .*; its log ends:\nthe end"):
        server.start()


def test_an_own_server_whose_answers_cannot_be_read_is_an_error_at_once(bench: Bench, tmp_path: Path) -> None:
    """It goes by texts where ids were asked for."""
    bench.fake.names_as_ids = False
    process = ServerProcess(["sleep", "600"], {}, tmp_path / "log")
    bounds = Bounds(hang_s=1.0, start_s=600.0, max_restarts=1)
    client = VllmClient(bench.fake.url, None)
    server = Server(lambda: (client, process), ADAPTERS, bounds, HandClock(), lambda: "the end")
    with pytest.raises(ConfigError, match=r"(?s)answered /v1/completions with something else: .*text of 0.*\nthe end"):
        server.start()
    assert process.exit_code is not None


def test_an_own_server_that_listens_no_more_is_dead_at_once_and_a_found_one_may_come_back(tmp_path: Path) -> None:
    """vLLM's waits for ever for what its dead engine has begun."""
    bench = Bench(tmp_path)
    process = ServerProcess(["sleep", "600"], {}, tmp_path / "log")
    bounds = Bounds(hang_s=HANG_S, start_s=600.0, max_restarts=1)
    own = Server(lambda: (VllmClient(bench.fake.url, None), process), ADAPTERS, bounds, bench.clock, lambda: "")
    try:
        own.turn()
        assert (own.health.condition, bench.turn()) == (Condition.STALE, Condition.STALE)
        bench.fake.stop()
        own.turn()
        assert (own.health.condition, bench.turn()) == (Condition.RESTARTING, Condition.STALE)
        assert process.exit_code is not None
    finally:
        own.stop()
        bench.close()


def test_before_a_server_that_is_found_something_else_may_answer_for_a_while(bench: Bench) -> None:
    bench.fake.names_as_ids = False
    with ThreadPoolExecutor() as starting:
        version = starting.submit(bench.server.start)
        with pytest.raises(TimeoutError):
            version.result(2 * POLL_S)
        bench.fake.names_as_ids = True
        assert version.result(WAIT_S) == bench.fake.version


def test_an_unsupported_server_is_an_error(bench: Bench) -> None:
    bench.fake.version = "0.11.0"
    with pytest.raises(ConfigError, match=r"or newer, found 0\.11\.0"):
        bench.server.start()


def test_while_weights_are_read_nothing_is_asked_and_that_is_no_silence(bench: Bench) -> None:
    bench.turn()
    bench.hold("a@v1")
    bench.fake.hung.set()
    with bench.server.undisturbed():
        looking = threading.Thread(target=bench.turn, args=(10 * HANG_S,))
        looking.start()
        looking.join(0.1)
        assert looking.is_alive() and bench.server.health.condition is Condition.HEALTHY
    looking.join(WAIT_S)
    assert bench.server.health.condition is Condition.SUSPECT
    assert bench.turn(HANG_S) is Condition.RESTARTING


def test_a_server_that_sleeps_is_left_alone_until_it_wakes(bench: Bench) -> None:
    bench.turn()
    bench.hold("a@v1")
    asked, life = len(bench.fake.bodies), bench.server.life
    bench.server.sleep()
    assert bench.fake.asleep.is_set()
    assert bench.turn(10 * HANG_S) is Condition.HEALTHY and bench.server.health.answers
    assert len(bench.fake.bodies) == asked
    bench.server.wake()
    assert not bench.fake.asleep.is_set()
    # The time that it slept is none of its silence.
    bench.fake.hung.set()
    assert bench.turn() is Condition.SUSPECT
    bench.fake.hung.clear()
    assert bench.turn() is Condition.HEALTHY
    assert bench.server.life == life and bench.server.held


def test_a_server_that_ends_while_it_sleeps_is_begun_anew_only_once_it_is_woken(bench: Bench) -> None:
    bench.turn()
    bench.hold("a@v1")
    bench.server.sleep()
    bench.fake.stop()
    assert bench.turn(10 * HANG_S) is Condition.HEALTHY
    with pytest.raises(EngineAwayError):
        bench.server.wake()
    assert bench.turn(1.0) is Condition.SUSPECT
    assert bench.turn(HANG_S) is Condition.RESTARTING
    assert bench.server.held == {}
