"""What jobs say: prompts, sampling, versions, seeds and where their payloads lie."""

from pathlib import Path

import pytest

from shared.bus.keys import STUDENTS, jobs
from shared.bus.payloads import unpack
from shared.contracts.ids import seed_of
from shared.contracts.jobs import Job, JobInput, JobKind
from shared.contracts.run import Status
from tests.fakes.broker import BrokerBench

WANTED = {
    JobKind.EVAL: ("r1.a.validation.c0", "res:a:r1.validation"),
    JobKind.ROLLOUT: (None, "res:a:s1"),
    JobKind.FEEDBACK: (None, "res:b:s1"),
    JobKind.REVISE: (None, "res:a:s1"),
}


def first_job(bench: BrokerBench, kind: JobKind) -> tuple[Job, JobInput]:
    """The first job of that kind for student a, left in its queue until now."""
    bench.students["a"].held = {kind}

    def waits(_state: object) -> bool:
        return bench.workers.queue_depth(jobs("a", kind), STUDENTS)[0] > 0

    bench.run(waits)
    job = bench.workers.take([(jobs("a", kind), STUDENTS)], "test", limit=1, block_s=0)[0].message
    assert isinstance(job, Job)
    return job, unpack(job.input, bench.workers.get_payload(job.input), JobInput)


@pytest.mark.parametrize("kind", list(JobKind))
def test_every_job_is_named_seeded_and_sized(run_dir: Path, kind: JobKind) -> None:
    job, asked = first_job(BrokerBench(run_dir), kind)
    name, key = WANTED[kind]
    assert name is None or job.id == name
    assert job.input.key == key
    assert job.seed == seed_of(0, job.id)
    assert job.sequences == sum(prompt.samples for prompt in asked.prompts)
    assert (job.student, job.tutee) == ("a", "b" if kind is JobKind.FEEDBACK else "a")
    assert job.version == "a@v0"


def test_an_evaluation_asks_a_chunk_of_problems_with_the_evaluations_sampling(run_dir: Path) -> None:
    bench = BrokerBench(run_dir, ("evaluation.validation_samples=2",))
    job, asked = first_job(bench, JobKind.EVAL)
    assert [prompt.samples for prompt in asked.prompts] == [2, 2, 2]
    assert (job.step, job.sampling) == (0, bench.settings.evaluation.sampling)


def test_rollouts_are_n_samples_of_the_problem(run_dir: Path) -> None:
    bench = BrokerBench(run_dir)
    job, asked = first_job(bench, JobKind.ROLLOUT)
    problem = bench.problems.by_id(job.id.split(".")[3])
    [prompt] = asked.prompts
    assert (prompt.samples, prompt.messages[-1].content) == (3, problem.question)
    assert job.sampling == bench.settings.rollout.sampling


@pytest.mark.parametrize("share", [True, False])
def test_feedback_is_asked_for_on_each_answer_or_each_distinct_one(run_dir: Path, share: bool) -> None:
    bench = BrokerBench(run_dir, (f"feedback.share_identical={str(share).lower()}",))
    job, asked = first_job(bench, JobKind.FEEDBACK)
    contents = [prompt.messages[-1].content for prompt in asked.prompts]
    assert len(contents) == (len(set(contents)) if share else 3)
    assert all("\nPeer: " in content for content in contents)
    assert all(prompt.samples == 1 for prompt in asked.prompts)
    assert job.sampling == bench.settings.feedback.sampling


def test_a_revision_asks_with_what_the_teacher_sees(run_dir: Path) -> None:
    bench = BrokerBench(run_dir)
    job, asked = first_job(bench, JobKind.REVISE)
    assert len(asked.prompts) == 3
    assert any("\nFeedback:" in prompt.messages[-1].content for prompt in asked.prompts)
    assert job.sampling == bench.settings.evaluation.sampling


def test_the_tutor_of_the_second_round_is_the_version_of_its_start(run_dir: Path) -> None:
    bench = BrokerBench(run_dir, ("run.rounds=2",))
    bench.run(lambda state: state.round == 2 and state.status is Status.TRAINING)
    assert [phase.tutors for phase in bench.state.phases] == [{"b": "b@v2"}, {"a": "a@v2"}]
    job, _ = first_job(bench, JobKind.FEEDBACK)
    assert (job.version, job.round, job.step) == ("a@v2", 2, 3)
