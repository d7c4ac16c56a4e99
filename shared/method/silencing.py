"""When a tutor is silenced: its feedback breaks more right answers than a bound, and than answering again would. Pure.

A right answer is lost sometimes by merely answering again, more often on hard problems; a tutor is not to blame for
that. What answering again would lose is known from the group itself: of a right rollout among n, the share of wrong
ones among the other n - 1. So feedback must be worse than both the bound and that share, by the lower end of a
one-sided interval. The interval is looked at after every group; how often that silences an honest tutor was
simulated (benchmarks/silencing.py, docs/diagnostics.md).
"""

from dataclasses import dataclass

from shared.method.intervals import effective_count, wilson_lower
from shared.method.scores import ScoreError

CONFIDENCE = 0.95
"""One-sided."""


@dataclass(frozen=True)
class BreakCount:
    """Revisions of right rollouts that saw a tutor's feedback.

    right_squares: sum over groups of the squared number of them. expected: how many of them would be wrong by chance.
    """

    broke: int
    right: int
    right_squares: int
    expected: float


@dataclass(frozen=True)
class SilenceJudgement:
    """low: lower end of the break-rate's interval. bound: what it would have to exceed."""

    break_rate: float
    low: float
    chance: float
    bound: float

    @property
    def silence(self) -> bool:
        return self.low > self.bound


def resampling_chance(wrong_rollouts: int, samples: int) -> float:
    """Chance that a right rollout's problem is answered wrong when it is sampled again: wrong / (n - 1)."""
    if not 0 <= wrong_rollouts < samples:
        raise ScoreError(f"chance: expected fewer wrong rollouts than the {samples} of the group, got {wrong_rollouts}")
    # Of the other n - 1: this one is known to be right.
    return wrong_rollouts / (samples - 1) if samples > 1 else 0.0


def judge_tutor(count: BreakCount, max_break_rate: float) -> SilenceJudgement | None:
    """None while there is nothing to judge by."""
    if count.right == 0:
        return None
    rate = count.broke / count.right
    # Counted as independent, eight revisions of one problem would silence a tutor by a single bad feedback.
    low = wilson_lower(rate, effective_count(count.right, count.right_squares), CONFIDENCE) or 0.0
    chance = count.expected / count.right
    return SilenceJudgement(rate, low, chance, max(max_break_rate, chance))
