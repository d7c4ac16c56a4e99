"""Every setting of a run, with its default, its limits and its reason.

One `RunSettings` describes a run; every service gets the same one and takes what concerns it. Defaults are
the paper's (arXiv 2606.14368, Table 4 and appendix D) unless the field says otherwise. Sections about the machine
that a run is on are in `machine.py`, those of the methods that it is compared with in `baselines.py`. Settings that are
each in order but contradict one another are refused here, too.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from shared.config.alarms import AlarmsSection
from shared.config.baselines import GrpoSection, HacpoSection, Method
from shared.config.machine import (
    BusSection,
    ResourcesSection,
    RetentionSection,
    ServingSection,
    TrainerSection,
    VllmSection,
)
from shared.config.section import Positive, Section, Share
from shared.config.specializing import SpecializeSection
from shared.contracts.messages import Sampling

STUDENTS: tuple[Literal["a"], Literal["b"]] = ("a", "b")

# Two rows of the longest trees: more saves no time on a CPU, and costs memory there.
CPU_PASS_TOKENS = 1024


class RunSection(Section):
    """The shape of a run."""

    seed: int = Field(default=0, description="Seeds everything: problems, order, rollouts, feedback, adapters.")
    rounds: Positive = Field(default=2, description="R: rounds of validate, gate, train.")
    steps_per_round: Positive = Field(default=50, description="K: optimizer steps a student takes in a round.")
    schedule: Literal["parallel", "sequential"] = Field(
        default="parallel", description="Both phases of a round at once, or one after the other."
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
    validation_per_domain: Positive = Field(
        default=30, description="Training rows of each domain that validate instead, for `sciknoweval:`."
    )
    balance_domains: bool = Field(
        default=False, description="Draw each step evenly from both domains instead of from their union."
    )
    balance_kinds: bool = Field(
        default=False, description="Go through a domain's kinds in turn, so that no step lacks one for long."
    )


class GateSection(Section):
    """Who may tutor in a round (paper 3.2)."""

    mode: Literal["cognizance", "always", "never", "domain_selective"] = "cognizance"
    tau: float = Field(default=0.2, ge=0, description="A student tutors if its gap is at most this.")
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
        "on the weights. Costs two more output layers and about 550 bytes for each of their tokens.",
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
        "what the plan of their memory has room for, the same for both students (docs/scaling.md).",
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


class StudentSection(Section):
    """One student: which model it is and how it is served."""

    model: str = Field(default="embedded", description="`embedded`, a directory or a hub id; of an adapter too.")
    domain: str = Field(description="Its stronger domain: it is fine-tuned on it, and named so to its peer.")
    specialize: bool = Field(default=False, description="Fine-tune on the own domain first, cached by content.")
    examples: str | None = Field(
        default=None, description="JSONL file to fine-tune on (docs/data.md); none: `specialize.source` says on what."
    )
    unknown_kinds: int = Field(
        default=0,
        ge=0,
        le=5,
        description="Of the generated problems: so many kinds of the other domain are left for its peer to teach it.",
    )
    engine: Literal["transformers", "vllm", "scripted"] = "transformers"
    vllm: VllmSection = VllmSection()
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    chat_template: str | None = Field(default=None, description="A template of ours (`compact`), else the model's.")
    slots: Positive = Field(default=64, description="Sequences generated at once.")
    replicas: Positive = Field(
        default=1, description="Replicas that must hold a new version before the broker goes on with it."
    )
    port: int = Field(default=0, ge=0, le=65535, description="0 = any free port.")


class RunSettings(Section):
    """All sections, checked against one another (`refuse_contradictions`)."""

    # Sections are immutable, so one instance may be the default of all.
    run: RunSection = RunSection()
    problems: ProblemsSection = ProblemsSection()
    gate: GateSection = GateSection()
    alarms: AlarmsSection = AlarmsSection()
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
        if isinstance(students, dict) and not students.keys() <= set(STUDENTS):
            raise ValueError(f"expected {' and '.join(STUDENTS)}, got {', '.join(map(str, students))}")
        return students

    @model_validator(mode="after")
    def _consistent(self) -> "RunSettings":
        refuse_contradictions(self)
        return self

    @property
    def gate_mode(self) -> str:
        """Who tutors: the gate's mode, and nobody in a baseline."""
        return self.gate.mode if self.run.method == "opcod" else "never"

    def peer_of(self, student: str) -> str:
        return "b" if student == "a" else "a"

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


