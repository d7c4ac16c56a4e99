"""Who may work with what is resident, and who waits: never two at once, and nobody for ever."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.student.engines.port import EngineAwayError
from services.student.engines.vllm.resident import Residency
from shared.errors import ModelError, OpcodError
from tests.fakes.waiting import WAIT_S

KEYS = "abc"


def wanted() -> None:
    """Nothing speaks against going on."""


class Room:
    """Counts who works, and notes each swap."""

    def __init__(self) -> None:
        self.residency: Residency[str] = Residency(self._swap)
        self.swaps: list[str] = []
        self.failures: dict[str, Exception] = {}
        self._working: list[str] = []
        self._lock = threading.Lock()

    def _swap(self, key: str) -> None:
        with self._lock:
            assert self._working == [], "swapped while somebody worked"
        if key in self.failures:
            raise self.failures[key]
        self.swaps.append(key)

    def work(self, key: str, unwanted: Callable[[], OpcodError | None] = wanted) -> int:
        """Returns how many swaps the wait took."""
        before = len(self.swaps)
        self.residency.enter(key, unwanted)
        waited = len(self.swaps) - before
        try:
            with self._lock:
                self._working.append(key)
                assert set(self._working) == {key} and self.swaps[-1] == key
            return waited
        finally:
            with self._lock:
                self._working.remove(key)
            self.residency.leave()


@pytest.fixture
def room() -> Room:
    return Room()


@settings(max_examples=40)
@given(st.lists(st.sampled_from(KEYS), min_size=1, max_size=24), st.sets(st.sampled_from(KEYS), max_size=1))
def test_never_two_at_once_and_nobody_starves(keys: list[str], broken: set[str]) -> None:
    room = Room()
    room.failures = {key: ModelError("no") for key in broken}
    with ThreadPoolExecutor(len(keys)) as pool:
        working = {number: pool.submit(room.work, key) for number, key in enumerate(keys)}
    for number, key in enumerate(keys):
        if key in broken:
            with pytest.raises(ModelError):
                working[number].result()
        else:
            assert working[number].result(WAIT_S) <= len(KEYS)


class Worker:
    """Enters in a thread of its own, and leaves when told to."""

    def __init__(self, room: Room, key: str, unwanted: Callable[[], OpcodError | None] = wanted) -> None:
        self.entered, self._leave = threading.Event(), threading.Event()
        self.error: Exception | None = None
        self._room, self._key, self._unwanted = room, key, unwanted
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._room.residency.enter(self._key, self._unwanted)
        except OpcodError as error:
            self.error = error
            return
        self.entered.set()
        self._leave.wait(WAIT_S)
        self._room.residency.leave()

    def leave(self) -> None:
        self._leave.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()


def test_who_comes_after_somebody_who_waits_for_another_one_waits_behind(room: Room) -> None:
    first = Worker(room, "a")
    assert first.entered.wait(WAIT_S)
    beside = Worker(room, "a")
    assert beside.entered.wait(WAIT_S)
    other = Worker(room, "b")
    waiting_for(room, 1)
    late, with_other = Worker(room, "a"), Worker(room, "b")
    waiting_for(room, 3)
    assert not late.entered.is_set() and room.swaps == ["a"]
    first.leave()
    assert not other.entered.is_set()
    beside.leave()
    assert other.entered.wait(WAIT_S) and with_other.entered.wait(WAIT_S) and room.swaps == ["a", "b"]
    assert not late.entered.is_set()
    other.leave()
    with_other.leave()
    assert late.entered.wait(WAIT_S) and room.swaps == ["a", "b", "a"]
    late.leave()


def waiting_for(room: Room, count: int) -> None:
    while len(room.residency._waiting) != count:
        threading.Event().wait(0.001)


def test_who_is_not_wanted_any_more_leaves_the_line_and_holds_nobody_up(room: Room) -> None:
    first = Worker(room, "a")
    assert first.entered.wait(WAIT_S)
    cancelled = threading.Event()
    other = Worker(room, "b", lambda: OpcodError("not wanted") if cancelled.is_set() else None)
    waiting_for(room, 1)
    behind = Worker(room, "a")
    waiting_for(room, 2)
    cancelled.set()
    assert behind.entered.wait(WAIT_S) and room.swaps == ["a"]
    other.leave()
    assert str(other.error) == "not wanted"
    behind.leave()
    first.leave()


@pytest.mark.parametrize(("failure", "swaps"), [(ModelError("no"), ["a"]), (EngineAwayError("lost"), ["a", "a"])])
def test_after_a_swap_that_failed_the_one_before_is_resident_unless_all_is_lost(
    room: Room, failure: Exception, swaps: list[str]
) -> None:
    room.failures["b"] = failure
    assert room.work("a") == 1
    with pytest.raises(type(failure)):
        room.work("b")
    room.work("a")
    assert room.swaps == swaps
