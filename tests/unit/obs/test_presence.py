"""Whose a name is: a second process with it is refused, one that comes after a dead one is not held up."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from shared.contracts.heartbeats import Heartbeat, ProcessId
from shared.errors import ConfigError
from shared.obs.presence import MISSED_BEATS, Presence, this_process
from tests.fakes.bus.memory import MemoryBus
from tests.fakes.bus.memory_server import MemoryServer
from tests.fakes.bus.outliving import pass_s
from tests.fakes.student import HandClock
from tests.fakes.waiting import WAIT_S, wait_until

PERIOD_S = 0.1
ELSEWHERE = ProcessId(host="node-7", kernel="another", pid=1, began="12")


@pytest.fixture
def bus() -> MemoryBus:
    """Heartbeats run out where a test lets time pass, and nowhere else."""
    return MemoryBus(MemoryServer(HandClock()))


def beat_of(process: ProcessId | None, *, at: float, replica: str = "0") -> Heartbeat:
    return Heartbeat(service="student-a", replica=replica, state="ready", at=at, process=process)


class Ours:
    """This process's presence on a thread, as in a service."""

    def __init__(self, bus: MemoryBus) -> None:
        self.presence = Presence(bus, lambda: beat_of(None, at=time.time()), period_s=PERIOD_S)
        self.stopping = threading.Event()
        self.error: ConfigError | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.presence.run(self.stopping)
        except ConfigError as error:
            self.error = error

    def stop(self) -> None:
        self.stopping.set()
        self._thread.join(WAIT_S)

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()


@pytest.fixture
def ours(bus: MemoryBus) -> Iterator[Ours]:
    started = Ours(bus)
    yield started
    started.stop()


def test_a_free_name_is_taken_and_given_back(bus: MemoryBus, ours: Ours) -> None:
    wait_until(ours.presence.admitted.is_set, "the name")
    wait_until(lambda: [beat.process for beat in bus.heartbeats()] == [this_process()], "its heartbeat")
    ours.stop()
    assert [beat.process for beat in bus.heartbeats()] == [None]


def test_a_second_process_is_refused_and_says_nothing_in_the_firsts_name(bus: MemoryBus) -> None:
    first = beat_of(ELSEWHERE, at=1.0)
    bus.beat(first, ttl_s=60)
    ours = Ours(bus)
    try:
        for at in range(2, 100):
            bus.beat(beat_of(ELSEWHERE, at=float(at)), ttl_s=60)
            time.sleep(PERIOD_S)
            if ours.ended:
                break
        assert ours.error is not None and "process 1 on node-7 is up with it" in str(ours.error)
        assert "OPCOD_REPLICA" in str(ours.error) and ours.error.exit_code == 2
        assert not ours.presence.admitted.is_set()
        assert {beat.process for beat in bus.heartbeats()} == {ELSEWHERE}
    finally:
        ours.stop()


def test_one_that_is_told_to_end_before_it_has_the_name_leaves_it_to_the_other(bus: MemoryBus) -> None:
    bus.beat(beat_of(ELSEWHERE, at=1.0), ttl_s=60)
    ours = Ours(bus)
    ours.stop()
    assert ours.ended and [beat.process for beat in bus.heartbeats()] == [ELSEWHERE]


def test_a_heartbeat_that_stands_still_runs_out(bus: MemoryBus) -> None:
    """As after SIGKILL on another machine."""
    bus.beat(beat_of(ELSEWHERE, at=1.0), ttl_s=MISSED_BEATS * PERIOD_S)
    ours = Ours(bus)
    try:
        assert not ours.presence.admitted.wait(2 * PERIOD_S)
        pass_s(bus.server, MISSED_BEATS * PERIOD_S + 1)
        assert ours.presence.admitted.wait(WAIT_S)
    finally:
        ours.stop()


def test_one_that_was_killed_on_this_machine_holds_nobody_up(bus: MemoryBus) -> None:
    code = "from shared.obs.presence import this_process; print(this_process().model_dump_json(), flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        process = ProcessId.model_validate_json(other.stdout.readline())
        bus.beat(beat_of(process, at=1.0), ttl_s=60)
        ours = Ours(bus)
        assert not ours.presence.admitted.wait(5 * PERIOD_S), "it lives"
        other.kill()  # not waited for: a process that nobody has asked for its end has one all the same
        assert ours.presence.admitted.wait(WAIT_S)
        ours.stop()


def test_a_later_process_of_the_same_id_is_another_one(bus: MemoryBus, ours: Ours) -> None:
    ours.stop()
    bus.beat(beat_of(this_process().model_copy(update={"began": "1"}), at=1.0), ttl_s=60)
    again = Ours(bus)
    assert again.presence.admitted.wait(WAIT_S)
    again.stop()


@pytest.mark.parametrize("other", [beat_of(None, at=1.0), beat_of(ELSEWHERE, at=1.0, replica="1")])
def test_a_name_given_back_and_another_name_are_no_hindrance(bus: MemoryBus, other: Heartbeat) -> None:
    bus.beat(other, ttl_s=60)
    ours = Ours(bus)
    assert ours.presence.admitted.wait(WAIT_S)
    ours.stop()
