"""A tutor that turns bad falls silent for the rest of the round: the state machine, in any order of events."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.broker.machine.moves import (
    IssueFeedback,
    IssueRevision,
    JobReported,
    SealBatch,
    TakenUp,
    Tell,
)
from shared.contracts.diagnostics import RevisionCount
from shared.contracts.events import TutorSilenced
from shared.contracts.jobs import JobKind
from shared.contracts.run import RunState, Status
from tests.fakes.examples import whole_runs
from tests.fakes.figures import revision_count
from tests.fakes.world import World, small_plan

Revises = Callable[[IssueRevision], tuple[RevisionCount, ...]]


def breaking(bad_tutor: str) -> Revises:
    """All feedback of one tutor breaks what was right, the other's does no harm."""

    def revises(command: IssueRevision) -> tuple[RevisionCount, ...]:
        tutor = "b" if command.student == "a" else "a"
        broke = 3 if tutor == bad_tutor else 0
        return (revision_count(broke, 3 - broke, round_=command.round, tutor=tutor),)

    return revises


def world_with(bad_tutor: str, seed: int = 0, **plan: object) -> World:
    fields = {"revise_share": 1.0, "steps_per_round": 3, "gate_mode": "always"}
    world = World(small_plan(**(fields | plan)), seed=seed, revises=breaking(bad_tutor))
    world.start()
    return world


def until_silent(world: World) -> TutorSilenced:
    while not world.told(TutorSilenced):
        assert world.step(), "the tutor was never silenced"
    return world.told(TutorSilenced)[0]


@settings(max_examples=whole_runs(12))
@given(seed=st.integers(0, 10**6), sequential=st.booleans())
def test_in_any_order_a_silent_tutor_is_not_asked_again_until_the_next_round(seed: int, sequential: bool) -> None:
    world = world_with("b", seed, parallel=not sequential)
    assert world.finish().status is Status.DONE
    silent: set[int] = set()
    asked_after: list[IssueFeedback] = []
    rounds_asked: set[int] = set()
    for command in world.commands:
        if isinstance(command, Tell) and isinstance(command.event, TutorSilenced):
            silenced = command.event
            assert (silenced.tutor, silenced.student) == ("b", "a")
            assert silenced.round not in silent, "told once a round"
            silent.add(silenced.round)
        elif isinstance(command, IssueFeedback) and command.tutor == "b":
            rounds_asked.add(command.round)
            asked_after += [command] if command.round in silent else []
    assert silent == {1, 2}
    assert rounds_asked == {1, 2}, "a new round is a new chance"
    assert not asked_after
    assert len([c for c in world.of(IssueFeedback) if c.tutor == "a"]) == 2 * 3 * 4, "the honest one is always asked"


def test_it_takes_three_groups_that_are_equally_large() -> None:
    silenced = until_silent(world_with("b"))
    assert (silenced.broke, silenced.right, silenced.break_rate) == (9, 9, 1.0)
    assert (silenced.round, silenced.bound) == (1, 0.5)
    assert silenced.low > 0.5 > silenced.chance == pytest.approx(1 / 3)


def test_untold_revisions_and_those_of_other_rounds_do_not_count() -> None:
    def revises(command: IssueRevision) -> tuple[RevisionCount, ...]:
        other = revision_count(3, 0, round_=command.round, told=False)
        return other, revision_count(3, 0, round_=command.round + 10), revision_count(3, 0, tutor="c")

    world = World(small_plan(revise_share=1.0, steps_per_round=3, gate_mode="always"), revises=revises)
    world.start()
    assert world.finish().silenced == []


def test_the_open_step_waits_for_no_feedback_of_a_silent_tutor() -> None:
    """What is not asked yet is left out, what is under way is given up, and both are sealed without."""
    world = world_with("b", problems_per_step=8)
    held = hold_feedback_of("b", world, at_most=5)
    until_silent(world)
    phase = next(phase for phase in world.state.phases if phase.student == "a")
    assert phase.step is not None and phase.step.step == 1
    given_up = [group for group in phase.step.groups if group.feedback.reason == "silenced"]
    assert len(given_up) == len(held) == 3
    assert world.state.tallies["a"].lost_feedback == {"silenced": 3}
    assert sum(group.feedback.output is not None for group in phase.step.groups) == 5, "what came stays"
    while not [c for c in world.of(SealBatch) if c.student == "a"]:
        assert world.step()
    before = world.state.model_dump(exclude={"revision", "at"})
    for event in held:
        world.send(event)
    assert world.state.model_dump(exclude={"revision", "at"}) == before, "late feedback changes nothing"
    assert world.finish().status is Status.DONE


def hold_feedback_of(tutor: str, world: World, *, at_most: int) -> list[JobReported]:
    """Let the tutor answer `at_most` jobs of step 1; keeps the rest back, and lets everything else happen up to there.

    Revisions are let through only then, so that the open step has both kinds when the tutor falls silent.
    """
    tutee = "a" if tutor == "b" else "b"
    held: list[JobReported] = []
    revisions: list[JobReported] = []
    came = 0
    while len(held) + came < 8:
        event = world.pending.pop(0)
        kind = event.kind if isinstance(event, JobReported) else None
        mine = isinstance(event, JobReported) and event.job_id.startswith(f"r1.{tutee}.s1.")
        if mine and kind is JobKind.REVISE:
            revisions.append(event)  # type: ignore[arg-type]
        elif mine and kind is JobKind.FEEDBACK and came == at_most:
            held.append(event)  # type: ignore[arg-type]
        else:
            came += mine and kind is JobKind.FEEDBACK
            world.send(event)
    world.pending = [*(e for e in world.pending if e not in held), *revisions]
    return held


def test_groups_without_rollouts_yet_are_not_sent_to_a_silent_tutor() -> None:
    world = world_with("b", problems_per_step=8)
    late = None
    while late is None:
        rollouts = [e for e in world.pending if isinstance(e, JobReported) and e.job_id.startswith("r1.a.s1.")]
        late = rollouts[0] if rollouts else None
        if late is None:
            world.step()
    world.pending.remove(late)
    silenced = until_silent(world)
    assert silenced.step == 1
    commands = world.send(late)
    assert not [c for c in commands if isinstance(c, IssueFeedback)]
    assert world.finish().status is Status.DONE


@pytest.mark.parametrize("redis_was_empty", [False, True])
def test_silence_survives_a_restart(redis_was_empty: bool) -> None:
    world = world_with("b")
    until_silent(world)
    world.state = RunState.model_validate_json(world.state.model_dump_json())
    done = len(world.commands)
    if redis_was_empty:
        world.pending = [event for event in world.pending if not isinstance(event, JobReported)]
    world.send(TakenUp(world.at, redis_was_empty, sealed=dict.fromkeys("ab", 0)))
    while world.state.round == 1 and world.state.status is Status.TRAINING:
        assert world.step()
    later = [c for c in world.commands[done:] if isinstance(c, IssueFeedback) and c.round == 1]
    assert {c.tutor for c in later} == {"a"}
    assert len(world.state.silenced) == 1


def test_no_bound_no_silence() -> None:
    assert world_with("b", max_break_rate=1.0).finish().silenced == []


def test_a_revision_that_is_reported_twice_counts_once() -> None:
    world = world_with("a")
    while not world.of(IssueRevision):
        world.step()
    report = next(e for e in world.pending if isinstance(e, JobReported) and e.kind is JobKind.REVISE)
    world.send(report)
    world.send(replace(report, at=world.at + 1))
    assert sum(row.groups for tally in world.state.tallies.values() for row in tally.revisions) == 1
