"""The settings of the self-distillation loss, and of what is written down of it."""

from typing import Literal

from pydantic import Field

from shared.config.section import Positive, Section, Share


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
