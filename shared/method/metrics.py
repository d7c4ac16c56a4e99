"""Figures that say whether a run helped: difficulty bins, Pareto flags, intervals, baselines.

All pure; a figure that has no meaning for its input (a rate over nothing) is None, never 0.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from shared.method.scores import (
    RESAMPLES,
    ScoreError,
    check_confidence,
    checked_score,
    percentile_interval,
    require_same_keys,
    resampled_positions,
)


def difficulty_bins(wrong_count: int, n: int = 8) -> list[str]:
    """The bins of a problem with `wrong_count` wrong rollouts among n. They overlap on purpose.

    For n = 8: easiest 0-1, easy 0-4, hard 5-7, hardest 7; all wrong is in none, as no bin can show learning there.
    For any n: let u = n/8 rounded up. easy: at most half wrong; easiest: easy and at most u wrong; hard: more than
    half but not all wrong; hardest: hard and at most u correct.
    """
    if n < 1 or not 0 <= wrong_count <= n:
        raise ScoreError(f"difficulty: expected between 0 and {n} wrong rollouts, got {wrong_count}; count the group")
    # Rounded up, by floor division of the negative number.
    unit = -(-n // 8)
    easy = 2 * wrong_count <= n
    hard = not easy and wrong_count < n
    bins = {
        "easiest": easy and wrong_count <= unit,
        "easy": easy,
        "hard": hard,
        "hardest": hard and n - wrong_count <= unit,
    }
    return [name for name, holds in bins.items() if holds]


def dominates(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Whether `one` is at least as good in every domain and better in some. Equal scores dominate nothing."""
    domains = require_same_keys([one, other], "comparison")
    # A score that is NaN compares as neither better nor worse, so it is refused.
    pairs = [(checked_score(one[name], name), checked_score(other[name], name)) for name in domains]
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def pareto_improved(before: Mapping[str, float], after: Mapping[str, float]) -> bool:
    """Whether one student got worse in no domain and better in at least one."""
    return dominates(after, before)


def bootstrap_interval(
    per_problem_scores: Sequence[float], confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """(low, high) of the mean score by resampling problems (not samples: those of one problem move together)."""
    check_confidence(confidence)
    scores = [checked_score(value, "interval") for value in per_problem_scores]
    if not scores:
        raise ScoreError("interval: expected at least one problem's score, got none; evaluate first")
    means = [
        sum(scores[at] for at in picked) / len(picked) for picked in resampled_positions(len(scores), seed, RESAMPLES)
    ]
    return percentile_interval(means, confidence)


def change_interval(
    before: Sequence[float], after: Sequence[float], confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """(low, high) of the mean change, problem by problem: both lists are about the same problems in the same order."""
    return mean_change_interval([before], [after], confidence, seed)


def mean_change_interval(
    before: Sequence[Sequence[float]], after: Sequence[Sequence[float]], confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """As `change_interval`, of the mean over domains of each one's mean change: however many problems it has."""
    check_confidence(confidence)
    if [len(scores) for scores in before] != [len(scores) for scores in after] or not before or not all(before):
        raise ScoreError(
            f"change: expected the same problems before and after, got {sum(map(len, before))} and "
            f"{sum(map(len, after))}"
        )
    totals = [0.0] * RESAMPLES
    for place, (early, late) in enumerate(zip(before, after, strict=True)):
        # Paired: before and after are resampled together, so that a hard problem weighs on both alike.
        changes = [checked_score(y, "change") - checked_score(x, "change") for x, y in zip(early, late, strict=True)]
        # A seed for each domain: with one, domains of as many problems would be resampled alike.
        for at, picked in enumerate(resampled_positions(len(changes), seed + place, RESAMPLES)):
            totals[at] += sum(changes[each] for each in picked) / len(picked)
    return percentile_interval([total / len(before) for total in totals], confidence)


def majority_baseline(answers: Sequence[str]) -> float:
    """What always giving the most frequent gold answer would score; print it beside every accuracy."""
    if not answers:
        raise ScoreError("majority baseline: expected at least one gold answer, got none; pass the set's answers")
    return max(Counter(answers).values()) / len(answers)
