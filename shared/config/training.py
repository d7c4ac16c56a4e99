"""The settings of training: method, losses, optimizer, adapter, and the fine-tuning before a run."""

from typing import Literal

from pydantic import Field

from shared.config.sections import Positive, Section, Share

Method = Literal["opcod", "sdpo", "grpo"]
PhaseStart = Literal["reset", "carry"]


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
        description="The self-teacher: a moving average of the student's weights, or logits close to those of the "
        "student as its phase began.",
    )
    trust_region_mix: Share = Field(
        default=0.05, description="Share of the present student in the logits of `trust_region`."
    )
    teacher_at_phase_start: PhaseStart = Field(
        default="reset", description="The self-teacher when a phase begins: the student as it is, or as it was left."
    )


class GrpoSection(Section):
    """Policy loss of the baseline `run.method = "grpo"`, which takes aggregation and is_clip from `loss`."""

    clip_low: Share = Field(default=0.2, description="The ratio to the old policy is cut below 1 - this.")
    clip_high: float = Field(default=0.28, ge=0, description="The ratio is cut above 1 + this.")
    dual_clip: float = Field(default=3.0, gt=1, description="Largest ratio with which a negative advantage counts.")


class OptimizerSection(Section):
    """AdamW and the EMA teacher."""

    learning_rate: float = Field(default=1e-5, gt=0)
    warmup_updates: int = Field(default=5, ge=0)
    weight_decay: float = Field(default=0.01, ge=0)
    beta1: float = Field(default=0.9, gt=0, lt=1)
    beta2: float = Field(default=0.999, gt=0, lt=1)
    clip_norm: float = Field(default=1.0, gt=0)
    mini_batches: Positive = Field(default=1, description="Optimizer updates inside one step.")
    micro_batch_tokens: Positive = Field(default=16384, description="Padded tokens in one forward pass.")
    ema_rate: float = Field(default=0.05, gt=0, le=1, description="Share of the student in each EMA update.")
    at_phase_start: PhaseStart = Field(
        default="reset", description="Moments and warm-up when a phase begins: from the start, or as they were left."
    )
    max_skipped_updates: Positive = Field(default=3, description="Non-finite updates in a row before it stops.")


class LoraSection(Section):
    """The adapter that training changes; it starts at zero on the student's own (merged) weights."""

    rank: Positive = 16
    scale: float = Field(default=2.0, gt=0, description="alpha / rank.")
    first_layer: int = Field(default=0, ge=0, description="Adapt all linear layers of this block and those above.")


class SpecializeSection(Section):
    """Fine-tuning a student on its own domain before the run; no effect on students with `specialize = false`."""

    learning_rate: float = Field(default=2e-3, gt=0)
    batch_size: Positive = 8
    epochs: Positive = 1
    warmup_share: Share = 0.1
    beta1: float = Field(default=0.9, gt=0, lt=1)
    beta2: float = Field(default=0.99, gt=0, lt=1)
