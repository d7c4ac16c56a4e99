"""Which methods there are, and the settings of those that the method is compared with (docs/method.md)."""

from typing import Literal

from pydantic import Field

from shared.config.section import Positive, Section, Share

Method = Literal["opcod", "sdpo", "grpo", "hacpo"]

POLICY_GRADIENTS = frozenset({"grpo", "hacpo"})
"""Methods that learn from rewards, without a self-teacher that is shown something."""


class GrpoSection(Section):
    """Policy gradient of the baseline `run.method = "grpo"` (docs/method.md)."""

    clip_low: Share = Field(
        default=0.2,
        description="A token's probability ratio, new policy to old, is cut below 1 - this. With one update a step "
        "it is 1, and nothing is cut.",
    )
    clip_high: float = Field(default=0.28, ge=0, description="And above 1 + this.")
    dual_clip: float = Field(
        default=3.0, gt=1, description="The loss of a bad answer is at most this many times its (negative) advantage."
    )
    anchor: float = Field(
        default=0.0,
        ge=0,
        description="Weight of a KL term that keeps the student near its own moving average; 0: no such term. "
        "`optimizer.ema_rate` and `loss.teacher_at_phase_start` say how that average moves.",
    )


def keeps_teacher(method: Method, grpo: GrpoSection) -> bool:
    """Whether a step of that method asks the self-teacher for anything. HACPO has no anchor, whatever GRPO's is."""
    return method not in POLICY_GRADIENTS or (method == "grpo" and grpo.anchor > 0)


class HacpoSection(Section):
    """Policy gradient on shared rollouts of the baseline `run.method = "hacpo"` (docs/method.md)."""

    capability_window: Positive = Field(
        default=5,
        description="A student's capability is its mean reward over so many steps; rewards and weights of shared "
        "rollouts go by the ratio of capabilities.",
    )
    clip_low: Share = Field(
        default=3e-4,
        description="Own rollouts: the probability ratio of a sequence, new policy to old, is cut below 1 - this.",
    )
    clip_high: float = Field(default=4e-4, ge=0, description="And above 1 + this.")
    foreign_clip: Share = Field(
        default=0.2,
        description="The peer's rollouts: the ratio of the learner's probability to the peer's is cut below 1 - "
        "this, and above 1. A rollout that is cut moves no weights.",
    )
    foreign_clip_step: float = Field(
        default=0.025,
        ge=0,
        description="By this much the lower cut of `foreign_clip` rises with each update of a step.",
    )
    alpha: float = Field(
        default=1.0,
        ge=0,
        description="The peer's rollouts count by their ratio to this power, so unlikely ones count less; 0: all "
        "alike.",
    )
