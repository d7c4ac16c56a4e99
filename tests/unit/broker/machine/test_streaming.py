"""Groups that are sealed ahead of their batch: in whatever order they come, each once, and never one that cannot be
begun with."""

import pytest
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st

from services.broker.machine.moves import Asked, IssueRollout, JobReported, SealBatch, SealGroup, TakenUp
from shared.contracts.acting import ExchangeAct, ExchangeRef
from shared.contracts.jobs import JobKind
from shared.contracts.run import GroupState, JobStatus, Status, StepState
from tests.fakes.examples import whole_runs
from tests.fakes.world import World, base_of, small_plan, tick

STEPS = [(student, step) for student in "ab" for step in (1, 2, 3, 4)]


def streaming(mini_batches: int = 2, seed: int = 0, **changes: object) -> World:
    made = World(small_plan(streamed=mini_batches, gate_mode="always", **changes), seed=seed)
    made.start()
    return made


def open_step(made: World, student: str = "a") -> StepState:
    [phase] = [phase for phase in made.state.phases if phase.student == student]
    assert phase.step is not None
    return phase.step


def of_step(made: World, kind: type[SealGroup] | type[IssueRollout], student: str, step: int) -> list[str]:
    return [each.problem_id for each in made.of(kind) if (each.student, each.step) == (student, step)]


@tried(max_examples=whole_runs(20))
@given(seed=st.integers(0, 10**6), repeat=st.floats(0, 0.5), mini_batches=st.integers(1, 4), lost=st.integers(0, 200))
def test_whatever_the_order_a_step_s_groups_are_sealed_once_and_by_mini_batch(
    seed: int, repeat: float, mini_batches: int, lost: int
) -> None:
    world = streaming(mini_batches, seed)
    handled = 0
    while world.state.status is not Status.DONE:
        assert world.step(), f"stuck in {world.state.status} with nothing under way"
        if world.rng.random() < repeat:
            world.send(world.rng.choice(world.handled))
        handled += 1
        if handled == lost:
            world.send(TakenUp(world.at, redis_was_empty=False))
    assert sorted((c.student, c.step) for c in world.of(SealBatch)) == STEPS
    for student, step in STEPS:
        assert base_of(world, student, step) == {step - 1}
        problems = of_step(world, IssueRollout, student, step)
        dealt = world.plan.mini_batches(problems)
        assert [dealt[each] for each in problems] == sorted(dealt.values()), "asked for as they are wanted"
        ahead = of_step(world, SealGroup, student, step)
        assert len(set(ahead)) == len(ahead) < len(problems)
        turns = [dealt[each] for each in ahead]
        assert turns == sorted(turns)
        for turn in range(max(turns, default=0)):
            whole = {each for each, mini_batch in dealt.items() if mini_batch == turn}
            assert whole <= set(ahead), "a mini-batch is begun with when those before it are whole"


def test_a_run_that_does_not_stream_says_nothing_of_it() -> None:
    world = World(small_plan())
    world.start()
    assert world.finish().status is Status.DONE
    assert not world.of(SealGroup)
    assert "ahead" not in world.state.model_dump_json()


def test_nothing_is_sealed_ahead_of_a_step_that_is_whole() -> None:
    """The last group comes with its batch."""
    world = streaming(1)
    while not world.of(SealBatch):
        world.step()
    first = world.of(SealBatch)[0]
    at = [type(c) for c in world.commands if isinstance(c, SealGroup | SealBatch) and c.student == first.student]
    assert at == [SealGroup] * 3 + [SealBatch]


def with_one_ahead(world: World) -> GroupState:
    """A group of student a's open step that has feedback and was sealed ahead."""
    while True:
        for phase in world.state.phases:
            if phase.student == "a" and phase.step is not None and phase.step.ahead and not phase.step.sealed:
                name = phase.step.ahead[0].problem_id
                return next(group for group in phase.step.groups if group.problem_id == name)
        assert world.step()


def test_a_group_whose_feedback_is_excluded_is_sealed_anew_and_last() -> None:
    world = streaming(1)
    group, step = with_one_ahead(world), open_step(world)
    exchange = ExchangeRef(student="a", step=step.step, problem_id=group.problem_id, sample=1)
    act = ExchangeAct(id="1" * 32, act="exclude", exchange=exchange, by="eve", reason="wrong")
    [sealed] = [c for c in world.send(Asked(world.at, act)) if isinstance(c, SealGroup)]
    assert sealed.problem_id == group.problem_id
    now = open_step(world)
    assert now.ahead[-1].problem_id == group.problem_id
    assert now.ahead[-1].sha256 != step.ahead[0].sha256
    assert len(now.ahead) == len(step.ahead)
    assert world.finish().status is Status.DONE


def test_a_group_whose_tutor_is_late_is_sealed_without_it() -> None:
    world = streaming(1, tutor_timeout_s=30.0)
    while not any(group.feedback.status is JobStatus.ISSUED for phase in world.state.phases for group in groups(phase)):
        world.step()
    [phase] = [
        phase for phase in world.state.phases if any(g.feedback.status is JobStatus.ISSUED for g in groups(phase))
    ]
    [group] = [group for group in groups(phase) if group.feedback.status is JobStatus.ISSUED]
    feedback = next(e for e in world.pending if isinstance(e, JobReported) and e.kind is JobKind.FEEDBACK)
    world.pending.remove(feedback)
    world.send(JobReported(world.at, feedback.job_id, "started"))
    world.at += 31
    sealed = [c.problem_id for c in tick(world) if isinstance(c, SealGroup)]
    assert sealed == [group.problem_id]
    world.pending.append(feedback)
    assert world.finish().status is Status.DONE
    assert len(of_step(world, SealGroup, phase.student, 1)) == len(set(of_step(world, SealGroup, phase.student, 1)))


def groups(phase: object) -> list[GroupState]:
    step = getattr(phase, "step", None)
    return step.groups if step is not None else []


@pytest.mark.parametrize("on_disk", [False, True])
def test_an_emptied_redis_has_the_open_step_s_groups_made_and_sealed_again(on_disk: bool) -> None:
    world = streaming(1)
    with_one_ahead(world)
    number = open_step(world).step
    world.pending = [event for event in world.pending if not isinstance(event, JobReported)]
    before = len(world.commands)
    world.send(TakenUp(world.at, redis_was_empty=True, sealed=dict.fromkeys("ab", number if on_disk else 0)))
    assert open_step(world).ahead == []
    assert world.finish().status is Status.DONE
    again = [c for c in world.commands[before:] if isinstance(c, SealGroup) and (c.student, c.step) == ("a", number)]
    assert len(again) == (0 if on_disk else 3)
    assert [(c.student, c.step) for c in world.of(SealBatch)].count(("a", number)) == 1


def test_a_step_that_is_open_survives_json() -> None:
    world = streaming(1)
    with_one_ahead(world)
    assert type(world.state).model_validate_json(world.state.model_dump_json()) == world.state
