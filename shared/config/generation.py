"""What students write in a run, and how it is drawn from them: rollouts, feedback and evaluations."""

from typing import Literal

from pydantic import Field

from shared.config.section import Positive, Section, Share
from shared.contracts.messages import LEAST_TEMPERATURE, Sampling


class RolloutSection(Section):
    """The student's own answers in training."""

    samples: Positive = Field(
        default=8,
        description="n: rollouts of each problem, its *group*. More find a right answer to harder problems, and a "
        "step's time grows with them. Paper: 8.",
    )
    temperature: float = Field(
        default=1.0,
        ge=LEAST_TEMPERATURE,
        le=5,
        description="Sampling temperature. Rollouts must vary, or a group has no right answer beside its wrong ones. "
        "Paper: 1.",
    )
    top_p: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Draw from the likeliest tokens that together have this probability; 1: from all. Paper: 1.",
    )
    max_tokens: Positive = Field(
        default=4096,
        description="Tokens of a rollout at most. One that is cut there is graded like any other, so it is mostly "
        "wrong: the report says how many were cut. The longest sequence decides a trainer's memory. Paper: 4096.",
    )

    @property
    def sampling(self) -> Sampling:
        return Sampling(temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens)


class FeedbackSection(Section):
    """What a tutor writes, and how long the broker waits for it."""

    prompt: Literal["anchored", "naive"] = Field(
        default="anchored",
        description="`anchored`: the tutor first names a concept of the problem, and feedback whose concept is not "
        "in the problem is dropped. `naive`: no concept is asked for or checked, the paper's ablation; only with "
        '`problems.format = "mcq"`.',
    )
    temperature: float = Field(
        default=0.6, ge=0, le=5, description="Sampling temperature; 0: always the likeliest token."
    )
    top_p: float = Field(
        default=0.95, gt=0, le=1, description="Draw from the likeliest tokens that together have this probability."
    )
    max_tokens: Positive = Field(default=1024, description="Tokens of a feedback at most. Paper: 1024.")
    tutor_timeout_s: float = Field(
        default=120.0,
        gt=0,
        description="How long a tutor may write the feedback of one group, from when it takes the job. What comes "
        "later is not used: its rollouts get no feedback (`fb_none`), and the step goes on.",
    )
    share_identical: bool = Field(
        default=False,
        description="Rollouts of a group with the same text get one feedback, written once. Saves time where answers "
        "are short; there is then less variety of feedback.",
    )
    revise_share: Share = Field(
        default=0.1,
        description="Share of the groups with feedback whose student answers again after reading it. Measures "
        "break-rate and fix-rate, and is never trained on. 0: nothing is measured, and no tutor is silenced.",
    )

    @property
    def sampling(self) -> Sampling:
        return Sampling(temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens)


class EvaluationSection(Section):
    """Validation each round (the gate), test before and after (the report)."""

    validation_samples: Positive = Field(
        default=16,
        description="Answers to each validation problem. The gate goes by their mean: more make it less a matter of "
        "chance, and each round longer. Paper: 16.",
    )
    test_samples: Positive = Field(
        default=16, description="Answers to each test problem, before and after the run; the score is their mean."
    )
    temperature: float = Field(
        default=0.6, ge=0, le=5, description="Sampling temperature, of revisions too; 0: always the likeliest token."
    )
    top_p: float = Field(
        default=0.95, gt=0, le=1, description="Draw from the likeliest tokens that together have this probability."
    )
    max_tokens: Positive = Field(default=4096, description="Tokens of an answer at most; one that is cut is graded.")
    validation_problems: Positive | None = Field(
        default=None, description="Validation problems of each domain that are asked; none: all."
    )
    test_problems: Positive | None = Field(
        default=None, description="Test problems of each domain that are asked; none: all."
    )
    problems_per_job: Positive = Field(
        default=16,
        description="Problems in one job for a student. Fewer spread an evaluation better over several replicas, and "
        "lose less if one dies.",
    )

    @property
    def sampling(self) -> Sampling:
        return Sampling(temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens)
