"""Every setting of a run, with its default, its limits and its reason.

One `RunSettings` describes a run; every service gets the same one and takes what concerns it. Defaults are
the paper's (arXiv 2606.14368, Table 4 and appendix D) unless the field says otherwise. Sections about the machine
that a run is on are in `machine.py`, those of the methods that it is compared with in `baselines.py`. Settings that are
each in order but contradict one another are refused here, too.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from shared.config.alarms import AlarmsSection
from shared.config.baselines import GrpoSection, HacpoSection, Method, keeps_teacher
from shared.config.combinations import refuse_contradictions, require_students
from shared.config.machine import (
    BusSection,
    ResourcesSection,
    RetentionSection,
    ServingSection,
    TrainerSection,
)
from shared.config.section import Positive, Section, Share, looked_at
from shared.config.specializing import SpecializeSection
from shared.config.students import StudentSection, require_names
from shared.contracts.messages import LEAST_TEMPERATURE, Sampling
from shared.errors import ConfigError

# Two rows of the longest trees: more saves no time on a CPU, and costs memory there.
CPU_PASS_TOKENS = 1024


class RunSection(Section):
    """The shape of a run."""

    seed: int = Field(default=0, description="Seeds everything: problems, order, rollouts, feedback, adapters.")
    rounds: Positive = Field(default=2, description="R: rounds of validate, gate, train.")
    steps_per_round: Positive = Field(default=50, description="K: optimizer steps a student takes in a round.")
    schedule: Literal["parallel", "sequential"] = Field(
        default="parallel", description="All phases of a round at once, or one after another."
    )
    method: Method = Field(
        default="opcod",
        description="The others are baselines. `sdpo`, `grpo`: each student alone, self-distillation or policy "
        "gradient. `hacpo`: policy gradient on the rollouts of both students, who answer the same problems.",
    )
    stream: bool = Field(default=False, description="Train on each group as soon as it is ready (docs/method.md).")
    keep_best: bool = Field(
        default=False,
        description="Test at the end, and hand on, each student's version with the best validation score instead of "
        "its last one.",
    )
    weights: Literal["lora", "full"] = Field(
        default="lora", description="What training changes: an adapter (section `lora`), or all weights."
    )


class ProblemsSection(Section):
    """Which problems, and how many of them a step uses."""

    source: str = Field(
        default="generated",
        description="`generated`, a directory of JSONL partitions, or `sciknoweval:<directory or hub id>`.",
    )
    format: Literal["integer", "mcq"] = Field(default="integer", description="How problems are put and graded.")
    per_step: Positive = Field(default=32, description="Problems in one step.")
    kinds: int | None = Field(
        default=None,
        ge=2,
        le=10,
        description="Of the generated problems: how many kinds each domain has, half of which (rounded down) have a "
        "constant that no question tells; none: all ten.",
    )
    validation_per_domain: Positive = Field(
        default=30, description="Training rows of each domain that validate instead, for `sciknoweval:`."
    )
    balance_domains: bool = Field(
        default=False, description="Draw each step evenly from all domains instead of from their union."
    )
    balance_kinds: bool = Field(
        default=False, description="Go through a domain's kinds in turn, so that no step lacks one for long."
    )


class GateSection(Section):
    """Who may tutor in a round (paper 3.2)."""

    mode: Literal["cognizance", "always", "never", "domain_selective"] = "cognizance"
    tau: float = Field(default=0.2, ge=0, description="A student tutors another if its gap to it is at most this.")
    scope: Literal["pair", "all"] = Field(
        default="pair",
        description="The gap of a tutor to a tutee: over the domains that these two are strong in, to the better of "
        "them; or over all domains, to the best of all. The same for two students.",
    )
    max_break_rate: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="A tutor whose feedback surely breaks more right answers than this is silenced for the rest of the "
        "round; 1: never. Measured on revisions.",
    )
    hysteresis: float = Field(
        default=0.0,
        ge=0,
        description="Who may tutor keeps it up to tau + this, who may not gets it at tau - this. At most tau.",
    )
    tutor_source: Literal["round_start", "latest"] = Field(
        default="round_start",
        description="The tutor's version; `latest` is the one as its pupil's phase begins, and needs "
        '`run.schedule = "sequential"`.',
    )


class TutoringSection(Section):
    """Who of several that may tutor a student speaks about a problem; of two students there is but one."""

    choice: Literal["best", "own_domain", "ring"] = Field(
        default="best",
        description="`best`: who has the best validation score in the problem's domain. `own_domain`: a specialist of "
        "that domain, and nobody where no peer is one. `ring`: the student that comes next by name.",
    )


class RolloutSection(Section):
    """The student's own answers in training."""

    samples: Positive = Field(default=8, description="n: rollouts of each problem.")
    temperature: float = Field(default=1.0, ge=LEAST_TEMPERATURE, le=5)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: Positive = 4096

    @property
    def sampling(self) -> Sampling:
        return Sampling(temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens)


