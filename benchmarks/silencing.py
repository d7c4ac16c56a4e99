"""How often, and how soon, the silencing rule silences a tutor: python benchmarks/silencing.py

Simulated rounds of 160 revised groups (the paper's 50 steps of 32 problems at the default share), each group with
1 to 7 right rollouts whose prompt held feedback. All revisions of a tutor break with the given rate on average; how
alike those of one group are is their correlation. The rule looks after every group, as in a run.
"""

import random
from dataclasses import dataclass

from shared.method.silencing import BreakCount, judge_tutor

GROUPS = 160
RUNS = 2000
BOUND = 0.5
RATES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
CORRELATIONS = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Outcome:
    """silenced: share of the rounds. groups: revised groups until then, one each, sorted."""

    silenced: float
    groups: list[int]

    def quantile(self, share: float) -> int | None:
        return self.groups[int(share * (len(self.groups) - 1))] if self.groups else None


def simulate(rate: float, correlation: float, *, runs: int = RUNS, seed: int = 0, bound: float = BOUND) -> Outcome:
    """Rounds of a tutor whose feedback breaks right answers at `rate`."""
    rng = random.Random(seed)
    found = [groups for groups in (_round(rate, correlation, bound, rng) for _ in range(runs)) if groups is not None]
    return Outcome(len(found) / runs, sorted(found))


def _round(rate: float, correlation: float, bound: float, rng: random.Random) -> int | None:
    broke = right = squares = 0
    for group in range(1, GROUPS + 1):
        size = rng.randint(1, 7)
        own_rate = _group_rate(rate, correlation, rng)
        broke += sum(rng.random() < own_rate for _ in range(size))
        right, squares = right + size, squares + size * size
        judgement = judge_tutor(BreakCount(broke, right, squares, expected=0.0), bound)
        if judgement is not None and judgement.silence:
            return group
    return None


def _group_rate(rate: float, correlation: float, rng: random.Random) -> float:
    """Beta-distributed over groups with the given correlation between two revisions of one group."""
    if rate in (0.0, 1.0) or correlation == 0.0:
        return rate
    if correlation == 1.0:
        return float(rng.random() < rate)
    weight = 1 / correlation - 1
    return rng.betavariate(rate * weight, (1 - rate) * weight)


def main() -> None:
    print("| break-rate | correlation within a group | silenced, % | groups until then: median | 95 % |")
    print("|---|---|---|---|---|")
    for rate in RATES:
        for correlation in CORRELATIONS:
            outcome = simulate(rate, correlation)
            middle, late = outcome.quantile(0.5), outcome.quantile(0.95)
            print(f"| {rate:g} | {correlation:g} | {100 * outcome.silenced:.1f} | {middle or '–'} | {late or '–'} |")


if __name__ == "__main__":
    main()
