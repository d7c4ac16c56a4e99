"""Every setting of a run, with its default, its limits and its reason.

One `RunSettings` describes a run; every service gets the same one and takes what concerns it. Defaults are
the paper's (arXiv 2606.14368, Table 4 and appendix D) unless the field says otherwise. What students generate is set in
`generation.py`, how they learn in `training.py`, what a run uses of its machine in `machine.py` and `vllm.py`, and the
methods it is compared with in `baselines.py`. Settings that are each in order but contradict one another are refused
here, too.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from shared.config.alarms import AlarmsSection
from shared.config.baselines import GrpoSection, HacpoSection, Method, keeps_teacher
from shared.config.combinations import refuse_contradictions, require_students
from shared.config.generation import EvaluationSection, FeedbackSection, RolloutSection
from shared.config.machine import (
    BusSection,
    ResourcesSection,
    RetentionSection,
    ServingSection,
    TrainerSection,
)
from shared.config.section import Positive, Section, looked_at
from shared.config.specializing import SpecializeSection
from shared.config.students import StudentSection, require_names
from shared.config.training import LoraSection, LossSection, OptimizerSection
from shared.errors import ConfigError


class RunSection(Section):
    """The shape of a run."""

    seed: int = Field(
        default=0,
        description="Seeds everything: problems, their order, rollouts, feedback, adapters. For intervals make runs of "
        "several seeds (`opcod compare`).",
    )
    rounds: Positive = Field(
        default=2,
        description="R: how often all students are validated, the gate decides who may tutor, and each trains. "
        "Paper: 2 (5 for one pair).",
    )
    steps_per_round: Positive = Field(
        default=50, description="K: steps that each student trains in a round. Paper: 50 (20 for one pair)."
    )
    schedule: Literal["parallel", "sequential"] = Field(
        default="parallel",
        description="In a round, train all students at once, or one after the other as the paper writes it. The "
        "results are distributed alike, as tutors do not change within a round; parallel takes less time, sequential "
        "less memory.",
    )
    method: Method = Field(
        default="opcod",
        description="`opcod`, or a baseline to compare it with. `sdpo`: each student distils from its own right "
        "answers. `grpo`: each learns from its rewards by policy gradient. `hacpo`: policy gradient on the rollouts "
        "of both students, who answer the same problems.",
    )
    stream: bool = Field(
        default=False,
        description="Train on each problem's rollouts as soon as they are ready, while others are still being "
        "written. As on-policy as without (docs/method.md); it helps where engine and trainer have hardware of their "
        "own.",
    )
    keep_best: bool = Field(
        default=False,
        description="At the end test and hand on each student's version with the best validation score instead of "
        "its last one.",
    )
    weights: Literal["lora", "full"] = Field(
        default="lora",
        description="What training changes: an adapter (section `lora`), or `full`: all weights, as in the paper, "
        "for many times the memory (docs/full-weights.md).",
    )


class ProblemsSection(Section):
    """Which problems, and how many of them a step uses."""

    source: str = Field(
        default="generated",
        description="`generated`: arithmetic problems of three domains, made from the seed. A directory: your own, "
        "as JSONL files (docs/data.md). `sciknoweval:<directory or hub id>`: the paper's.",
    )
    format: Literal["integer", "mcq"] = Field(
        default="integer",
        description="How problems are put and graded: by the `integer` after the last `=`, or by the letter of a "
        "multiple choice (`mcq`).",
    )
    per_step: Positive = Field(
        default=32, description="Problems in one step of a student; each gets `rollout.samples` rollouts. Paper: 32."
    )
    kinds: int | None = Field(
        default=None,
        ge=2,
        le=10,
        description="Of generated problems: how many kinds each domain has. Half of them (rounded down) need a "
        "constant that the question does not tell. None: all ten.",
    )
    validation_per_domain: Positive = Field(
        default=30,
        description="Of SciKnowEval: how many training problems of each domain validate instead of training. Paper: "
        "30.",
    )
    balance_domains: bool = Field(
        default=False,
        description="Draw each step evenly from all domains. Otherwise from all problems together, so that larger "
        "domains come oftener, as in the paper.",
    )
    balance_kinds: bool = Field(
        default=False,
        description="Of generated problems: go through a domain's kinds in turn, so that no step lacks one for long.",
    )


class GateSection(Section):
    """Who may tutor in a round (paper 3.2). A student's *gap*: by which share its validation score is below the best
    one, summed over the domains."""

    mode: Literal["cognizance", "always", "never", "domain_selective"] = Field(
        default="cognizance",
        description="`cognizance`, the paper's: who has a small enough gap tutors. `always`: everybody. `never`: "
        "nobody. `domain_selective`: as `cognizance`, and the others still tutor on problems of their own domain.",
    )
    tau: float = Field(
        default=0.2,
        ge=0,
        description="τ: a student may tutor if its gap is at most this. Higher: weaker tutors speak, and earlier. "
        "With 30 validation problems a gap is uncertain by about 0.1. Paper: 0.2.",
    )
    scope: Literal["pair", "all"] = Field(
        default="pair",
        description="With three students and more: take the gap between a tutor and its tutee over these two's "
        "domains (`pair`), or over all domains to the best of all students (`all`). With two it is the same.",
    )
    max_break_rate: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="A tutor is silenced for the rest of a round once its feedback surely turns more than this share "
        "of right answers wrong, measured on revisions (`feedback.revise_share`); 1: never.",
    )
    hysteresis: float = Field(
        default=0.0,
        ge=0,
        description="Keeps chance from flipping the gate: who may tutor loses it above τ + this, who may not gets it "
        "at τ - this. At most τ. 0: the paper's rule.",
    )
    tutor_source: Literal["round_start", "latest"] = Field(
        default="round_start",
        description="Which version tutors: the one that the gate measured at the round's start, or the `latest` when "
        'its tutee\'s training begins; that needs `run.schedule = "sequential"`.',
    )


class TutoringSection(Section):
    """With three students and more: which of those that may tutor a student speaks about a problem."""

    choice: Literal["best", "own_domain", "ring"] = Field(
        default="best",
        description="`best`: who has the best validation score in the problem's domain. `own_domain`: who is strong "
        "in that domain, and else nobody. `ring`: the student that comes next by name.",
    )


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
