"""Figures of steps and counts of revisions for tests, healthy unless told otherwise."""

from shared.contracts.diagnostics import BatchRewards, RevisionCount
from shared.contracts.weights import StepMetrics


def step_metrics(**changes: object) -> StepMetrics:
    fields: dict[str, object] = {
        "loss": 0.5,
        "grad_norm": 1.0,
        "active_share": 1.0,
        "tokens": 18,
        "delta_logprob": 0.0,
        "clipped_share": 0.0,
        "effective_sample_share": 1.0,
        "skipped_updates": 0,
        "seconds": {"student": 0.25},
    }
    return StepMetrics.model_validate(fields | changes)


def batch_rewards(mean: float = 0.5, *, variance: float = 0.001, unique_share: float | None = 0.8) -> BatchRewards:
    return BatchRewards(mean=mean, variance=variance, unique_share=unique_share)


def revision_count(
    broke: int, kept_right: int, *, wrong: int = 1, round_: int = 1, tutor: str = "b", told: bool = True
) -> RevisionCount:
    """Of one group; its wrong rollouts stay wrong."""
    return RevisionCount(
        round=round_,
        tutor=tutor,
        told=told,
        wrong_rollouts=wrong,
        groups=1,
        broke=broke,
        kept_right=kept_right,
        kept_wrong=wrong,
        right_squares=(broke + kept_right) ** 2,
        wrong_squares=wrong**2,
    )
