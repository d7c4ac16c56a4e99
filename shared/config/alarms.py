"""When the figures of a student raise an alarm (docs/diagnostics.md)."""

from pydantic import Field

from shared.config.section import Positive, Section, Share


class AlarmsSection(Section):
    """When the figures of a student raise an alarm. An alarm is shown and reported; it stops nothing
    ([what each means, and what to do](diagnostics.md#alarms))."""

    window: Positive = Field(
        default=5,
        description="Steps in a row that most alarms look at. More steps: fewer false alarms, and later ones.",
    )
    min_grad_norm: float = Field(
        default=1e-4,
        ge=0,
        description="`near_zero_gradient`: a gradient norm below this, with a loss above `min_loss`. Those of the "
        "preset `laptop` are about 0.02.",
    )
    min_loss: float = Field(
        default=1e-3, ge=0, description="`near_zero_gradient`: below this loss little is left to learn, so no alarm."
    )
    collapse_drop: Share = Field(
        default=0.5, description="`reward_collapse`: the share of its best mean reward that a student has lost."
    )
    collapse_z: float = Field(
        default=5.0,
        gt=0,
        description="`reward_collapse`: and by how many standard errors at least, as the best of many windows looks "
        "better than it is.",
    )
    max_delta_logprob: float = Field(
        default=0.3,
        gt=0,
        description="`engine_drift`: mean absolute difference between the log-probs of engine and trainer in a step, "
        "in nats. Equal weights differ by at most 0.09 in bf16, wrong ones by 1.2 and more.",
    )
    min_unique_share: Share = Field(
        default=0.2,
        description="`answer_collapse`: share of distinct rollouts in groups that have a wrong one. If all 8 are the "
        "same, it is 0.125.",
    )
    max_length_ratio: float = Field(
        default=1.5,
        gt=1,
        description="`length_drift`: by which factor the mean answer has become longer or shorter than in the first "
        "round. On the preset `laptop` it stays within 2 %.",
    )
    max_gap_growth: Share = Field(
        default=0.2,
        description="`validation_gap`: by how much the training reward has gained on the validation score since the "
        "run began. On the preset `laptop` that is at most 0.13 without harm, as rollouts are drawn hotter.",
    )
    gap_z: float = Field(default=3.0, gt=0, description="`validation_gap`: and by how many standard errors at least.")
    min_form_share: Share = Field(
        default=0.05,
        description="`answer_form`: share of the validation answers that have the form that is graded. Below it "
        "scores say nothing of what a student knows.",
    )
