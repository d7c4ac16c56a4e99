"""The methods that `opcod compare` sets side by side, and what comes of comparing their finished runs. Pure.

A method is a few settings on top of the preset's. Runs of one seed share specialists and problems, so methods are
compared seed by seed. Nothing in here rounds or hides.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from math import inf, sqrt
from statistics import fmean, stdev
from typing import Literal

from pydantic import BaseModel, ConfigDict

from shared.config.loading import nearest
from shared.errors import ConfigError
from shared.results.figures import Interval, Part
from shared.results.report import STATUS_STAGES

METHODS: dict[str, tuple[str, ...]] = {
    "opcod": ("run.method=opcod", "gate.mode=cognizance"),
    "always": ("run.method=opcod", "gate.mode=always"),
    "never": ("run.method=opcod", "gate.mode=never"),
    "domain_selective": ("run.method=opcod", "gate.mode=domain_selective"),
    "sdpo": ("run.method=sdpo", "gate.mode=cognizance"),
    "grpo": ("run.method=grpo", "gate.mode=cognizance", "grpo.anchor=0"),
    "grpo-anchored": ("run.method=grpo", "gate.mode=cognizance", "grpo.anchor=0.04"),
    "hacpo": ("run.method=hacpo", "gate.mode=cognizance"),
}

ALIKE = frozenset({"sdpo", "never"})
"""Where nobody ever tutors, each student learns alone: one computation under two names, so it is run once."""

OWNED = ("run.seed", "run.method", "gate.mode", "grpo.anchor")
"""Settings that the comparison itself sets."""


def parse_methods(text: str) -> list[str]:
    """`opcod,sdpo` in order. Raises ConfigError for an unknown or repeated name."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in METHODS:
            raise ConfigError(f"unknown method {name!r}{nearest(name, list(METHODS))}; there are: {', '.join(METHODS)}")
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"--methods: expected different methods of {', '.join(METHODS)}, got {text!r}")
    return names


COMPARISON_FILE = "compare.json"

MAX_SEEDS = 100
"""More are refused as a slip: a comparison makes a run for each of them and each method."""


def parse_seeds(text: str) -> tuple[int, ...]:
    """`3` for 0, 1, 2; `1000-1007` and `0-3,7` for just these, in order. Raises ConfigError for anything else."""
    refusal = ConfigError(
        f"--seeds: expected how many (3: seeds 0, 1 and 2), or which (1000-1007, or 0-3,7; one is 7-7), at most "
        f"{MAX_SEEDS} different ones, got {text!r}"
    )
    if re.fullmatch(r"\s*[0-9]{1,9}\s*", text):
        ranges = [(0, int(text) - 1)]
    else:
        found = [re.fullmatch(r"\s*([0-9]{1,9})\s*(?:-\s*([0-9]{1,9})\s*)?", part) for part in text.split(",")]
        ranges = [(int(each[1]), int(each[2] or each[1])) for each in found if each is not None]
        if len(ranges) < len(found):
            raise refusal
    # Counted before they are written out: a range may be of any size.
    if any(last < first for first, last in ranges) or sum(last - first + 1 for first, last in ranges) > MAX_SEEDS:
        raise refusal
    seeds = [seed for first, last in ranges for seed in range(first, last + 1)]
    if not seeds or len(set(seeds)) < len(seeds):
        raise refusal
    return tuple(seeds)


def alike(method: str, methods: Sequence[str]) -> list[str]:
    """Those of `methods` that compute the same as `method`, itself among them, in order."""
    return [name for name in methods if name == method or {name, method} <= ALIKE]


def refuse_owned(overrides: Sequence[str]) -> None:
    """Raises ConfigError for an override of what the comparison sets."""
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key in OWNED:
            raise ConfigError(f"--set {key}: `opcod compare` sets it itself; use --methods and --seeds")


CONFIDENCE = 0.95


class FromReport(BaseModel):
    """What a comparison takes of a run's report; whatever else the report says is left to it."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ScoreFigures(FromReport):
    student: str
    domain: str
    strong: bool
    before: float
    after: float


class StageFigures(FromReport):
    name: str
    seconds: float


class RunFigures(FromReport):
    run: str
    finished: bool
    seed: int
    scores: list[ScoreFigures]
    mutual_improvement: bool | None
    wall_s: float
    stages: list[StageFigures]

    @property
    def training_s(self) -> float:
        return sum(stage.seconds for stage in self.stages if stage.name == STATUS_STAGES["TRAINING"])


SAME = 1e-9
"""Scores are shares of counts: those that are closer than that are the same, but for rounding."""


class Estimate(Part):
    """A mean over seeds, with its values by seed. interval: 95 %, Student's t; None for a single seed."""

    mean: float
    interval: Interval | None
    values: dict[int, float]

    @property
    def without_spread(self) -> bool:
        """Whether all seeds, of two or more, have the same value: that tells how coarse a test is, not how sure."""
        return self.interval is not None and self.interval[1] - self.interval[0] < SAME


class Cell(Part):
    """Scores of one student in one domain, in [0, 1]; of `mean`, over all students and domains.

    difference: in the final score from the reference, seed by seed; None without a seed that both have.
    verdict: `higher` or `lower` only where the interval of the difference leaves 0 out; `open` otherwise.
    """

    student: str
    domain: str
    strong: bool
    before: Estimate
    after: Estimate
    change: Estimate
    difference: Estimate | None
    verdict: Literal["higher", "lower", "open"] | None