def refuse_contradictions(settings: RunSettings) -> None:
    """Raises ValueError naming the setting to change."""
    run, gate, students = settings.run, settings.gate, settings.students
    if sorted(students) != ["a", "b"]:
        raise ValueError(f"students: expected a and b, got {', '.join(students) or 'none'}")
    if students["a"].domain == students["b"].domain:
        raise ValueError("students: a and b need different domains; each tutors in its own")
    for name, student in sorted(students.items()):
        if student.examples is not None and not student.specialize:
            raise ValueError(f"students.{name}.examples: without students.{name}.specialize = true they are not used")
    sampling = settings.specialize.sampling
    if sampling.keep > sampling.samples:
        raise ValueError("specialize.sampling.keep: at most specialize.sampling.samples, of which they are kept")
    if settings.optimizer.mini_batches > settings.problems.per_step:
        raise ValueError("optimizer.mini_batches: at most problems.per_step, since a group is never split")
    if settings.problems.balance_domains and settings.problems.per_step % 2:
        raise ValueError("problems.per_step: must be even when problems.balance_domains is on")
    if run.method != "opcod" and gate.mode in ("always", "domain_selective"):
        raise ValueError(
            f"gate.mode: {gate.mode!r} lets students tutor, run.method = {run.method!r} has no tutors; set "
            "gate.mode = 'cognizance', or run.method = 'opcod'"
        )
    if run.method == "hacpo" and run.schedule == "sequential":
        raise ValueError(
            "run.schedule: with run.method = 'hacpo' every step of a student waits for its peer's rollouts of the same "
            "problems, and in sequence the peer would not begin before that student is done; set run.schedule = "
            "'parallel'"
        )
    if run.method == "hacpo" and run.stream:
        raise ValueError("run.stream: HACPO weighs a group by the rewards of the whole step; set run.stream = false")
    if run.method == "grpo" and settings.grpo.anchor and settings.loss.teacher != "ema":
        raise ValueError(
            "grpo.anchor: the student is held to its own moving average, and with loss.teacher = "
            f"{settings.loss.teacher!r} none is kept; set loss.teacher = 'ema', or grpo.anchor = 0"
        )
    if gate.tutor_source == "latest" and run.schedule == "parallel":
        raise ValueError(
            "gate.tutor_source: 'latest' is the student that the phase before has trained, and in parallel there is "
            "none; set run.schedule = 'sequential'"
        )
    _refuse_full_weights(settings)
    if gate.hysteresis > gate.tau:
        raise ValueError("gate.hysteresis: at most gate.tau, or who may not tutor never could again")
    if settings.feedback.prompt == "naive" and settings.problems.format != "mcq":
        raise ValueError(
            f"feedback.prompt: the format {settings.problems.format!r} has one prompt, which asks for a concept; "
            "'naive' needs problems.format = 'mcq'"
        )


def _refuse_full_weights(settings: RunSettings) -> None:
    """What only adapters can do."""
    if settings.run.weights != "full":
        return
    on_vllm = [name for name, student in sorted(settings.students.items()) if student.engine == "vllm"]
    if on_vllm and settings.run.schedule == "parallel":
        raise ValueError(
            f"run.weights: the vLLM server of student {on_vllm[0]} holds one set of full weights at a time, and in "
            "parallel it would serve two, the student in training and the tutor; set run.schedule = 'sequential', or "
            f"students.{on_vllm[0]}.engine = 'transformers'"
        )
    found = {name: url for name in on_vllm if (url := settings.students[name].vllm.url) is not None}
    open_to_others = [name for name, url in found.items() if not url.startswith("unix:")]
    if open_to_others:
        raise ValueError(
            f"students.{open_to_others[0]}.vllm.url: full weights are exchanged by routes of the server's that ask for "
            "no key, so nobody but its student may reach it; name a socket (unix:/path) in a directory of theirs "
            "alone, or set run.weights = 'lora'"
        )
    if len(set(found.values())) < len(found):
        raise ValueError(
            f"students.b.vllm.url: the server at {found['b']} has room for one set of full weights, and student a has "
            "it; name another server, or set run.weights = 'lora'"
        )
    if settings.loss.teacher == "trust_region":
        raise ValueError(
            "loss.teacher: 'trust_region' mixes two passes under one output layer, and with run.weights = 'full' there "
            "are two; set loss.teacher = 'ema', or run.weights = 'lora'"
        )
