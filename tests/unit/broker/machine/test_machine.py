"""The run's state machine: order, exactly once, gate, deadlines, pause, recovery."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from services.broker.machine import machine
from services.broker.machine.moves import (
    Controlled,
    Forget,
    IssueEval,
    IssueFeedback,
    IssueRollout,
    JobReported,
    KeepRecord,
    SealBatch,
    Serve,
    StepFinished,
    StepRefused,
    TakenUp,
    VersionServed,
)
from shared.contracts.events import StepApplied
from shared.contracts.jobs import JobKind
from shared.contracts.run import JobStatus, Split, Status
from shared.contracts.weights import StepFailed
from tests.fakes.examples import whole_runs
from tests.fakes.world import World, base_of, small_plan, tick, told


def finished(world: World) -> World:
    world.start()
    assert world.finish().status is Status.DONE
    return world


def test_a_run_goes_through_its_statuses_in_order() -> None:
    world = finished(World(small_plan()))
    one_round = ["GATED", "TRAINING", "ROUND_DONE"]
    assert world.statuses() == [*one_round, "VALIDATING", *one_round, "FINAL_EVAL", "DONE"]


def test_every_step_is_sealed_once_and_drawn_from_the_version_before_it() -> None:
    world = finished(World(small_plan()))
    sealed = [(c.student, c.step) for c in world.of(SealBatch)]
    assert sorted(sealed) == [(s, k) for s in "ab" for k in (1, 2, 3, 4)]
    for student, step in sealed:
        assert base_of(world, student, step) == {step - 1}


@settings(max_examples=whole_runs(20))
@given(seed=st.integers(0, 10**6), repeat=st.floats(0, 0.5), parallel=st.booleans())
def test_any_order_and_any_repeats_give_the_same_run(seed: int, repeat: float, parallel: bool) -> None:
    world = World(small_plan(parallel=parallel), seed=seed)
    world.start()
    while world.state.status is not Status.DONE:
        assert world.step(), f"stuck in {world.state.status} with nothing under way"
        if world.rng.random() < repeat:
            world.send(world.rng.choice(world.handled))
    sealed = sorted((c.student, c.step) for c in world.of(SealBatch))
    assert sealed == [(s, k) for s in "ab" for k in (1, 2, 3, 4)]
    assert sorted((e.student, e.step) for e in world.told(StepApplied)) == sealed, "no step is booked twice"
    issued = [c.job_id for c in world.commands if isinstance(c, IssueRollout | IssueFeedback | IssueEval)]
    assert len(issued) == len(set(issued))
    assert world.state.version == {"a": "a@v4", "b": "b@v4"}
    for score in world.state.scores:
        assert {domain: counts.format_ok for domain, counts in score.answers.items()} == {
            domain: score.drawn(domain) for domain in world.plan.domains
        }


@pytest.mark.parametrize("streamed", [None, 2], ids=["whole", "streamed"])
@pytest.mark.parametrize("revise_share", [0.0, 1.0], ids=["unrevised", "revised"])
def test_what_is_told_twice_in_a_row_changes_nothing_the_second_time(streamed: int | None, revise_share: float) -> None:
    world = World(small_plan(revise_share=revise_share, streamed=streamed))
    world.start()
    while world.state.status is not Status.DONE:
        assert world.step()
        before = world.state
        assert world.send(world.handled[-1]) == []
        # It is counted as an event, and that is all.
        assert world.state == before.model_copy(update={"revision": world.state.revision})


def test_phases_run_at_once_or_one_after_the_other() -> None:
    def order(parallel: bool) -> list[str]:
        return [c.student for c in finished(World(small_plan(parallel=parallel, rounds=1))).of(SealBatch)]

    assert order(parallel=False) == ["a", "a", "b", "b"]
    assert sorted(order(parallel=True)) == ["a", "a", "b", "b"]
    world = World(small_plan())
    world.start()
    while world.state.status is not Status.TRAINING:
        world.step()
    assert {c.student for c in world.of(IssueRollout)} == {"a", "b"}


def test_tutors_are_the_versions_of_the_rounds_start() -> None:
    world = finished(World(small_plan()))
    frozen = {(c.round, c.tutor_version) for c in world.of(IssueFeedback)}
    assert frozen == {(1, "a@v0"), (1, "b@v0"), (2, "a@v2"), (2, "b@v2")}


def test_feedback_is_asked_for_as_soon_as_its_own_rollouts_are_there() -> None:
    world = World(small_plan())
    world.start()
    while world.state.status is not Status.TRAINING:
        world.step()
    rollout = next(e for e in world.pending if isinstance(e, JobReported) and e.kind is JobKind.ROLLOUT)
    world.pending.remove(rollout)
    commands = world.send(rollout)
    assert [type(command) for command in commands] == [IssueFeedback]


@pytest.mark.parametrize(
    ("weak", "mode", "speaks"),
    [
        (4, "cognizance", {"a", "b"}),
        (1, "cognizance", set()),
        (1, "always", {"a", "b"}),
        (4, "never", set()),
    ],
)
def test_the_gate_decides_who_tutors(weak: int, mode: str, speaks: set[str]) -> None:
    world = finished(World(small_plan(gate_mode=mode), weak=weak))
    assert {c.tutor for c in world.of(IssueFeedback)} == speaks
    assert [gate.round for gate in world.state.gates] == [1, 2]


def test_domain_selective_tutors_speak_on_their_own_domain_only() -> None:
    world = finished(World(small_plan(gate_mode="domain_selective"), weak=1))
    strong = {"a": "physics", "b": "chemistry"}
    asked = world.of(IssueFeedback)
    assert asked
    assert all(c.problem_id.startswith(strong[c.tutor]) for c in asked)


def test_a_late_tutor_is_given_up_only_after_it_took_the_job() -> None:
    world = World(small_plan())
    world.start()
    while not world.of(IssueFeedback):
        world.step()
    feedback = world.of(IssueFeedback)[0]
    world.at += 10_000
    tick(world)
    assert not world.state.tallies[feedback.student].lost_feedback, "waiting in a queue is not late"
    world.send(JobReported(world.at, feedback.job_id, "started"))
    world.at += 31
    tick(world)
    assert world.state.tallies[feedback.student].lost_feedback == {"tutor_timeout": 1}
    late = JobReported(world.at, feedback.job_id, "done", kind=JobKind.FEEDBACK, output="1" * 64)
    before = world.state.model_dump(exclude={"revision", "at"})
    world.send(late)
    assert world.state.model_dump(exclude={"revision", "at"}) == before, "late feedback changes nothing"


@pytest.mark.parametrize("away_s", [10_000.0, -10_000.0], ids=["away for long", "the clock was set back meanwhile"])
def test_a_tutor_is_not_late_by_the_time_in_which_the_broker_was_away(away_s: float) -> None:
    world = World(small_plan())
    world.start()
    while not world.of(IssueFeedback):
        world.step()
    feedback = world.of(IssueFeedback)[0]
    world.send(JobReported(world.at, feedback.job_id, "started"))
    world.at += away_s
    world.send(TakenUp(world.at, False))
    world.at += 29
    tick(world)
    assert not world.state.tallies[feedback.student].lost_feedback
    world.at += 2
    tick(world)
    assert world.state.tallies[feedback.student].lost_feedback == {"tutor_timeout": 1}


def test_failed_feedback_lets_the_step_go_on() -> None:
    world = World(small_plan(revise_share=0.0))
    world.start()
    while world.state.status is not Status.DONE:
        event = world.pending.pop(0)
        if isinstance(event, JobReported) and event.kind is JobKind.FEEDBACK:
            event = JobReported(event.at, event.job_id, "failed", kind=JobKind.FEEDBACK, reason="broken")
        world.send(event)
    assert world.state.tallies["a"].lost_feedback == {"failed": 16}


def test_a_failed_rollout_is_made_again_once_then_the_run_pauses_with_the_reason() -> None:
    world = World(small_plan())
    world.start()
    while not world.of(IssueRollout):
        world.step()
    first = world.of(IssueRollout)[0]
    world.pending.clear()
    again = world.send(JobReported(world.at, first.job_id, "failed", kind=JobKind.ROLLOUT, reason="out of memory"))
    assert [c.job_id for c in again if isinstance(c, IssueRollout)] == [first.job_id + ".t2"]
    world.send(JobReported(world.at, first.job_id + ".t2", "failed", kind=JobKind.ROLLOUT, reason="out of memory"))
    assert world.state.paused is not None and "out of memory" in world.state.paused
    resumed = world.send(Controlled(world.at, "resume", "fixed"))
    assert first.job_id + ".t3" in [c.job_id for c in resumed if isinstance(c, IssueRollout)]
    assert world.state.paused is None


def test_pausing_issues_nothing_and_resuming_goes_on_to_the_end() -> None:
    world = World(small_plan())
    world.start()
    while not world.of(SealBatch):
        world.step()
    world.send(Controlled(world.at, "pause", "lunch"))
    issued = len(world.commands)
    while world.step():
        pass
    meanwhile = [c for c in world.commands[issued:] if not isinstance(c, Serve | KeepRecord)]
    assert len(meanwhile) == len(told(meanwhile, StepApplied))
    world.send(Controlled(world.at, "resume", "back"))
    assert world.finish().status is Status.DONE


def test_abort_ends_the_run() -> None:
    world = World(small_plan())
    world.start()
    world.send(Controlled(world.at, "abort", "enough"))
    assert (world.state.status, world.state.failed) == (Status.FAILED, "enough")


def test_a_trainer_that_cannot_go_on_pauses_the_run() -> None:
    world = World(small_plan())
    world.start()
    world.send(StepRefused(world.at, StepFailed(student="a", step=1, reason="loss is not finite")))
    assert world.state.paused == "trainer-a cannot apply step 1: loss is not finite"


def test_a_step_that_was_not_sealed_cannot_be_done() -> None:
    world = World(small_plan())
    world.start()
    while not world.of(IssueRollout):
        world.step()
    world.send(world.trained("a", 1))
    assert world.state.version["a"] == "a@v0"
    assert not world.told(StepApplied)


def test_a_step_is_told_once_however_often_it_is_announced() -> None:
    world = World(small_plan())
    world.start()
    while not world.told(StepApplied):
        world.step()
    [applied] = world.told(StepApplied)
    for _ in range(2):
        world.send(world.trained(applied.student, applied.step))
    assert [event.version for event in world.told(StepApplied)] == [applied.version]


def test_the_next_step_waits_for_a_student_that_serves_the_new_version() -> None:
    world = World(small_plan())
    world.start()
    while not world.of(SealBatch):
        world.step()
    student = world.of(SealBatch)[0].student
    world.pending.clear()
    world.send(world.trained(student, 1))
    world.send(VersionServed(world.at, student, f"{student}@v0"))
    assert not base_of(world, student, 2)
    world.send(VersionServed(world.at, student, f"{student}@v1"))
    assert base_of(world, student, 2) == {1}


def test_students_are_told_to_keep_live_and_tutor_versions_until_both_phases_end() -> None:
    world = finished(World(small_plan(rounds=1)))
    for command in world.of(Serve):
        assert command.live in command.versions
    during = [c for c in world.of(Serve) if c.student == "a" and c.live == "a@v2"]
    assert ("a@v0", "a@v2") in [c.versions for c in during]
    assert world.of(Serve)[-1].versions == (world.of(Serve)[-1].live,)


def test_payloads_are_dropped_only_when_their_revisions_are_in() -> None:
    world = World(small_plan(revise_share=1.0, rounds=1, steps_per_round=1))
    world.start()
    revisions: list[JobReported] = []
    while world.pending:
        event = world.pending.pop(0)
        if isinstance(event, JobReported) and event.kind is JobKind.REVISE:
            revisions.append(event)
        else:
            world.send(event)
    assert world.state.status is Status.TRAINING and revisions
    assert not [c for c in world.of(Forget) if ".s" in c.key or ":s1" in c.key]
    for event in revisions:
        world.send(event)
    assert world.finish().status is Status.DONE
    assert {"res:a:s1", "res:b:s1"} <= {c.key for c in world.of(Forget)}


@settings(max_examples=whole_runs(15))
@given(seed=st.integers(0, 10**6), at=st.integers(1, 150))
def test_a_lost_redis_makes_open_work_again_with_the_same_ids(seed: int, at: int) -> None:
    world = World(small_plan(), seed=seed)
    world.start()
    for _ in range(at):
        if world.state.status is Status.DONE or not world.step():
            break
    done = [event for event in world.pending if isinstance(event, StepFinished)]
    sealed = {s: max((c.step for c in world.of(SealBatch) if c.student == s), default=0) for s in "ab"}
    world.pending = []
    before = {c.job_id for c in world.commands if isinstance(c, IssueRollout)}
    issued = len(world.commands)
    world.send(TakenUp(world.at, redis_was_empty=True, sealed=sealed))
    again = {c.job_id for c in world.commands[issued:] if isinstance(c, IssueRollout)}
    assert all(job_id in before or job_id.split(".")[2] not in {j.split(".")[2] for j in before} for job_id in again)
    world.pending += done
    assert world.finish().status is Status.DONE
    assert world.state.steps == {"a": 4, "b": 4}


def test_scores_are_kept_for_the_report() -> None:
    state = finished(World(small_plan())).state
    kept = sorted((score.student, score.split, score.round) for score in state.scores)
    validation = [(s, Split.VALIDATION, r) for s in "ab" for r in (1, 2, 3)]
    assert kept == sorted([*validation, *((s, Split.TEST, r) for s in "ab" for r in (1, 3))])


def test_stage_seconds_cover_the_time_of_the_phases() -> None:
    world = finished(World(small_plan()))
    assert set(world.state.tallies["a"].stage_seconds) == {"rollout", "feedback", "train", "swap"}
    assert sum(world.state.status_seconds.values()) == pytest.approx(world.state.status_since - 1000.0)


def test_apply_leaves_the_state_it_was_given_alone() -> None:
    world = World(small_plan())
    before = world.state.model_dump()
    machine.apply(world.state, world.plan, TakenUp(world.at, False))
    assert world.state.model_dump() == before


def test_job_states_survive_a_round_trip() -> None:
    world = World(small_plan())
    world.start()
    while world.state.status is not Status.TRAINING:
        world.step()
    copy = type(world.state).model_validate_json(world.state.model_dump_json())
    assert copy == world.state
    assert any(group.rollout.status is JobStatus.ISSUED for p in copy.phases if p.step for group in p.step.groups)


def test_a_copied_state_is_equal_and_has_nothing_that_changes_in_common() -> None:
    """At every event of a run: what it holds, to the last list, is told by a deep copy."""
    world = World(small_plan())
    world.start()
    while world.state.status is not Status.DONE:
        world.step()
        copied, deep = world.state.copied(), world.state.model_copy(deep=True)
        assert copied == deep
        assert not changeable(copied) & changeable(world.state)


def changeable(value: object) -> set[int]:
    """Ids of all models, lists and dictionaries of it that are not frozen."""
    match value:
        case BaseModel():
            inside = [getattr(value, name) for name in type(value).model_fields]
        case dict():
            inside = list(value.values())
        case list() | tuple():
            inside = list(value)
        case _:
            return set()
    fixed = isinstance(value, tuple) or (isinstance(value, BaseModel) and value.model_config.get("frozen", False))
    return set().union(*map(changeable, inside), set() if fixed else {id(value)})


def test_time_between_sittings_is_charged_to_no_stage() -> None:
    world = World(small_plan())
    world.start()
    while not world.of(IssueRollout):
        world.step()
    world.at += 10_000
    world.send(TakenUp(world.at, False))
    assert world.finish().status is Status.DONE
    assert sum(world.state.status_seconds.values()) < 1000
    assert sum(world.state.tallies["a"].stage_seconds.values()) < 1000
    assert sum(time.seconds for time in world.state.tallies["a"].step_times.values()) < 1000


def test_the_last_test_is_of_the_last_version_or_of_the_best_validated_one() -> None:
    for keep_best, tested in ((False, "v4"), (True, "v2")):
        world = World(small_plan(keep_best=keep_best))
        world.start()
        while world.state.status is not Status.DONE:
            assert world.step()
            if (world.state.status, world.state.round) == (Status.TRAINING, 2):
                # What is evaluated from now on, the last version, has unlearnt most.
                world.strong = world.weak = 1
        last = {score.student: score.version for score in world.state.scores if score.split is Split.TEST}
        assert last == world.state.version == {student: f"{student}@{tested}" for student in "ab"}
        assert {command.student: command.live for command in world.of(Serve)} == last
