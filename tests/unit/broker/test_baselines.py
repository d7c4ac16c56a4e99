"""The baselines through the broker: nobody is asked for feedback, and GRPO's batches hold what has an advantage."""

from pathlib import Path

import pytest

from services.broker.sealing import adopt, build_group, read_group
from shared.blobs.local import LocalStore
from shared.contracts.batches import BatchGroup, BatchManifest
from shared.contracts.jobs import JobKind, PromptOutput
from shared.contracts.run import Status
from shared.problems.integer import IntegerFormat
from shared.problems.problem import Problem
from tests.fakes.broker import RUN, BrokerBench, sample_of

ASKED = ("gate.mode=always", "feedback.revise_share=1.0")
RIGHT, WRONG = " u = 9 * 2 = 18", " u = 9 + 2 = 11"
PROBLEM = Problem("p1", "physics", "voltage", "What voltage drives 9 A through 2 ohm?", "18")


@pytest.mark.parametrize(
    ("texts", "masks"),
    [
        ((RIGHT, WRONG, WRONG), [1, 1, 1]),
        ((RIGHT, RIGHT), [0, 0]),
        ((WRONG, WRONG, WRONG), [0, 0, 0]),
        ((RIGHT,), [1]),
        ((WRONG,), [0]),
    ],
)
def test_a_group_of_equal_rewards_has_no_loss_under_grpo(texts: tuple[str, ...], masks: list[int]) -> None:
    rollouts = PromptOutput(prompt_token_ids=(1, 2), samples=tuple(sample_of(text) for text in texts))
    group = build_group(PROBLEM, rollouts, None, IntegerFormat(), exclude_self=True, policy_gradient=True)
    assert [sample.mask for sample in group.samples] == masks
    assert {sample.demonstration for sample in group.samples} == {None}
    assert all(sample.teacher_messages == group.messages for sample in group.samples)
    assert [sample.reward for sample in group.samples] == [float(text == RIGHT) for text in texts]


@pytest.mark.parametrize("method", ["sdpo", "grpo"])
def test_nobody_tutors_in_a_baseline(method: str, run_dir: Path) -> None:
    bench = BrokerBench(run_dir, [*ASKED, f"run.method={method}"])
    assert bench.finish().status is Status.DONE
    kinds = {done.kind for student in bench.students.values() for done in student.done}
    assert kinds == {JobKind.ROLLOUT, JobKind.EVAL}
    assert [gate.mode for gate in bench.state.gates] == ["never"]
    for student in "ab":
        manifest, groups = batch_of(bench, student)
        assert (manifest.tutor_version, manifest.kept_feedback, manifest.verdicts) == (None, 0, {})
        for group in groups:
            rewards = [sample.reward for sample in group.samples]
            shown = [sample.demonstration is not None for sample in group.samples]
            assert [sample.mask for sample in group.samples] == (
                [int(len(set(rewards)) > 1)] * len(rewards) if method == "grpo" else [int(one) for one in shown]
            )
            assert method == "sdpo" or not any(shown)
        assert bench.state.tallies[student].active_samples == sum(
            batch_of(bench, student, step)[0].active_samples for step in (1, 2)
        )


def test_sdpo_is_the_run_whose_gate_lets_nobody_tutor(run_dir: Path) -> None:
    made = {}
    for name, settings in {"sdpo": ["run.method=sdpo"], "never": ["gate.mode=never"]}.items():
        bench = BrokerBench(run_dir / name, settings)
        bench.finish()
        made[name] = [batch_of(bench, student, step)[0] for student in "ab" for step in (1, 2)]
    assert made["sdpo"] == made["never"]


def batch_of(bench: BrokerBench, student: str, step: int = 1) -> tuple[BatchManifest, list[BatchGroup]]:
    store = LocalStore(bench.run_dir)
    sealed = adopt(store, student, step, RUN)
    assert sealed is not None
    names = [problem.id for problem in bench.plan.step_problems(student, step)]
    return sealed.manifest, [read_group(store, sealed.manifest, name) for name in names]
