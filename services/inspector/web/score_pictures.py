"""A student's validation scores as a picture: its way through the plane of two domains, or its profile over more. Pure.

Validation problems are scored every round. What always holds: in either picture a version that is nowhere below the
first, and above it somewhere, is an improvement in the sense of Pareto in the domains that are drawn.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from services.inspector.run.view import RunView
from shared.results.progress import Improvement

SPLIT = "validation"
SIDE = 100.0
"""Of a picture, in its own units."""


@dataclass(frozen=True)
class Axis:
    """Scores along a side, over the tenths around them. ticks: (unit, share)."""

    domain: str
    low: float
    high: float

    def at(self, share: float) -> float:
        return SIDE * (share - self.low) / (self.high - self.low)

    @property
    def ticks(self) -> list[tuple[float, float]]:
        return [(self.at(share), share) for share in (self.low, (self.low + self.high) / 2, self.high)]


@dataclass(frozen=True)
class Dot:
    """A version's place, in units from the top left."""

    x: float
    y: float
    label: str


@dataclass(frozen=True)
class Plane:
    """A student's way through the plane of the two domains that students are strong in. What lies right of and above
    its first dot is an improvement in the sense of Pareto, where there is no third domain."""

    student: str
    split: str
    x: Axis
    y: Axis
    points: list[Dot]
    improvement: Improvement | None


@dataclass(frozen=True)
class Outline:
    """A version's scores from domain to domain."""

    version: str
    dots: list[Dot]


@dataclass(frozen=True)
class Profile:
    """A student's scores in every domain, a line for each version, the first one first. columns: (unit, domain)."""

    student: str
    split: str
    axis: Axis
    columns: list[tuple[float, str]]
    ways: list[Outline]
    improvement: Improvement | None

    @property
    def above(self) -> list[Dot]:
        """The corners of all that lies nowhere below the first version."""
        first = self.ways[0].dots
        return [Dot(first[0].x, 0.0, ""), *first, Dot(first[-1].x, 0.0, "")]


def planes(view: RunView) -> Iterator[Plane]:
    domains = _strong(view)
    if len(domains) != 2:
        return
    for student in view.students:
        if whole := _scored(view, student, domains):
            x, y = (_axis(domain, [scores[domain] for scores in whole.values()]) for domain in domains)
            dots = [_dot(x, y, version, scores) for version, scores in whole.items()]
            yield Plane(student, SPLIT, x, y, dots, view.improvement(student, SPLIT))


def profiles(view: RunView) -> Iterator[Profile]:
    """Where there is no plane, but more than one domain."""
    domains = list(view.domains)
    if len(_strong(view)) == 2 or len(domains) < 2:
        return
    columns = [(SIDE * (at + 0.5) / len(domains), domain) for at, domain in enumerate(domains)]
    for student in view.students:
        if whole := _scored(view, student, domains):
            axis = _axis("", [score for scores in whole.values() for score in scores.values()])
            ways = [
                Outline(
                    version, [Dot(x, SIDE - axis.at(scores[domain]), _said(version, scores)) for x, domain in columns]
                )
                for version, scores in whole.items()
            ]
            yield Profile(student, SPLIT, axis, columns, ways, view.improvement(student, SPLIT))


def _strong(view: RunView) -> list[str]:
    """The domains that students are strong in."""
    return list(dict.fromkeys(view.students.values()))


def _scored(view: RunView, student: str, domains: Sequence[str]) -> dict[str, dict[str, float]]:
    """By version, its validation scores. One whose evaluation is not told to its end has too few of them."""
    by_version: dict[str, dict[str, float]] = {}
    for point in view.scores:
        if (point.student, point.split) == (student, SPLIT):
            by_version.setdefault(point.version, {})[point.domain] = point.score
    return {version: scores for version, scores in by_version.items() if scores.keys() >= set(domains)}


def _axis(domain: str, shares: list[float]) -> Axis:
    # Half a tenth of room on either side, so that no dot lies on the edge and equal scores still span an axis.
    low = max(0.0, math.floor(10 * min(shares) - 0.5) / 10)
    high = min(1.0, math.ceil(10 * max(shares) + 0.5) / 10)
    return Axis(domain, low, high)


def _dot(x: Axis, y: Axis, version: str, scores: dict[str, float]) -> Dot:
    # SVG counts downwards, scores grow upwards.
    return Dot(x.at(scores[x.domain]), SIDE - y.at(scores[y.domain]), _said(version, scores))


def _said(version: str, scores: dict[str, float]) -> str:
    return f"{version}: " + ", ".join(f"{domain} {100 * score:.1f} %" for domain, score in scores.items())