class MethodFigures(Part):
    """One method. same_as: the method whose runs these are, where two are one computation.

    mutual_improvements: runs in which every student improved in the sense of Pareto.
    """

    method: str
    same_as: str | None
    runs: dict[int, str]
    cells: list[Cell]
    mutual_improvements: int
    training_s: Estimate
    wall_s: Estimate


class Comparison(Part):
    """`compare.json`. missing: methods of which no run is finished. finished: all runs of all methods are.

    unlike_before: seeds whose runs have different initial scores, since each measured its own.
    """

    name: str
    reference: str
    seeds: list[int]
    finished: bool
    missing: list[str]
    unlike_before: list[int]
    methods: list[MethodFigures]


MEAN = ("mean", "all", False)
"""The place of the mean over all students and domains."""

Runs = Mapping[int, RunFigures]
Value = Callable[[ScoreFigures], float]


def compare_methods(
    name: str, methods: Sequence[str], seeds: Sequence[int], figures: Mapping[tuple[str, int], RunFigures]
) -> Comparison:
    """figures: of the finished runs, by (method, seed). The first method is the reference."""
    runs = {method: _runs(alike(method, methods), seeds, figures) for method in methods}
    reference = runs[methods[0]]
    return Comparison(
        name=name,
        reference=methods[0],
        seeds=list(seeds),
        finished=all(len(runs[method]) == len(seeds) for method in methods),
        missing=[method for method in methods if not runs[method]],
        unlike_before=[seed for seed in seeds if _unlike_before([own[seed] for own in runs.values() if seed in own])],
        methods=[_method(method, methods, runs[method], reference) for method in methods if runs[method]],
    )


def _runs(methods: Sequence[str], seeds: Sequence[int], figures: Mapping[tuple[str, int], RunFigures]) -> Runs:
    """By seed, of the first of these methods, which compute the same, that has one."""
    # Seed by seed: with two names of one computation, one name's runs may be finished where the other's are not.
    found = {seed: [figures[method, seed] for method in methods if (method, seed) in figures] for seed in seeds}
    return {seed: runs[0] for seed, runs in found.items() if runs}


def _unlike_before(runs: Sequence[RunFigures]) -> bool:
    # Compared exactly, without a tolerance: runs that share one measurement have the very same numbers.
    return len({tuple((row.student, row.domain, row.before) for row in run.scores) for run in runs}) > 1


def estimate(values: Mapping[int, float]) -> Estimate:
    """Mean of values by seed, and the interval that Student's t gives it."""
    numbers = list(values.values())
    mean = fmean(numbers)
    # One value has no spread: stdev would raise, and an interval of no width would claim certainty.
    if len(numbers) < 2:
        return Estimate(mean=mean, interval=None, values=dict(values))
    # Student's t and not the normal quantile: with three seeds the normal one would give less than half the width.
    half = _t_quantile(len(numbers) - 1) * stdev(numbers) / sqrt(len(numbers))
    return Estimate(mean=mean, interval=(mean - half, mean + half), values=dict(values))


def _t_quantile(degrees_of_freedom: int) -> float:
    from scipy.stats import t  # slow to import, and only a comparison needs it

    return float(t.ppf((1 + CONFIDENCE) / 2, degrees_of_freedom))


def _method(method: str, methods: Sequence[str], runs: Runs, reference: Runs) -> MethodFigures:
    first = alike(method, methods)[0]
    # The reference has no difference from itself, nor has its other name: a row of zeros would look like a result.
    against = {} if first == methods[0] else reference
    places = [(row.student, row.domain, row.strong) for row in next(iter(runs.values())).scores]
    cells = [_cell(place, runs, against) for place in places]
    return MethodFigures(
        method=method,
        same_as=first if first != method else None,
        runs={seed: run.run for seed, run in runs.items()},
        cells=[*cells, _cell(MEAN, runs, against)],
        mutual_improvements=sum(run.mutual_improvement is True for run in runs.values()),
        training_s=estimate({seed: run.training_s for seed, run in runs.items()}),
        wall_s=estimate({seed: run.wall_s for seed, run in runs.items()}),
    )


def _cell(place: tuple[str, str, bool], runs: Runs, reference: Runs) -> Cell:
    student, domain, strong = place
    after = {seed: _score(run, place, lambda row: row.after) for seed, run in runs.items()}
    of_reference = {seed: _score(run, place, lambda row: row.after) for seed, run in reference.items()}
    # Paired by seed, since runs of one seed share specialists and problems: what they share drops out.
    both = {seed: value - of_reference[seed] for seed, value in after.items() if seed in of_reference}
    difference = estimate(both) if both else None
    return Cell(
        student=student,
        domain=domain,
        strong=strong,
        before=estimate({seed: _score(run, place, lambda row: row.before) for seed, run in runs.items()}),
        after=estimate(after),
        change=estimate({seed: _score(run, place, lambda row: row.after - row.before) for seed, run in runs.items()}),
        difference=difference,
        verdict=_verdict(difference) if difference else None,
    )


def _score(run: RunFigures, place: tuple[str, str, bool], value: Value) -> float:
    student, domain, _ = place
    return fmean(value(row) for row in run.scores if place == MEAN or (row.student, row.domain) == (student, domain))


def _verdict(difference: Estimate) -> Literal["higher", "lower", "open"]:
    # A single seed has no interval, so its verdict stays open. The intervals of the two scores do not count: they hold
    # what a seed's specialists and problems do to every method, which the difference is free of.
    low, high = difference.interval or (-inf, inf)
    if difference.without_spread:
        return "open"
    return "higher" if low > 0 else "lower" if high < 0 else "open"
