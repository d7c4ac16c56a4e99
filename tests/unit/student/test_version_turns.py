"""Whose turn it is among the versions that jobs ask for."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from services.student.engines.loop import TURN_STEPS, VersionTurns

SLOTS = 4
LIVE, TUTOR = "a@v1", "a@v0"


def begun(turns: VersionTurns, version: str, waiting: int) -> int:
    return sum(turns.takes(version) for _ in range(waiting))


def test_a_version_that_is_alone_takes_whatever_comes() -> None:
    turns = VersionTurns(SLOTS)
    for running in ((), *[(LIVE,)] * (2 * TURN_STEPS)):
        turns.look(running, {LIVE: 9})
        assert begun(turns, LIVE, 9) == 9


def test_what_comes_for_another_version_gathers_until_all_of_this_one_is_done() -> None:
    turns = VersionTurns(SLOTS)
    turns.look((), {LIVE: 2})
    assert begun(turns, LIVE, 2) == 2
    turns.look((LIVE,), {TUTOR: 3, LIVE: 2})
    # Two were there when the turn began, and have begun.
    assert (begun(turns, LIVE, 2), begun(turns, TUTOR, 3)) == (0, 0)
    turns.look((), {TUTOR: 3, LIVE: 2})
    assert (begun(turns, LIVE, 2), begun(turns, TUTOR, 3)) == (0, 3)


def test_a_turn_takes_what_was_there_when_it_began_though_others_wait_and_not_all_fits_at_once() -> None:
    turns = VersionTurns(SLOTS)
    turns.look((), {LIVE: 9, TUTOR: 1})
    assert turns.takes(LIVE)
    turns.look((LIVE,), {LIVE: 8, TUTOR: 1})
    assert begun(turns, LIVE, 8) == SLOTS - 1


def test_a_long_turn_ends_halfway_and_comes_again() -> None:
    turns = VersionTurns(SLOTS)
    turns.look((), {LIVE: 4, TUTOR: 4})
    whose = []
    for _ in range(3 * TURN_STEPS):
        turns.look((LIVE, TUTOR), {})
        whose.append(turns.version)
    assert whose == [LIVE] * (TURN_STEPS - 1) + [TUTOR] * TURN_STEPS + [LIVE] * TURN_STEPS + [TUTOR]


@given(st.lists(st.dictionaries(st.sampled_from("xyz"), st.integers(1, 9), min_size=1), max_size=30))
def test_nobody_waits_longer_than_for_one_turn_of_each_other_version(came: list[dict[str, int]]) -> None:
    turns = VersionTurns(SLOTS)
    waiting: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    for more in came:
        waiting.update(more)
        turns.look((), waiting)
        taken = Counter({version: begun(turns, version, count) for version, count in waiting.items()})
        (version,) = +taken
        assert taken[version] <= SLOTS or waiting.keys() == {version}
        waiting = waiting - taken
        passed.update(other for other in waiting if other != version)
        del passed[version]
        assert all(count <= 2 for count in passed.values())
