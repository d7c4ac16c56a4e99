"""Readiness, and the heartbeat that tells it."""

import threading
from pathlib import Path

from services.student.board import ANSWER_SILENCE_S, IDLE_BOUND_S, Board, Serving, student_heartbeat
from shared.obs.presence import Presence
from tests.fakes.bus.memory import MemoryBus
from tests.fakes.student import HandClock, config_in

SERVING = Serving("a@v0", {"a@v0": "b" * 64}, None)


def test_a_loop_without_a_sign_of_life_is_not_ready_and_a_long_batch_is() -> None:
    clock = HandClock()
    board = Board(clock)
    board.show(SERVING)
    assert board.not_ready() is None
    board.beat(allowance_s=1000)
    clock.now_s += 1000 + IDLE_BOUND_S - 1
    assert board.not_ready() is None
    clock.now_s += 2
    assert "stuck" in str(board.not_ready())
    assert board.state == "degraded"
    board.beat()
    assert board.not_ready() is None


def test_an_answer_that_goes_on_keeps_it_ready_and_one_that_stands_still_does_not() -> None:
    clock = HandClock()
    board = Board(clock)
    board.show(SERVING)
    for _ in range(20):
        board.beat_of_answer()
        clock.now_s += ANSWER_SILENCE_S
        assert board.not_ready() is None
    clock.now_s += IDLE_BOUND_S + 1
    assert "stuck" in str(board.not_ready())


def test_what_is_shown_is_not_changed_behind_the_readers_back() -> None:
    board, versions = Board(HandClock()), {"a@v0": "b" * 64}
    board.show(Serving("a@v0", versions, None))
    versions.clear()
    assert board.serving.versions == {"a@v0": "b" * 64}


def test_the_heartbeat_says_where_what_and_how(tmp_path: Path) -> None:
    clock, bus, url_file = HandClock(), MemoryBus(), tmp_path / "a.url"
    board = Board(clock)
    config, stopping = config_in(tmp_path, url_file=url_file), threading.Event()
    presence = Presence(bus, lambda: student_heartbeat(config, board, clock, stopping), period_s=2.0)
    presence.beat()
    (starting,) = bus.heartbeats()
    assert (starting.service, starting.state, starting.url, starting.version) == ("student-a", "starting", None, None)
    url_file.write_text("http://127.0.0.1:1")
    board.show(SERVING)
    board.free_slots = 3
    presence.beat()
    (ready,) = bus.heartbeats()
    assert (ready.state, ready.url, ready.version, ready.free_slots) == ("ready", "http://127.0.0.1:1", "a@v0", 3)
    assert ready.versions == SERVING.versions


def test_a_bus_that_is_away_costs_a_beat_and_the_last_one_says_draining(tmp_path: Path) -> None:
    clock, bus = HandClock(), MemoryBus()
    config, board, stopping = config_in(tmp_path), Board(clock), threading.Event()
    presence = Presence(bus, lambda: student_heartbeat(config, board, clock, stopping), period_s=2.0)
    bus.server.down = True
    presence.beat()
    bus.server.down = False
    stopping.set()
    presence.run(stopping)
    assert [beat.state for beat in bus.heartbeats()] == ["draining"]
