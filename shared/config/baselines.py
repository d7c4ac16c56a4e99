"""Which methods there are, and the settings of those that the method is compared with (docs/method.md)."""

from typing import Literal

from pydantic import Field

from shared.config.section import Positive, Section, Share

Method = Literal["opcod", "sdpo", "grpo", "hacpo"]

POLICY_GRADIENTS = frozenset({"grpo", "hacpo"})
"""Methods that learn from rewards, without a self-teacher that is shown something."""


class GrpoSection(Section):
    """Policy gradient of the baseline `run.method = "grpo"` (docs/method.md)."""

    clip_low: Share = Field(default=0.2, description="The ratio to the old policy is cut below 1 - this.")
    clip_high: float = Field(default=0.28, ge=0, description="And above 1 + this.")
    dual_clip: float = Field(default=3.0, gt=1, description="A negative advantage weighs at most this many times.")
    anchor: float = Field(
        default=0.0,
        ge=0,
        description="Weight of the KL divergence from the student's own EMA copy, which keeps it from moving far at "
        "once; 0: none. `loss.teacher_at_phase_start` and `optimizer.ema_rate` say how that copy moves.",
    )


def keeps_teacher(method: Method, grpo: GrpoSection) -> bool:
    """Whether a step of that method asks the self-teacher for anything. HACPO has no anchor, whatever GRPO's is."""
    return method not in POLICY_GRADIENTS or (method == "grpo" and grpo.anchor > 0)


class HacpoSection(Section):
    """Policy gradient on shared rollouts of the baseline `run.method = "hacpo"` (docs/method.md)."""

    capability_window: Positive = Field(
        default=5, description="Steps over which a student's mean reward says how able it is."
    )
    clip_low: Share = Field(
        default=3e-4, description="Own rollouts: their ratio to the old policy, by sequence, is cut below 1 - this."
    )
    clip_high: float = Field(default=4e-4, ge=0, description="And above 1 + this.")
    foreign_clip: Share = Field(
        default=0.2, description="The peer's rollouts: their ratio to the peer is cut below 1 - this, and above 1."
    )
    foreign_clip_step: float = Field(
        default=0.025, ge=0, description="By this much that lower cut rises with each update of a step."
    )
    alpha: float = Field(
        default=1.0, ge=0, description="Power of the ratio by which the peer's unlikely rollouts count less."
    )
