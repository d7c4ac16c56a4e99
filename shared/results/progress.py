"""A run as it goes: what its state and the events of its log say of scores, gates, verdicts, revisions and steps. Pure.

The report is made of a run's end; this is what a page shows meanwhile, and what two runs can have side by side. Both
take their rates, intervals and speeds from `figures`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median

from shared.config.settings import RunSection
from shared.contracts.events import Evaluated, GateDecided, StepApplied
from shared.contracts.messages import Contract
from shared.contracts.run import GateDecision, RunState
from shared.contracts.weights import StepMetrics
from shared.method.metrics import pareto_improved
from shared.results.figures import (
    Share,
    TaughtRow,
    broken,
    delivered,
    engine_speeds,
    first_and_last_test,
    fixed,
    score_interval,
    seeing,
    taught_rows,
)


class ScorePoint(Contract):
    """One student in one domain at one evaluation, with its 95 % interval over problems (None while unknown)."""

    student: str
    version: str
    split: str
    round: int
    domain: str
    score: float
    interval: tuple[float, float] | None


class Improvement(Contract):
    """A student's first and last scores of one split by domain, and whether they improved in the sense of Pareto."""

    student: str
    split: str
    first: dict[str, float]
    last: dict[str, float]
    pareto: bool


class VerdictCount(Contract):
    """How many feedbacks of a step got this verdict (its word class)."""

    student: str
    step: int
    verdict: str
    count: int


class StepPoint(Contract):
    """One finished step of a student. at: seconds since the epoch. wall_s: since the student's step before it in this
    round, so that no evaluation is in it; None for the first."""

    at: float
    student: str
    round: int
    step: int
    version: str
    wall_s: float | None
    metrics: StepMetrics


class DifficultyRow(Contract):
    """Revisions of groups with as many wrong rollouts, of n. told: with the tutor's feedback in the prompt."""

    student: str
    wrong_rollouts: int
    told: bool
    broke: int
    right: int
    fixed: int
    wrong: int


class StudentFigures(Contract):
    """Of one student over the run: engine tokens a second by kind of job, wall seconds by stage, lost feedback."""

    student: str
    tokens_per_s: dict[str, float]
    stage_seconds: dict[str, float]
    lost_feedback: dict[str, int]


class RunResults(Contract):
    """What a run's state and log say of it: the part of a view that two runs can have side by side.

    reason: why it is paused or failed. round: the one that it is in, or ended in.
    """

    run: str
    status: str | None
    reason: str | None
    round: int | None
    versions: dict[str, str]
    scores: tuple[ScorePoint, ...]
    improvements: tuple[Improvement, ...]
    gates: tuple[GateDecision, ...]
    taught: tuple[TaughtRow, ...] = ()
    verdicts: tuple[VerdictCount, ...]
    steps: tuple[StepPoint, ...]
    difficulty: tuple[DifficultyRow, ...]
    figures: tuple[StudentFigures, ...]

    def improvement(self, student: str, split: str) -> Improvement | None:
        return next((found for found in self.improvements if (found.student, found.split) == (student, split)), None)

    def delivered(self, student: str) -> Share:
        """Of all feedback on this student's rollouts, what it saw."""
        return delivered((row.verdict, row.count) for row in self.verdicts if row.student == student)

    def broken(self, student: str) -> Share:
        """Of the right rollouts that were revised with feedback, those whose revision is wrong."""
        return broken(seeing(row for row in self.difficulty if row.student == student))

    def fixed(self, student: str) -> Share:
        """Of the wrong rollouts that were revised with feedback, those whose revision is right."""
        return fixed(seeing(row for row in self.difficulty if row.student == student))

    def median_step_s(self, student: str) -> float | None:
        walls = [step.wall_s for step in self.steps if step.student == student and step.wall_s is not None]
        return median(walls) if walls else None


class RunOutline(Contract):
    """A line of a list of runs. problem: why a part of it is None. tests: by student, once it was tested twice."""

    run: str
    status: str | None
    reason: str | None
    round: int | None
    rounds: int | None
    method: str | None
    seed: int | None
    at: float | None
    tests: tuple[Improvement, ...]
    problem: str | None


def run_outline(run: str, state: RunState | None, settings: RunSection | None, problem: str | None) -> RunOutline:
    """Without intervals, which take their time."""
    tested = {name: first_and_last_test(state.scores, name) for name in sorted(state.version)} if state else {}
    means = {
        name: [{d: score.mean(d) for d in score.correct} for score in pair] for name, pair in tested.items() if pair
    }
    return RunOutline(
        run=run,
        status=state.status.value if state else None,
        reason=(state.failed or state.paused) if state else None,
        round=state.round if state else None,
        rounds=settings.rounds if settings else None,
        method=settings.method if settings else None,
        seed=settings.seed if settings else None,
        at=state.at if state else None,
        tests=tuple(
            Improvement(student=name, split="test", first=first, last=last, pareto=pareto_improved(first, last))
            for name, (first, last) in means.items()
        ),
        problem=problem,
    )


