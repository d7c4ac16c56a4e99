"""What comes of a feedback, in two words."""

from shared.method.anchoring import review_feedback


def process(raw: str | None, problem: str) -> tuple[str, str | None]:
    """(verdict, text to deliver)."""
    review = review_feedback(raw, problem)
    return review.verdict, review.delivered