class FeedbackSection(Section):
    """What a tutor writes, and how long the broker waits for it."""

    prompt: Literal["anchored", "naive"] = Field(
        default="anchored",
        description="`naive` asks for no concept, so nothing is validated; only for the format `mcq`.",
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


class LossSection(Section):
    """Self-distillation loss (paper Eq. 1; docs/method.md)."""

    alpha: float = Field(default=0.5, ge=0, le=1, description="0 forward KL, 1 reverse KL, between: JSD.")
    top_k: Positive | Literal["all"] = Field(
        default=100, description="Support: the student's top k, or `all` of the vocabulary."
    )
    tail: bool = Field(default=True, description="One more bucket for the rest of the vocabulary.")
    aggregation: Literal["seq_mean", "seq_mean_active", "token_mean"] = "seq_mean"
    is_clip: float = Field(default=2.0, gt=0, description="Upper cut of the importance weights.")
    demo_self_exclude: bool = Field(default=True, description="A rollout is never its own demonstration.")
    teacher: Literal["ema", "trust_region"] = Field(
        default="ema",
        description="The self-teacher: a moving average of the student's weights, or logits between those of the "
        "student as it was when the phase began and as it is.",
    )
    trust_region_mix: Share = Field(default=0.05, description="Share of the present student in those logits.")
    teacher_at_phase_start: Literal["reset", "carry"] = Field(
        default="reset", description="Whether the self-teacher starts from the student again when a phase begins."
    )
    trace_share: Share = Field(
        default=0.02,
        description="Share of the rollouts whose divergence is written down by token, for people to look at; no effect "
        "on the weights. Costs two more output layers and about 580 bytes for each of their tokens.",
    )


class OptimizerSection(Section):
    """AdamW and the EMA teacher."""

    learning_rate: float = Field(default=1e-5, gt=0)
    warmup_updates: int = Field(default=5, ge=0)
    decay_updates: int = Field(
        default=0,
        ge=0,
        description="After warm-up the rate falls in a straight line over so many updates, to `decay_to` of itself; 0: "
        "it stays. Counted from the start of a phase, or of the run where `at_phase_start` carries.",
    )
    decay_to: Share = Field(default=0.1, description="Share of the learning rate that is left after the decay.")
    weight_decay: float = Field(default=0.01, ge=0)
    beta1: float = Field(default=0.9, gt=0, lt=1)
    beta2: float = Field(default=0.999, gt=0, lt=1)
    clip_norm: float = Field(default=1.0, gt=0)
    mini_batches: Positive = Field(default=1, description="Optimizer updates inside one step.")
    micro_batch_tokens: Positive | Literal["auto"] = Field(
        default="auto",
        description="Padded tokens in one forward pass; a step's memory grows with it. `auto`: 1024 on a CPU; on GPUs "
        "what the plan of their memory has room for, the same for all students (docs/scaling.md).",
    )
    ema_rate: float = Field(default=0.05, gt=0, le=1, description="Share of the student in each EMA update.")
    at_phase_start: Literal["reset", "carry"] = Field(
        default="reset", description="Moments and warm-up when a phase begins."
    )
    checkpoint_every: Positive = Field(
        default=1,
        description="Steps between two checkpoints of the whole state. Between them only versions are written, and a "
        "trainer that starts again first makes the steps since the last one once more, from their batches.",
    )
    offload: Literal["none", "moments"] = Field(
        default="none",
        description="`moments`: AdamW's two are kept in the host's memory, and go to the GPU one parameter after the "
        "other for each update; 8 bytes a parameter less there, for the time it takes. The weights come out the same. "
        "On a CPU it changes nothing.",
    )
    max_skipped_updates: Positive = Field(default=3, description="Non-finite updates in a row before it stops.")

    @property
    def pass_tokens(self) -> int:
        """`micro_batch_tokens`, and what is right for a CPU where nothing was planned."""
        return CPU_PASS_TOKENS if self.micro_batch_tokens == "auto" else self.micro_batch_tokens


class LoraSection(Section):
    """The adapter that training changes; it starts at zero on the student's own (merged) weights."""

    rank: Positive = 16
    scale: float = Field(default=2.0, gt=0, description="alpha / rank.")
    first_layer: int = Field(default=0, ge=0, description="Adapt all linear layers of this block and those above.")


class RunSettings(Section):
    """All sections, checked against one another (`combinations.py`)."""

    # Sections are immutable, so one instance may be the default of all.
    run: RunSection = RunSection()
    problems: ProblemsSection = ProblemsSection()
    gate: GateSection = GateSection()
    alarms: AlarmsSection = AlarmsSection()
    tutoring: TutoringSection = TutoringSection()
    rollout: RolloutSection = RolloutSection()
    feedback: FeedbackSection = FeedbackSection()
    evaluation: EvaluationSection = EvaluationSection()
    loss: LossSection = LossSection()
    grpo: GrpoSection = GrpoSection()
    hacpo: HacpoSection = HacpoSection()
    optimizer: OptimizerSection = OptimizerSection()
    lora: LoraSection = LoraSection()
    specialize: SpecializeSection = SpecializeSection()
    students: dict[str, StudentSection]
    serving: ServingSection = ServingSection()
    bus: BusSection = BusSection()
    retention: RetentionSection = RetentionSection()
    resources: ResourcesSection = ResourcesSection()
    trainer: TrainerSection = TrainerSection()

    @field_validator("students", mode="before")
    @classmethod
    def _named(cls, students: object) -> object:
        """Before anything is asked of one that there cannot be."""
        if isinstance(students, dict):
            require_names([str(name) for name in students])
        return students

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> "RunSettings":
        require_students(self)
        if not looked_at(info):
            refuse_contradictions(self)
        return self

    @property
    def gate_mode(self) -> str:
        """Who tutors: the gate's mode, and nobody in a baseline."""
        return self.gate.mode if self.run.method == "opcod" else "never"

    @property
    def keeps_teacher(self) -> bool:
        """Whether trainers have a self-teacher."""
        return keeps_teacher(self.run.method, self.grpo)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the students, in the one order that everything about them goes by."""
        return tuple(sorted(self.students))

    @property
    def domains(self) -> tuple[str, ...]:
        """The distinct domains of the students, in the students' order."""
        return tuple(dict.fromkeys(self.students[name].domain for name in self.names))

    def keeps_apart(self, student: str) -> bool:
        """Whether its replicas keep one version each, the live one or the tutor's: a run in parallel needs both at
        once, and its engines hold one set of full weights at a time."""
        one_at_a_time = self.run.weights == "full" and self.students[student].engine == "vllm"
        return one_at_a_time and self.run.schedule == "parallel" and self.gate_mode != "never"

    def threads_on(self, device: str, cores: int) -> int:
        """Of a model process that computes there. device: "cuda" or "cpu"; cores: those of this process."""
        processes = sum(1 + student.started for student in self.students.values())
        return self.resources.threads_on(device, cores, processes=processes)

    def peers_of(self, student: str) -> tuple[str, ...]:
        """The others, from the next one on, and round."""
        at = self.names.index(student)
        return self.names[at + 1 :] + self.names[:at]

    def require_student(self, name: str, option: str = "--student") -> str:
        """The name, if a student has it. Raises ConfigError naming the option that it was given with."""
        if name not in self.students:
            raise ConfigError(f"{option}: expected one of {', '.join(self.names)}, got {name!r}")
        return name

    def adapts_from(self, student: str) -> int | None:
        """The lowest block that an adapter of this student changes; None where it is trained without one."""
        trained = self.run.weights == "lora" or self.students[student].specialize
        return self.lora.first_layer if trained else None

    def learns_from_itself(self, student: str) -> bool:
        """Whether it is fine-tuned on right answers of its own."""
        section = self.students[student]
        return section.specialize and section.examples is None and self.specialize.source == "self"


class Paths(Section):
    """Where a run and the caches lie."""

    runs_dir: Path
    run: str
    cache_dir: Path

    @property
    def run_dir(self) -> Path:
        return self.runs_dir / self.run