@dataclass(frozen=True)
class Logged:
    """What a run's log holds of its results, each in the order of the log."""

    evaluated: Sequence[Evaluated]
    gates: Sequence[GateDecided]
    steps: Sequence[StepApplied]
    verdicts: Sequence[VerdictCount]


def run_results(
    run: str, round_: int | None, state: RunState | None, logged: Logged | None, *, intervals: bool = True
) -> RunResults:
    """Scores and gates are those of the state, which has all of them: a log that was begun late, when Redis had let the
    first events go, would begin at another score. Without a state they are the log's. Without a log there are no
    verdicts and no steps.

    intervals: off where many runs are looked at, since each takes a resampling.
    """
    scores = tuple(_scores(state, logged, intervals))
    gates = state.gates if state else [event.decision for event in logged.gates] if logged else []
    return RunResults(
        run=run,
        status=state.status.value if state else None,
        reason=(state.failed or state.paused) if state else None,
        round=round_,
        versions=state.version if state else {},
        scores=scores,
        improvements=tuple(_improvements(scores)),
        taught=tuple(taught_rows(state.tallies)) if state else (),
        gates=tuple(gates),
        verdicts=tuple(logged.verdicts) if logged else (),
        steps=tuple(_steps(logged.steps)) if logged else (),
        difficulty=tuple(_difficulty(state)) if state else (),
        figures=tuple(_figures(state)) if state else (),
    )


def _scores(state: RunState | None, logged: Logged | None, intervals: bool) -> Iterator[ScorePoint]:
    """Those of the state, with intervals; where there is none those of the log, which has no samples for them."""
    if state is not None:
        for score in state.scores:
            of = {"student": score.student, "version": score.version, "split": score.split.value, "round": score.round}
            for domain in score.correct:
                interval = score_interval(score, domain) if intervals else None
                yield ScorePoint.model_validate(
                    of | {"domain": domain, "score": score.mean(domain), "interval": interval}
                )
    elif logged is not None:
        for event in logged.evaluated:
            of = event.model_dump(include={"student", "version", "split", "round"})
            for domain, mean in event.scores.items():
                yield ScorePoint.model_validate(of | {"domain": domain, "score": mean, "interval": None})


def _improvements(scores: Sequence[ScorePoint]) -> Iterator[Improvement]:
    """One for each student and split that was evaluated at least twice."""

    def where(point: ScorePoint) -> tuple[str, str]:
        return point.split, point.student

    # groupby joins neighbours only. The sort is stable, so that within a split and student the log's order stays.
    for (split, student), points in groupby(sorted(scores, key=where), key=where):
        rows = [{p.domain: p.score for p in of} for _, of in groupby(points, key=lambda p: (p.version, p.round))]
        if len(rows) > 1 and rows[0].keys() == rows[-1].keys():
            pareto = pareto_improved(rows[0], rows[-1])
            yield Improvement(student=student, split=split, first=rows[0], last=rows[-1], pareto=pareto)


def _steps(applied: Sequence[StepApplied]) -> Iterator[StepPoint]:
    before: dict[tuple[str, int], float] = {}
    for event in applied:
        begun = before.get((event.student, event.round))
        before[event.student, event.round] = event.at
        fields = event.model_dump(exclude={"kind", "source"})
        yield StepPoint.model_validate(fields | {"wall_s": None if begun is None else event.at - begun})


def _difficulty(state: RunState) -> Iterator[DifficultyRow]:
    for student, tally in sorted(state.tallies.items()):
        keys = sorted({(count.wrong_rollouts, count.told) for count in tally.revisions})
        for wrong_rollouts, told in keys:
            counts = [c for c in tally.revisions if (c.wrong_rollouts, c.told) == (wrong_rollouts, told)]
            broke, mended = broken(counts), fixed(counts)
            yield DifficultyRow(
                student=student,
                wrong_rollouts=wrong_rollouts,
                told=told,
                broke=broke.part,
                right=broke.whole,
                fixed=mended.part,
                wrong=mended.whole,
            )


def _figures(state: RunState) -> Iterator[StudentFigures]:
    for student, tally in sorted(state.tallies.items()):
        yield StudentFigures(
            student=student,
            tokens_per_s=engine_speeds(tally),
            stage_seconds=tally.stage_seconds,
            lost_feedback=tally.lost_feedback,
        )
