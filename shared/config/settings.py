"""Every setting of a run, with its default, its limits and its reason.

One `RunSettings` describes a run; every service gets the same one and takes what concerns it. Defaults are
the paper's (arXiv 2606.14368, Table 4 and appendix D) unless the field says otherwise.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from shared.access import Limits
from shared.config.sections import Positive, Section, Share
from shared.config.training import GrpoSection, LoraSection, LossSection, Method, OptimizerSection, SpecializeSection
from shared.contracts.messages import Sampling

STUDENTS = ("a", "b")

FeedbackPrompt = Literal["anchored", "naive"]


class RunSection(Section):
    """The shape of a run."""

    seed: int = Field(default=0, description="Seeds everything: problems, order, rollouts, feedback, adapters.")
    rounds: Positive = Field(default=2, description="R: rounds of validate, gate, train.")
    steps_per_round: Positive = Field(default=50, description="K: optimizer steps a student takes in a round.")
    schedule: Literal["parallel", "sequential"] = Field(
        default="parallel",
        description="Both phases of a round at once, or one after the other; the tutors are frozen either way.",
    )
    method: Method = Field(
        default="opcod",
        description="Co-distillation, or a baseline in which nobody tutors: `sdpo`, self-distillation alone; `grpo`, "
        "a policy gradient from rewards alone.",
    )


class ProblemsSection(Section):
    """Which problems, and how many of them a step uses."""

    source: str = Field(default="generated", description="`generated`, or a directory with JSONL partitions.")
    format: Literal["integer", "mcq"] = Field(default="integer", description="How problems are put and graded.")
    per_step: Positive = Field(default=32, description="Problems in one step.")
    balance_domains: bool = Field(
        default=False, description="Draw each step evenly from both domains instead of from their union."
    )


class GateSection(Section):
    """Who may tutor in a round (paper 3.2)."""

    mode: Literal["cognizance", "always", "never", "domain_selective"] = Field(
        default="cognizance", description="Without effect in a baseline (`run.method`), where nobody tutors."
    )
    tau: float = Field(default=0.2, ge=0, description="A student tutors if its gap is at most this.")
    hysteresis: float = Field(
        default=0.0,
        ge=0,
        description="Who could tutor last round still can up to tau + this, who could not can again at tau - this; at "
        "most tau.",
    )
    tutor_source: Literal["round_start", "latest"] = Field(
        default="round_start",
        description="The version that tutors: both students as the round began, or, with the sequential schedule, the "
        "tutor as its peer's phase begins.",
    )
    max_break_rate: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="A tutor whose feedback surely breaks more right answers than this is silenced for the rest of the "
        "round; 1: never. Measured on revisions.",
    )


class AlarmsSection(Section):
    """When a step's figures raise an alarm; an alarm is told and reported, it stops nothing (docs/diagnostics.md)."""

    window: Positive = Field(default=5, description="Steps in a row that a condition is looked at over.")
    min_grad_norm: float = Field(
        default=1e-4, ge=0, description="A gradient norm below this is near zero; the laptop preset's are about 0.04."
    )
    min_loss: float = Field(
        default=1e-3,
        ge=0,
        description="Loss above which a gradient near zero is wrong; below it little is left to do.",
    )
    collapse_drop: Share = Field(default=0.5, description="Share of its best mean reward that a student has lost.")
    collapse_z: float = Field(
        default=5.0, gt=0, description="Standard errors that it must be: the best of many windows looks too good."
    )
    min_unique_share: Share = Field(
        default=0.2, description="Distinct rollouts in groups with a wrong one; of 8 equal ones the share is 0.125."
    )


class RolloutSection(Section):
    """The student's own answers in training."""

    samples: Positive = Field(default=8, description="n: rollouts of each problem.")
    temperature: float = Field(default=1.0, gt=0, le=5)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: Positive = 4096

    @property
    def sampling(self) -> Sampling:
        return Sampling(temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens)


class FeedbackSection(Section):
    """What a tutor writes, and how long the broker waits for it."""

    prompt: FeedbackPrompt = Field(
        default="anchored",
        description="`naive` asks for no concept, so that no feedback is checked for one; only with the format `mcq`.",
    )
    temperature: float = Field(default=0.6, ge=0, le=5)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_tokens: Positive = 1024
    tutor_timeout_s: float = Field(
        default=120.0, gt=0, description="From when the tutor took the job; what comes later counts as `fb_none`."
    )
    share_identical: bool = Field(
        default=False, description="Identical rollouts of a group get one feedback text, written once."
    )
    revise_share: Share = Field(
        default=0.1, description="Share of the groups with feedback whose student answers again (break-rate)."
    )

    @property
    def sampling(self) -> Sampling:
        return Sampling(temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens)


class EvaluationSection(Section):
    """Validation each round (the gate), test before and after (the report)."""

    validation_samples: Positive = 16
    test_samples: Positive = 16
    temperature: float = Field(default=0.6, ge=0, le=5)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_tokens: Positive = 4096
    validation_problems: Positive | None = Field(default=None, description="Per domain; default: all of them.")
    test_problems: Positive | None = Field(default=None, description="Per domain; default: all of them.")
    problems_per_job: Positive = 16

    @property
    def sampling(self) -> Sampling:
        return Sampling(temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens)


