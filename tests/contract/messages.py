"""Messages that the contract tests send."""

from shared.bus.keys import RESULTS, input_field, jobs, output_field, step_payloads
from shared.bus.payloads import pack
from shared.contracts.events import StatusChanged
from shared.contracts.jobs import Job, JobDone, JobInput, JobKind, JobOutput, JobStarted, PayloadRef, Prompt
from shared.contracts.messages import ChatMessage, Sampling
from shared.contracts.weights import StepDone, StepMetrics, WeightsPublished

ROLLOUTS = jobs("a", JobKind.ROLLOUT)
FEEDBACK = jobs("a", JobKind.FEEDBACK)
PAYLOADS = step_payloads("a", 17)
STUDENTS_GROUP = "students"
BROKER_GROUP = "broker"
QUEUES = [(FEEDBACK, STUDENTS_GROUP), (ROLLOUTS, STUDENTS_GROUP)]
RESULT_QUEUE = [(RESULTS, BROKER_GROUP)]

METRICS = StepMetrics(
    loss=0.5,
    grad_norm=1.0,
    active_share=1.0,
    tokens=10,
    delta_logprob=0.0,
    clipped_share=0.0,
    effective_sample_share=1.0,
    skipped_updates=0,
    seconds={},
)


def job_input(name: str) -> tuple[PayloadRef, bytes]:
    prompt = Prompt(messages=(ChatMessage(role="user", content=name),), samples=2)
    return pack(JobInput(prompts=(prompt,)), PAYLOADS, input_field(name))


def job(name: str, kind: JobKind = JobKind.ROLLOUT) -> Job:
    return Job(
        id=name,
        kind=kind,
        student="a",
        tutee="a",
        version="a@v16",
        round=1,
        step=17,
        seed=1,
        sequences=2,
        sampling=Sampling(temperature=1, top_p=1, max_tokens=16),
        input=job_input(name)[0],
    )


def output(name: str, version: str = "a@v16") -> tuple[PayloadRef, bytes]:
    return pack(JobOutput(job_id=name, version=version, prompts=()), PAYLOADS, output_field(name))


def done(name: str, ref: PayloadRef | None = None, error: str | None = None) -> JobDone:
    return JobDone(
        job_id=name,
        kind=JobKind.ROLLOUT,
        student="a",
        replica="0",
        outcome="failed" if error else "ok",
        error=error,
        version="a@v16",
        output=ref,
    )


def started(name: str) -> JobStarted:
    return JobStarted(job_id=name, student="a", replica="0", attempt=1)


def published(steps: int) -> WeightsPublished:
    return WeightsPublished(
        student="a", version=f"a@v{steps}", step=steps, uri=f"weights/a/v{steps:06d}", manifest_sha256="0" * 64
    )


def step_done(steps: int) -> StepDone:
    return StepDone(
        student="a", step=steps, version=f"a@v{steps}", checksum="c", batch_sha256="b" * 64, metrics=METRICS
    )


def status(round_: int) -> StatusChanged:
    return StatusChanged(at=float(round_), source="broker/0", status="TRAINING", round=round_)
