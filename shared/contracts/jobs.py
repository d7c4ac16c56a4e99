"""Jobs: what the broker asks a student to generate, and what comes back.

Prompts and outputs are payloads (compressed JSON in a Redis hash, named by key and sha256); the messages on the
streams only refer to them. `Questions` are asked outside of a run's queues, in files between two processes.
"""

from enum import StrEnum
from typing import Literal

from pydantic import Field

from shared.contracts.envelope import Message
from shared.contracts.messages import ChatMessage, Contract, Sampling


class JobKind(StrEnum):
    FEEDBACK = "feedback"
    REVISE = "revise"
    ROLLOUT = "rollout"
    EVAL = "eval"


JOB_PRIORITY = (JobKind.FEEDBACK, JobKind.REVISE, JobKind.ROLLOUT, JobKind.EVAL)


class PayloadRef(Contract):
    """Where a payload lies: a hash key (without the run's prefix), a field in it, and the sha256 of its bytes."""

    key: str
    field: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Prompt(Contract):
    """One prompt of a job and how many independent samples of it are wanted."""

    messages: tuple[ChatMessage, ...]
    samples: int = Field(ge=1)


class JobInput(Contract):
    """Payload of a job. Sample j of prompt i is drawn with seed_of(job.seed, i, j)."""

    prompts: tuple[Prompt, ...]


class Job(Message):
    """Generate for `student` with `version`. `tutee` is whose step this belongs to; step 0 = an evaluation."""

    id: str
    kind: JobKind
    student: str
    tutee: str
    version: str
    round: int = Field(ge=0)
    step: int = Field(ge=0)
    seed: int
    sequences: int = Field(ge=1)
    sampling: Sampling
    input: PayloadRef

    @property
    def key(self) -> str:
        return self.id


class Sample(Contract):
    """One sampled answer. token_ids and logprobs have equal length; logprobs are those of the sampling, NaN where the
    engine has none: then the sample counts as an answer, and the trainer rejects it."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: Literal["stop", "length"]


class PromptOutput(Contract):
    """The prompt exactly as the engine saw it, and its samples in order."""

    prompt_token_ids: tuple[int, ...]
    samples: tuple[Sample, ...]


class JobOutput(Contract):
    """Payload of a finished job: one entry a prompt, in the order of the input."""

    job_id: str
    version: str
    prompts: tuple[PromptOutput, ...]


class JobStarted(Message):
    """A student took the job and begins: the tutor's deadline counts from here, not from queueing."""

    job_id: str
    student: str
    replica: str
    attempt: int

    @property
    def key(self) -> str:
        # With the attempt: a job that is taken again is begun again, and that is news.
        return f"{self.job_id}.started.{self.attempt}"


class JobDone(Message):
    """Outcome of a job; `output` only when ok. `seconds` is engine time, shared out when jobs ran in one batch."""

    job_id: str
    kind: JobKind
    student: str
    replica: str
    outcome: Literal["ok", "failed"]
    error: str | None = Field(default=None, max_length=2000)
    version: str
    output: PayloadRef | None = None
    seconds: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0

    @property
    def key(self) -> str:
        # Without it: whoever ends the job first has ended it.
        return f"{self.job_id}.done"


class Question(Contract):
    """One prompt. Sample j is drawn with seed_of(seed, j), whatever else is asked."""

    messages: tuple[ChatMessage, ...]
    seed: int


class Questions(Contract):
    """`samples` answers are wanted to each question; they come as PromptOutputs, one a line, in this order."""

    student: str
    version: str
    samples: int = Field(ge=1)
    sampling: Sampling
    questions: tuple[Question, ...]
