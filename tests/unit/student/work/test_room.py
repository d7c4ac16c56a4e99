"""How a batch is filled."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.student.work.jobs import GATHER_S, Room, used
from shared.bus.port import Delivery
from shared.contracts.jobs import JOB_PRIORITY, Job, JobKind
from tests.fakes.student import StudentBench, make_job

FEEDBACK, REVISE, ROLLOUT, EVAL = JOB_PRIORITY
SIZES = dict.fromkeys(JobKind, 4)


def job(kind: JobKind, sequences: int, version: str = "a@v0") -> Job:
    return make_job(kind, 1, samples=sequences, version=version)[0]


@pytest.mark.parametrize(
    ("kind", "held", "fits"),
    [
        (ROLLOUT, [], True),
        (ROLLOUT, [4, 4], True),
        (ROLLOUT, [4, 5], False),
        (ROLLOUT, [12], False),
        (FEEDBACK, [12], True),
        (FEEDBACK, [13], False),
        (FEEDBACK, [6, 6], True),
    ],
)
def test_lower_kinds_fit_into_the_slots_and_feedback_one_job_beyond(kind: JobKind, held: list[int], fits: bool) -> None:
    assert Room(12, SIZES).fits(kind, [job(ROLLOUT, size) for size in held]) is fits


def test_the_room_beyond_the_slots_is_left_out_where_nothing_waits_for_it() -> None:
    held = [[job(ROLLOUT, size)] for size in (8, 9, 12)]
    assert [Room(12, SIZES).fits(FEEDBACK, each, beyond=False) for each in held] == [True, False, False]


def test_sequences_that_have_ended_make_room_for_others() -> None:
    room, held = Room(12, SIZES), [job(ROLLOUT, 6), job(ROLLOUT, 6)]
    assert [room.fits(ROLLOUT, held, finished) for finished in (3, 4)] == [False, True]
    assert [room.free(held, finished) for finished in (0, 5)] == [0, 5]


def test_a_job_larger_than_the_engine_is_taken_alone() -> None:
    room = Room(4, dict.fromkeys(JobKind, 100))
    assert room.fits(EVAL, [])
    assert not room.fits(EVAL, [job(EVAL, 100)])


def test_the_last_job_seen_says_how_large_the_next_will_be() -> None:
    room, held = Room(8, SIZES), [job(ROLLOUT, 6)]
    assert not room.fits(ROLLOUT, held)
    room.seen(job(ROLLOUT, 2))
    assert room.fits(ROLLOUT, held)


@given(st.integers(1, 64), st.lists(st.tuples(st.sampled_from(JOB_PRIORITY), st.integers(1, 20)), max_size=30))
def test_a_filled_batch_never_exceeds_the_slots_by_more_than_feedback(
    slots: int, waiting: list[tuple[JobKind, int]]
) -> None:
    room = Room(slots, {kind: 20 for kind in JobKind})
    held: list[Job] = []
    for kind, size in waiting:
        if room.fits(kind, held):
            held.append(job(kind, size))
    first = held[0].sequences if held else 0
    lower = [each for each in held[1:] if each.kind is not FEEDBACK]
    assert used(lower) <= slots
    assert used(held) <= max(slots, first) + 20
    assert room.free(held) == max(0, slots - used(held))


def test_a_full_batch_waits_for_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = StudentBench(tmp_path, slots=8)
    bench.turn()
    waits: list[float] = []
    take = bench.bus.take

    def noted(*queues: Any, **how: Any) -> list[Delivery]:
        waits.append(how["block_s"])
        return take(*queues, **how)

    monkeypatch.setattr(bench.bus, "take", noted)
    for number in range(1, 5):
        bench.broker.issue(ROLLOUT, number, samples=2)
    assert (len(bench.done()), waits[1:]) == (4, [GATHER_S, GATHER_S, GATHER_S, 0.0])
    bench.close()
