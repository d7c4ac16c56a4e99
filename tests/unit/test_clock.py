"""Time for spans: no setting of the clock is in it, and pauses can be left out."""

from shared.clock import WorkingTime
from tests.fakes.student import HandClock


def test_it_begins_at_the_wall_clock_and_is_not_moved_by_setting_it() -> None:
    clock = HandClock()
    clock.set_by_s = 5_000.0
    time = WorkingTime(clock)
    assert time.now_s() == 6_000.0
    for set_by_s in (-90_000.0, 90_000.0):
        clock.set_by_s = set_by_s
        clock.now_s += 3.0
    assert time.now_s() == 6_006.0


def test_what_is_skipped_is_not_in_it() -> None:
    clock = HandClock()
    time = WorkingTime(clock)
    clock.now_s += 10.0
    before = time.now_s()
    for _ in range(3):
        clock.now_s += 100.0
        time.skip()
    assert time.now_s() == before == 1_010.0
    clock.now_s += 1.0
    assert time.now_s() == 1_011.0
