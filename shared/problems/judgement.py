"""What a problem format decides about a raw feedback."""

from dataclasses import dataclass

from shared.method.anchoring import Review

FORMAL_REASONS = ("concept_tag", "blank")
"""Removals that take nothing away from a reader."""


@dataclass(frozen=True)
class Judgement:
    """delivered: the text that the tutee may see, None if it is dropped. removed: what was taken out of the raw text,
    delivered or not, where a reader would miss it."""

    verdict: str
    delivered: str | None
    removed: tuple[str, ...]


def removed_by(review: Review) -> tuple[str, ...]:
    """What the rules of every format took out."""
    return tuple(removal.text for removal in review.removals if removal.reason not in FORMAL_REASONS)
