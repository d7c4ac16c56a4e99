"""The health of a vLLM server, as a table and over random histories."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.student.engines.vllm.health import RESTART_WINDOW_S, Bounds, Condition, Health, Seen, after

BOUNDS = Bounds(hang_s=60.0, start_s=300.0, max_restarts=2)
HEALTHY, SUSPECT, DEAD, RESTARTING, STALE, FAILED = Condition
ANSWERED, EMPTY, SILENT, ENDED, STARTED, LOADED = Seen


@pytest.mark.parametrize(
    ("condition", "seen", "passed_s", "expected"),
    [
        (HEALTHY, ANSWERED, 5, HEALTHY),
        (HEALTHY, SILENT, 5, SUSPECT),
        (HEALTHY, SILENT, 60, DEAD),
        (HEALTHY, ENDED, 0, DEAD),
        (HEALTHY, EMPTY, 5, STALE),
        (SUSPECT, ANSWERED, 5, HEALTHY),
        (SUSPECT, SILENT, 59, SUSPECT),
        (SUSPECT, SILENT, 60, DEAD),
        (SUSPECT, EMPTY, 5, STALE),
        (DEAD, ANSWERED, 5, DEAD),
        (DEAD, STARTED, 5, RESTARTING),
        (RESTARTING, SILENT, 299, RESTARTING),
        (RESTARTING, SILENT, 300, DEAD),
        (RESTARTING, ENDED, 5, DEAD),
        (RESTARTING, ANSWERED, 5, STALE),
        (STALE, ANSWERED, 5, STALE),
        (STALE, SILENT, 5, STALE),
        (STALE, SILENT, 60, DEAD),
        (STALE, LOADED, 5, HEALTHY),
        (RESTARTING, LOADED, 5, RESTARTING),
        (SUSPECT, LOADED, 5, SUSPECT),
        (FAILED, STARTED, 5, FAILED),
        (FAILED, ANSWERED, 5, FAILED),
    ],
)
def test_each_step(condition: Condition, seen: Seen, passed_s: float, expected: Condition) -> None:
    assert after(Health(condition, 1000.0), seen, 1000.0 + passed_s, BOUNDS).condition is expected


def test_it_is_given_up_after_too_many_starts_within_an_hour() -> None:
    health = Health(DEAD, 0.0)
    conditions = []
    for _ in range(3):
        health = after(health, STARTED, 100.0, BOUNDS)
        conditions.append(health.condition)
        health = after(health, ENDED, 101.0, BOUNDS)
    assert conditions == [RESTARTING, RESTARTING, FAILED]


def test_starts_of_long_ago_are_forgotten() -> None:
    health = Health(DEAD, 0.0)
    for hour in range(9):
        health = after(after(health, STARTED, hour * RESTART_WINDOW_S, BOUNDS), ENDED, hour * RESTART_WINDOW_S, BOUNDS)
    assert health.condition is DEAD


@given(st.lists(st.tuples(st.sampled_from(Seen), st.floats(0, 400)), max_size=40))
def test_what_came_back_is_never_healthy_before_a_version_was_loaded(history: list[tuple[Seen, float]]) -> None:
    health, now_s, loaded = Health(RESTARTING, 0.0), 0.0, False
    for seen, passed_s in history:
        now_s += passed_s
        before, health = health.condition, after(health, seen, now_s, BOUNDS)
        if health.condition in (RESTARTING, STALE, DEAD, FAILED):
            loaded = False
        loaded = loaded or (seen is LOADED and before is STALE)
        assert loaded or health.condition not in (HEALTHY, SUSPECT)