class StudentSection(Section):
    """One student: which model it is and how it is served."""

    model: str = Field(default="embedded", description="`embedded`, a local directory, or a hub id.")
    domain: str = Field(description="Its stronger domain: it is fine-tuned on it, and named so to its peer.")
    specialize: bool = Field(default=False, description="Fine-tune on the own domain first, cached by content.")
    engine: Literal["transformers", "scripted"] = "transformers"
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    chat_template: str | None = Field(default=None, description="A template of ours (`compact`), else the model's.")
    slots: Positive = Field(default=64, description="Sequences generated at once.")
    port: int = Field(default=0, ge=0, le=65535, description="0 = any free port.")


class ServingSection(Section):
    """Addresses and limits of the HTTP services."""

    host: str = "127.0.0.1"
    broker_port: int = Field(default=0, ge=0, le=65535)
    inspector_port: int = Field(default=0, ge=0, le=65535)
    max_body_bytes: Positive = 1_000_000
    requests_per_minute: Positive = Field(default=600, description="Of each key, at each service; more get 429.")
    concurrent_requests: Positive = Field(
        default=32, description="In flight for each key, at each service, streams included; more get 429."
    )
    request_timeout_s: float = Field(default=120.0, gt=0)

    @property
    def limits(self) -> Limits:
        return Limits(self.max_body_bytes, self.requests_per_minute, self.concurrent_requests)


class BusSection(Section):
    """Redis and the leases on its queues."""

    url: str | None = Field(default=None, description="redis://…; none = an embedded server of the launcher's.")
    lease_s: float = Field(default=60.0, gt=0)
    leader_lease_s: float = Field(default=10.0, gt=0, description="The broker's own lease.")
    max_attempts: Positive = 3
    deadline_s: float = Field(default=10.0, gt=0, description="No single call waits longer for the server.")
    heartbeat_s: float = Field(default=2.0, gt=0)


class ResourcesSection(Section):
    """What the processes may use on this machine."""

    threads: Positive = Field(default=1, description="Threads of each model process; never more than cores in all.")
    min_free_disk_bytes: int = Field(default=2_000_000_000, ge=0)


class RunSettings(Section):
    """All sections. Checks that need more than one of them are here."""

    run: RunSection = RunSection()
    problems: ProblemsSection = ProblemsSection()
    gate: GateSection = GateSection()
    alarms: AlarmsSection = AlarmsSection()
    rollout: RolloutSection = RolloutSection()
    feedback: FeedbackSection = FeedbackSection()
    evaluation: EvaluationSection = EvaluationSection()
    loss: LossSection = LossSection()
    grpo: GrpoSection = GrpoSection()
    optimizer: OptimizerSection = OptimizerSection()
    lora: LoraSection = LoraSection()
    specialize: SpecializeSection = SpecializeSection()
    students: dict[str, StudentSection]
    serving: ServingSection = ServingSection()
    bus: BusSection = BusSection()
    resources: ResourcesSection = ResourcesSection()

    @model_validator(mode="after")
    def _consistent(self) -> "RunSettings":
        if tuple(sorted(self.students)) != STUDENTS:
            raise ValueError(f"students: expected a and b, got {sorted(self.students)}")
        if self.students["a"].domain == self.students["b"].domain:
            raise ValueError("students: a and b need different domains; each tutors in its own")
        if self.optimizer.mini_batches > self.problems.per_step:
            raise ValueError("optimizer.mini_batches: at most problems.per_step, since a group is never split")
        if self.problems.balance_domains and self.problems.per_step % 2:
            raise ValueError("problems.per_step: must be even when problems.balance_domains is on")
        if self.gate.hysteresis > self.gate.tau:
            raise ValueError("gate.hysteresis: at most gate.tau, or who may not tutor could never do so again")
        if self.gate.tutor_source == "latest" and self.run.schedule == "parallel":
            raise ValueError(
                'gate.tutor_source: "latest" is the student that the phase before has trained, and in parallel there '
                'is none; set run.schedule to "sequential", or tutor_source to "round_start"'
            )
        if self.feedback.prompt == "naive" and self.problems.format != "mcq":
            raise ValueError(
                f'feedback.prompt: "naive" needs problems.format = "mcq"; the format {self.problems.format!r} has one '
                "feedback prompt only"
            )
        return self

    @property
    def gate_mode(self) -> str:
        """Who tutors: the gate's mode, and nobody in a baseline."""
        return self.gate.mode if self.run.method == "opcod" else "never"

    def peer_of(self, student: str) -> str:
        return "b" if student == "a" else "a"


class Paths(Section):
    """Where a run and the caches lie."""

    runs_dir: Path
    run: str
    cache_dir: Path

    @property
    def run_dir(self) -> Path:
        return self.runs_dir / self.run
