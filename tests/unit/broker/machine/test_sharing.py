"""Students that share their rollouts: the same problems, steps sealed together, also after losses and in any order."""

from dataclasses import fields, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from services.broker.machine.machine import cannot_seal
from services.broker.machine.moves import Controlled, IssueFeedback, IssueRollout, JobReported, SealBatch, TakenUp
from services.broker.machine.plan import Plan
from services.broker.machine.sharing import SharingPlan, peer_has_answered
from shared.contracts.ids import version_steps
from shared.contracts.run import PhaseState, Status, StepState
from tests.fakes.examples import whole_runs
from tests.fakes.world import World, base_of, small_plan


def sharing_plan(**changes: object) -> SharingPlan:
    plan = small_plan(gate_mode="never", **changes)
    return SharingPlan(**{field.name: getattr(plan, field.name) for field in fields(Plan)})


def training(seed: int = 0) -> World:
    world = World(sharing_plan(), seed=seed)
    world.start()
    while world.state.status is not Status.TRAINING:
        assert world.step()
    return world


def phase_of(world: World, student: str) -> PhaseState:
    return next(phase for phase in world.state.phases if phase.student == student)


def open_step_of(world: World, student: str) -> StepState:
    step = phase_of(world, student).step
    assert step is not None
    return step


def let(world: World, *, but: str) -> None:
    """Whatever is under way happens, but for the rollouts of one student."""
    while True:
        free = [e for e in world.pending if not (isinstance(e, JobReported) and f".{but}." in e.job_id)]
        if not free:
            return
        world.pending.remove(free[0])
        world.send(free[0])


@settings(max_examples=whole_runs(20))
@given(seed=st.integers(0, 10**6), repeat=st.floats(0, 0.5))
def test_in_any_order_each_step_is_sealed_once_with_both_students_rollouts(seed: int, repeat: float) -> None:
    world = training(seed)
    while world.state.status is not Status.DONE:
        assert world.step(), f"stuck in {world.state.status} with nothing under way"
        if world.rng.random() < repeat:
            world.send(world.rng.choice(world.handled))
    assert sorted((c.student, c.step) for c in world.of(SealBatch)) == [(s, k) for s in "ab" for k in (1, 2, 3, 4)]
    assert not world.of(IssueFeedback)
    for step in (1, 2, 3, 4):
        asked = {s: {c.problem_id for c in world.of(IssueRollout) if (c.student, c.step) == (s, step)} for s in "ab"}
        assert asked["a"] == asked["b"]
        assert len(asked["a"]) == 4
        assert base_of(world, "a", step) == base_of(world, "b", step) == {step - 1}
    order = [(type(c), c.step) for c in world.commands if isinstance(c, IssueRollout | SealBatch)]
    for step in (1, 2, 3):
        both_sealed = [at for at, command in enumerate(order) if command == (SealBatch, step)][1]
        assert order.index((IssueRollout, step + 1)) > both_sealed, "no step is opened before both have sealed the last"


def test_a_step_waits_for_the_peer_and_the_wait_is_booked_as_rollouts() -> None:
    world = training()
    let(world, but="b")
    assert all(group.ready for group in open_step_of(world, "a").groups)
    assert not world.of(SealBatch)
    world.pending = [replace(event, at=event.at + 100) for event in world.pending]
    while not world.of(SealBatch):
        world.step()
    assert [(c.student, c.step) for c in world.of(SealBatch)] == [("a", 1), ("b", 1)]
    stages = world.state.tallies["a"].stage_seconds
    assert stages["rollout"] >= 100
    assert "feedback" not in stages


def test_with_redis_lost_a_student_whose_batch_is_on_disk_is_not_asked_again_and_its_peer_is() -> None:
    world = training()
    while not world.of(SealBatch):
        world.step()
    world.pending.clear()
    before = len(world.of(IssueRollout))
    world.send(TakenUp(world.at, True, {"a": 1}))
    while len(world.of(SealBatch)) < 4:
        assert world.step()
    made = [c.student for c in world.of(IssueRollout)[before:] if c.step == 1]
    assert made == ["b"] * 4
    assert [(c.student, c.step) for c in world.of(SealBatch)] == [("a", 1), ("b", 1)] * 2
    assert world.finish().status is Status.DONE


def test_a_student_that_is_further_counts_as_answered_in_the_step_that_it_closed() -> None:
    """b's batch could not be written, a trained on its own meanwhile, and b goes on when the run is resumed."""
    world = training()
    while not world.of(SealBatch):
        world.step()
    world.pending = [event for event in world.pending if "student='b'" not in repr(event)]
    cannot_seal(world.state, "b", "no space")
    while world.pending:
        world.send(world.pending.pop(0))
    world.send(Controlled(world.at, "resume", "there is space again"))
    assert [(c.student, c.step) for c in world.of(SealBatch)] == [("a", 1), ("b", 1), ("b", 1)]
    step_of_a, step_of_b = open_step_of(world, "a"), open_step_of(world, "b")
    assert (step_of_a.step, step_of_b.step) == (2, 1)
    assert peer_has_answered(world.state, phase_of(world, "b"), step_of_b)
    assert not peer_has_answered(world.state, phase_of(world, "a"), step_of_a)
    assert world.finish().status is Status.DONE
    assert {version_steps(version) for version in world.state.version.values()} == {4}
