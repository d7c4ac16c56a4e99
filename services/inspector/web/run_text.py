"""A run's view as the tables of its page, so that it reads without JavaScript. Pure."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from services.inspector.run.view import DifficultyRow, Improvement, RunResults, RunView, ScorePoint
from services.inspector.web.outcomes import OutcomeRow, directions, outcome_rows


@dataclass(frozen=True)
class ScoreLine:
    """One student in one domain: its first and newest score of a split. beside: the other run's newest."""

    student: str
    domain: str
    strong: bool
    split: str
    first: ScorePoint
    last: ScorePoint
    beside: ScorePoint | None

    @property
    def change(self) -> float | None:
        return self.last.score - self.first.score if self.last is not self.first else None


@dataclass(frozen=True)
class Axis:
    """One domain along a side of 100 units, over the tenths around its scores. ticks: (unit, share)."""

    domain: str
    low: float
    high: float

    def at(self, share: float) -> float:
        return 100 * (share - self.low) / (self.high - self.low)

    @property
    def ticks(self) -> list[tuple[float, float]]:
        return [(self.at(share), share) for share in (self.low, (self.low + self.high) / 2, self.high)]


@dataclass(frozen=True)
class Dot:
    """A version's place in the plane, in units from the top left."""

    x: float
    y: float
    label: str


@dataclass(frozen=True)
class Plane:
    """A student's way through the plane of the two domains. What lies right of and above its first dot is an
    improvement in the sense of Pareto."""

    student: str
    split: str
    x: Axis
    y: Axis
    points: list[Dot]
    improvement: Improvement | None


@dataclass(frozen=True)
class VerdictRow:
    """How often a tutee's feedbacks got a verdict; share: of all of them."""

    student: str
    verdict: str
    count: int
    share: float


@dataclass(frozen=True)
class RunTables:
    """kinds, stages, losses: names of the rows of speeds, seconds and lost feedback. tested: by student, in words.
    outcomes, verdicts_beside, difficulty_beside: empty without another run beside it."""

    tested: dict[str, str]
    outcomes: list[OutcomeRow]
    scores: list[ScoreLine]
    planes: list[Plane]
    verdicts: list[VerdictRow]
    verdicts_beside: list[VerdictRow]
    difficulty: list[DifficultyRow]
    difficulty_beside: list[DifficultyRow]
    kinds: list[str]
    stages: list[str]
    losses: list[str]


def run_tables(view: RunView) -> RunTables:
    return RunTables(
        tested={i.student: directions(i) for i in view.improvements if i.split == "test"},
        outcomes=outcome_rows(view),
        scores=list(_scores(view)),
        planes=list(_planes(view)),
        verdicts=list(_verdicts(view)),
        verdicts_beside=list(_verdicts(view.beside)) if view.beside else [],
        difficulty=_difficulty(view),
        difficulty_beside=_difficulty(view.beside) if view.beside else [],
        kinds=_names(row.tokens_per_s for row in view.figures),
        stages=_names(row.stage_seconds for row in view.figures),
        losses=_names(row.lost_feedback for row in view.figures),
    )


def _scores(view: RunView) -> Iterator[ScoreLine]:
    keys = dict.fromkeys((p.student, p.domain, p.split) for p in view.scores)
    for student, domain, split in sorted(keys, key=lambda key: (key[2] != "test", key)):
        points = [p for p in view.scores if (p.student, p.domain, p.split) == (student, domain, split)]
        strong = view.students.get(student) == domain
        beside = view.beside.scores if view.beside else ()
        other = [p for p in beside if (p.student, p.domain, p.split) == (student, domain, split)]
        yield ScoreLine(student, domain, strong, split, points[0], points[-1], other[-1] if other else None)


def _planes(view: RunView) -> Iterator[Plane]:
    """On the validation problems, which are scored every round."""
    domains = list(dict.fromkeys(view.students.values()))
    if len(domains) != 2:
        return
    for student in view.students:
        by_version: dict[str, dict[str, float]] = {}
        for point in _validation(view, student):
            by_version.setdefault(point.version, {})[point.domain] = point.score
        whole = {version: scores for version, scores in by_version.items() if scores.keys() == set(domains)}
        if whole:
            x, y = (_axis(domain, [scores[domain] for scores in whole.values()]) for domain in domains)
            dots = [_dot(x, y, version, scores) for version, scores in whole.items()]
            found = [i for i in view.improvements if (i.student, i.split) == (student, "validation")]
            yield Plane(student, "validation", x, y, dots, found[0] if found else None)


def _axis(domain: str, shares: list[float]) -> Axis:
    low = max(0.0, math.floor(10 * min(shares) - 0.5) / 10)
    high = min(1.0, math.ceil(10 * max(shares) + 0.5) / 10)
    return Axis(domain, low, high)


def _dot(x: Axis, y: Axis, version: str, scores: dict[str, float]) -> Dot:
    said = ", ".join(f"{domain} {100 * score:.1f} %" for domain, score in scores.items())
    return Dot(x.at(scores[x.domain]), 100 - y.at(scores[y.domain]), f"{version}: {said}")


def _validation(view: RunView, student: str) -> list[ScorePoint]:
    return [p for p in view.scores if (p.student, p.split) == (student, "validation")]


def _difficulty(results: RunResults) -> list[DifficultyRow]:
    return [row for row in results.difficulty if row.right or row.wrong]


def _verdicts(results: RunResults) -> Iterator[VerdictRow]:
    for student in sorted({row.student for row in results.verdicts}):
        own = [row for row in results.verdicts if row.student == student]
        total = sum(row.count for row in own)
        words = sorted({row.verdict for row in own}, key=lambda word: -_count(results, student, word))
        for word in words:
            count = _count(results, student, word)
            yield VerdictRow(student, word, count, count / total)


def _count(results: RunResults, student: str, verdict: str) -> int:
    return sum(row.count for row in results.verdicts if (row.student, row.verdict) == (student, verdict))


def _names(rows: Iterable[Iterable[str]]) -> list[str]:
    """Every name in some row, in the order in which they come."""
    return list(dict.fromkeys(name for row in rows for name in row))
