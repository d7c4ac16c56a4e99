"""When the figures of a student raise an alarm (docs/diagnostics.md)."""

from pydantic import Field

from shared.config.section import Positive, Section, Share


class AlarmsSection(Section):
    """When a step's figures raise an alarm; an alarm is told and reported, it stops nothing (docs/diagnostics.md)."""

    window: Positive = Field(default=5, description="Steps in a row that a condition is looked at over.")
    min_grad_norm: float = Field(
        default=1e-4, ge=0, description="A gradient norm below this is near zero; the laptop preset's are about 0.02."
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
    max_delta_logprob: float = Field(
        default=0.3,
        gt=0,
        description="Mean absolute difference of log-probs, engine to trainer, in nats; looked at in each step. Equal "
        "weights differ by at most 0.09 in bf16, wrong ones by 1.2 and more.",
    )
    min_unique_share: Share = Field(
        default=0.2, description="Distinct rollouts in groups with a wrong one; of 8 equal ones the share is 0.125."
    )
    max_length_ratio: float = Field(
        default=1.5,
        gt=1,
        description="Times that the mean answer may have become longer or shorter than in the first round; on the "
        "laptop preset it stays within 2 %.",
    )
    max_gap_growth: Share = Field(
        default=0.2,
        description="So much may the training reward have gained on the validation score since the run began. Hotter "
        "rollouts catch up with cooler evaluations anyway: by at most 0.13 on the laptop preset.",
    )
    min_form_share: Share = Field(
        default=0.05,
        description="Validation answers that have the form the format grades, looked at once a round; below it scores "
        "say nothing of what a student knows.",
    )
    gap_z: float = Field(
        default=3.0, gt=0, description="Standard errors that it must be; it is looked at once a round."
    )
