"""The baselines and the choices that the paper leaves open, in the broker: who tutors, from which version, what is
sealed."""

from pathlib import Path

import pytest

from services.broker.exchange.batches import advantage_mask, build_group
from services.broker.machine.moves import IssueFeedback, Serve
from services.broker.machine.rounds import decide
from shared.contracts.jobs import PromptOutput
from shared.contracts.run import GateDecision, Score, Split, Status
from shared.problems.formats import format_named
from shared.problems.problem import Problem
from tests.fakes.broker import BrokerBench, sample_of
from tests.fakes.world import World, small_plan

RIGHT, WRONG = " u = 9 * 2 = 18", " u = 9 + 2 = 11"
PROBLEM = Problem("p1", "physics", "voltage", "What voltage drives 9 A through 2 ohm?", "18")
FORMAT = format_named("integer")
SDPO = ("gate.mode=cognizance", "run.method=sdpo")
GRPO = ("gate.mode=cognizance", "run.method=grpo")
HACPO = ("gate.mode=cognizance", "run.method=hacpo")


def done(world: World) -> World:
    world.start()
    assert world.finish().status is Status.DONE
    return world


def test_with_the_latest_tutor_phase_2_has_the_student_just_trained() -> None:
    world = done(World(small_plan(parallel=False, latest_tutor=True)))
    frozen = {(c.round, c.student, c.tutor_version) for c in world.of(IssueFeedback)}
    assert frozen == {(1, "a", "b@v0"), (1, "b", "a@v2"), (2, "a", "b@v2"), (2, "b", "a@v4")}
    for asked in world.of(IssueFeedback):
        at = world.commands.index(asked)
        serving = [c for c in world.commands[:at] if isinstance(c, Serve) and c.student == asked.tutor][-1]
        assert asked.tutor_version in serving.versions, "a tutor's version is served while it tutors"


def score(student: str, right: int) -> Score:
    """16 of 16 in the own domain, `right` in the other."""
    own = {"a": "physics", "b": "chemistry"}[student]
    correct = {domain: [16 if domain == own else right] for domain in ("physics", "chemistry")}
    return Score(
        student=student,
        version=f"{student}@v0",
        split=Split.VALIDATION,
        round=1,
        samples=16,
        correct=correct,
        answers={},
        majority={},
    )


@pytest.mark.parametrize(
    ("right", "before", "may"),
    [
        (13, None, True),
        (13, True, True),
        (13, False, False),  # gap 3/16 is within tau, not within tau - 0.1
        (15, False, True),
        (12, None, False),  # gap 4/16 is above tau, not above tau + 0.1
        (12, True, True),
        (11, True, False),
    ],
)
def test_hysteresis_keeps_the_gate_as_it_was(right: int, before: bool | None, may: bool) -> None:
    plan = small_plan(hysteresis=0.1)
    first = decide(plan, [score("a", 16), score("b", 16)], round_=1)
    last: GateDecision | None = None
    if before is not None:
        last = first.model_copy(
            update={"pairs": [pair.model_copy(update={"cognizant": before}) for pair in first.pairs]}
        )
    decision = decide(plan, [score("a", right), score("b", 16)], round_=2, before=last)
    assert (decision.cognizant["a"], decision.hysteresis) == (may, 0.1)
    without = decide(small_plan(), [score("a", right), score("b", 16)], round_=2, before=last)
    assert without.cognizant["a"] == (right >= 13), "off by default"


def test_the_machine_passes_the_last_round_s_gate_on() -> None:
    """A student at gap 0.25 keeps its right to tutor only because it had it before."""
    world = World(small_plan(hysteresis=0.1, rounds=2))
    world.start()
    while world.state.status is not Status.TRAINING:
        assert world.step()
    assert world.state.gates[0].cognizant == {"a": True, "b": True}
    world.weak = 3
    done_state = world.finish()
    assert [gate.gaps for gate in done_state.gates][1] == {"a": 0.25, "b": 0.25}
    assert done_state.gates[1].cognizant == {"a": True, "b": True}


@pytest.mark.parametrize(
    ("rewards", "mask"),
    [
        ([0, 0, 0], [0, 0, 0]),
        ([1, 1], [0, 0]),
        ([0, 1, 0], [1, 1, 1]),
        ([1], [1]),
        ([0], [0]),
    ],
)
def test_equal_rewards_teach_nothing(rewards: list[float], mask: list[int]) -> None:
    assert advantage_mask(rewards) == mask


def test_a_policy_gradient_group_has_rewards_and_no_teacher() -> None:
    rollouts = PromptOutput(prompt_token_ids=(1, 2), samples=tuple(sample_of(t) for t in (WRONG, RIGHT, WRONG)))
    group = build_group(PROBLEM, rollouts, None, FORMAT, exclude_self=True, policy_gradient=True)
    assert [(s.reward, s.mask, s.demonstration) for s in group.samples] == [(0, 1, None), (1, 1, None), (0, 1, None)]
    assert {s.teacher_messages for s in group.samples} == {group.messages}


@pytest.mark.parametrize("method", [SDPO, GRPO, HACPO], ids=["sdpo", "grpo", "hacpo"])
def test_a_baseline_asks_for_no_feedback_and_no_revision(run_dir: Path, method: tuple[str, ...]) -> None:
    bench = BrokerBench(run_dir, method)
    state = bench.finish()
    kinds = {job.kind.value for student in bench.students.values() for job in student.done}
    assert kinds == {"eval", "rollout"}
    assert {gate.mode for gate in state.gates} == {"never"}
    for tally in state.tallies.values():
        assert (tally.verdicts, tally.revisions, tally.samples) == ({}, [], 12)


def test_sdpo_and_never_seal_the_same_batches(tmp_path: Path) -> None:
    sealed = []
    for name, overrides in (("sdpo", SDPO), ("never", ("gate.mode=never",))):
        (tmp_path / name).mkdir()
        BrokerBench(tmp_path / name, overrides).finish()
        files = sorted((tmp_path / name / "batches").rglob("groups.jsonl"))
        sealed.append([file.read_bytes() for file in files])
    assert len(sealed[0]) == 4
    assert sealed[0] == sealed[1]
