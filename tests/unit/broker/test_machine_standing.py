"""The state machine of a run that stands: a refused step, a batch that cannot be used, a run that is only served."""

import pytest

from services.broker.machine import machine
from services.broker.machine.moves import (
    Asked,
    Controlled,
    KeepAct,
    KeepRecord,
    SealBatch,
    Serve,
    StepFinished,
    StepRefused,
    TakenUp,
    Tell,
    Ticked,
    VersionServed,
)
from shared.contracts.acting import SilenceAct
from shared.contracts.events import StatusChanged, StepApplied, TutorSilenced
from shared.contracts.run import Status
from shared.contracts.weights import StepFailed
from tests.fakes.world import World, small_plan, told


def until_sealed(world: World) -> list[tuple[str, int]]:
    """Both students' first batches are sealed and nobody has trained on them; returns them."""
    world.start()
    while len(world.of(SealBatch)) < 2:
        event = world.pending.pop(0)
        if not isinstance(event, StepFinished):
            world.send(event)
    world.pending = [event for event in world.pending if not isinstance(event, StepFinished)]
    return [(command.student, command.step) for command in world.of(SealBatch)]


def refusal(world: World, student: str, reason: str) -> StepRefused:
    """Of its first step."""
    return StepRefused(world.at, StepFailed(student=student, step=1, reason=reason))


@pytest.mark.parametrize("refused", [("a",), ("a", "b")])
def test_refused_steps_are_sealed_once_more_when_the_run_is_resumed(refused: tuple[str, ...]) -> None:
    """A refusal acknowledges the batch, so its trainer does not have it any more. Only the first reason stands."""
    world = World(small_plan())
    sealed = until_sealed(world)
    for student in refused:
        assert world.send(refusal(world, student, f"{student}: not finite"))[1:] == []
    assert world.state.paused == "trainer-a cannot apply step 1: a: not finite"
    again = world.send(Controlled(world.at, "resume", "mended"))
    assert [(c.student, c.step) for c in again if isinstance(c, SealBatch)] == sealed
    assert world.finish().status is Status.DONE
    assert world.state.steps == {"a": 4, "b": 4}


def test_the_time_until_a_refused_step_is_resumed_is_the_trainers() -> None:
    world = World(small_plan())
    until_sealed(world)
    before = dict(world.state.tallies["a"].stage_seconds)
    world.send(refusal(world, "a", "not finite"))
    world.at += 500
    world.send(Controlled(world.at, "resume", "mended"))
    after = world.state.tallies["a"].stage_seconds
    assert after["feedback"] == before["feedback"]
    assert after["train"] - before.get("train", 0.0) >= 500


def test_a_batch_that_cannot_be_used_pauses_the_run_until_it_can() -> None:
    world = World(small_plan())
    until_sealed(world)
    world.send(Controlled(world.at, "pause", "lunch"))
    world.state, _ = machine.apply(world.state, world.plan, Controlled(world.at, "resume", "back"))
    paused = machine.cannot_seal(world.state, "a", "groups.jsonl was altered")
    assert world.state.paused == "the batch of step 1 of student a cannot be used: groups.jsonl was altered"
    assert [event.reason for event in told([paused], StatusChanged)] == [f"paused: {world.state.paused}"]
    again = world.send(Controlled(world.at, "resume", "restored"))
    assert ("a", 1) in [(c.student, c.step) for c in again if isinstance(c, SealBatch)]
    assert world.finish().status is Status.DONE


def test_a_run_that_is_only_served_keeps_what_it_is_told() -> None:
    """The report is acknowledged, so it does not come again when training goes on."""
    world = World(small_plan())
    until_sealed(world)
    served, _ = machine.observe(world.state, world.plan, TakenUp(world.at, False))
    refused, commands = machine.observe(served, world.plan, refusal(world, "a", "not finite"))
    assert refused.paused == "trainer-a cannot apply step 1: not finite" and commands == []
    aborted, commands = machine.observe(served, world.plan, Controlled(world.at, "abort", "enough"))
    assert (aborted.status, aborted.failed) == (Status.FAILED, "enough")
    assert len(commands) == len(told(commands, StatusChanged)) == 1
    act = SilenceAct(id="0" * 32, tutor="b", by="me", reason="noise")
    silenced, commands = machine.observe(served, world.plan, Asked(world.at, act))
    assert [each.tutor for each in silenced.silenced] == ["b"]
    assert [type(command) for command in commands] == [KeepAct, Tell]
    assert told(commands, TutorSilenced)


def test_a_step_that_ends_in_a_run_that_is_only_served_is_kept_and_told() -> None:
    world = World(small_plan())
    until_sealed(world)
    state, commands = machine.observe(world.state, world.plan, world.trained("a", 1))
    assert [(event.version, event.round) for event in told(commands, StepApplied)] == [("a@v1", 1)]
    assert [command.record.version for command in commands if isinstance(command, KeepRecord)] == ["a@v1"]
    assert [command.live for command in commands if isinstance(command, Serve)] == ["a@v1", "b@v0"]
    _, again = machine.observe(state, world.plan, world.trained("a", 1))
    assert not told(again, StepApplied)


def test_no_time_passes_in_a_run_that_is_only_served() -> None:
    world = World(small_plan())
    until_sealed(world)
    state, elapsed = world.state, {}
    for at in (world.at + 100, world.at + 5_000):
        state, _ = machine.observe(state, world.plan, VersionServed(at, "a", "a@v0"))
        elapsed[at] = state.at - state.status_since
        assert machine.observe(state, world.plan, Ticked(at + 50)) == (state, [])
    assert set(elapsed.values()) == {world.state.at - world.state.status_since}
