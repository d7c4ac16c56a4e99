"""Two runs side by side in a few figures each. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from services.inspector.run.view import Improvement, RunResults, RunView
from services.inspector.web.rendering import number, percent
from shared.results.figures import delivered


@dataclass(frozen=True)
class OutcomeRow:
    """One figure of both runs, in words; a dash where it is not known."""

    label: str
    own: str
    other: str


def outcome_rows(view: RunView) -> list[OutcomeRow]:
    """None without another run beside it."""
    if view.beside is None:
        return []
    own, other = (dict(_figures(results, list(view.students))) for results in (view, view.beside))
    return [OutcomeRow(label, value, other[label]) for label, value in own.items()]


def directions(found: Improvement) -> str:
    """In which domains a student is better and in which worse, in words."""
    better = [domain for domain, first in found.first.items() if found.last[domain] > first]
    worse = [domain for domain, first in found.first.items() if found.last[domain] < first]
    return f"better in {' and '.join(better) or 'none'}, worse in {' and '.join(worse) or 'none'}"


def _figures(results: RunResults, students: list[str]) -> Iterator[tuple[str, str]]:
    """The same labels for any run."""
    yield "Outcome", ": ".join(filter(None, (_words(results.status), results.reason))) or "–"
    yield "Rounds", "–" if results.round is None else str(results.round)
    yield "Versions", ", ".join(results.versions[name] for name in sorted(results.versions)) or "–"
    for student in students:
        found = [i for i in results.improvements if (i.student, i.split) == (student, "test")]
        yield f"{student} on the test problems", _improved(found[0]) if found else "–"
    for student in students:
        verdicts = [row for row in results.verdicts if row.student == student]
        kept = delivered((row.verdict, row.count) for row in verdicts)
        yield f"Feedback delivered to {student}", _share(kept, sum(row.count for row in verdicts))
    for student in students:
        yield from rates_of(results, student)
    for student in students:
        walls = [step.wall_s for step in results.steps if step.student == student and step.wall_s is not None]
        yield f"Step of {student}, median", f"{number(median(walls), 1)} s" if walls else "–"


def rates_of(results: RunResults, student: str) -> Iterator[tuple[str, str]]:
    """What feedback did to the student's answers: of the revisions that saw it, as in the report."""
    told = [row for row in results.difficulty if row.student == student and row.told]
    yield f"Break-rate of {student}", _share(sum(row.broke for row in told), sum(row.right for row in told))
    yield f"Fix-rate of {student}", _share(sum(row.fixed for row in told), sum(row.wrong for row in told))


def _words(status: str | None) -> str | None:
    return status.replace("_", " ").capitalize() if status else None


def _improved(found: Improvement) -> str:
    means = [
        f"{domain} {percent(first, 1)} → {percent(found.last[domain], 1)}" for domain, first in found.first.items()
    ]
    return f"{', '.join(means)}: {'improved' if found.pareto else 'not improved'}"


def _share(part: int, whole: int) -> str:
    return f"{percent(part / whole, 1)} of {whole}" if whole else "–"
