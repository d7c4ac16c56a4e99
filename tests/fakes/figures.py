"""Figures of steps and counts of revisions for tests, healthy unless told otherwise."""

import hashlib

from shared.contracts.diagnostics import BatchRewards, RevisionCount
from shared.contracts.ids import version_name
from shared.contracts.weights import StepDone, StepMetrics


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


def step_done(student: str, step: int, sha256: str = "0" * 64) -> StepDone:
    checksum = hashlib.sha256(f"{student}{step}".encode()).hexdigest()
    version = version_name(student, step)
    return StepDone(
        student=student, step=step, version=version, checksum=checksum, batch_sha256=sha256, metrics=step_metrics()
    )


def batch_rewards(
    mean: float = 0.5,
    *,
    variance: float = 0.001,
    unique_share: float | None = 0.8,
    mean_tokens: float | None = 100.0,
) -> BatchRewards:
    return BatchRewards(mean=mean, variance=variance, unique_share=unique_share, mean_tokens=mean_tokens)


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
