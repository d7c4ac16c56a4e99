"""Whose turn it is among the versions that jobs ask for."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from services.student.engines.loop import VersionTurns

SLOTS = 4


def test_a_version_that_is_alone_takes_whatever_comes() -> None:
    turns = VersionTurns(SLOTS)
    for running in (False, True, True):
        turns.look(running, Counter({"a@v1": 9}))
        assert all(turns.takes("a@v1") for _ in range(9))


def test_what_comes_for_another_version_gathers_until_all_of_this_one_is_done() -> None:
    turns = VersionTurns(SLOTS)
    turns.look(False, Counter({"a@v1": 2}))
    assert turns.takes("a@v1") and turns.takes("a@v1")
    turns.look(True, Counter({"a@v0": 3, "a@v1": 1}))
    assert not turns.takes("a@v1") and not turns.takes("a@v0")
    turns.look(False, Counter({"a@v0": 3, "a@v1": 1}))
    assert not turns.takes("a@v1")
    assert [turns.takes("a@v0") for _ in range(3)] == [True] * 3


def test_a_turn_takes_what_was_there_when_it_began_though_others_wait_and_not_all_fits_at_once() -> None:
    turns = VersionTurns(SLOTS)
    turns.look(False, Counter({"a@v1": 9, "a@v0": 1}))
    assert turns.takes("a@v1")
    turns.look(True, Counter({"a@v1": 8, "a@v0": 1}))
    assert [turns.takes("a@v1") for _ in range(4)] == [True, True, True, False]


@given(st.lists(st.dictionaries(st.sampled_from("xyz"), st.integers(1, 9), min_size=1), max_size=30))
def test_nobody_waits_longer_than_for_one_turn_of_each_other_version(came: list[dict[str, int]]) -> None:
    turns = VersionTurns(SLOTS)
    waiting: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    for more in came:
        waiting.update(more)
        turns.look(False, waiting)
        begun = Counter(version for version in "xyz" for _ in range(waiting[version]) if turns.takes(version))
        (version,) = begun
        assert begun[version] <= SLOTS or waiting.keys() == {version}
        waiting -= begun
        passed.update(other for other in waiting if other != version)
        del passed[version]
        assert all(count <= 2 for count in passed.values())
