"""What a run's state and the log of its events say of it: scores, gates, verdicts, steps. Only reads."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from services.inspector.run.view import (
    DifficultyRow,
    Improvement,
    RunResults,
    ScorePoint,
    StepPoint,
    StudentFigures,
)
from services.inspector.store.log import RunLog
from shared.contracts.events import Evaluated, GateDecided, StepApplied
from shared.contracts.run import RunState
from shared.method.metrics import pareto_improved
from shared.results.figures import breaks, engine_speeds, fixes, score_interval


def run_results(run: str, round_: int | None, state: RunState | None, log: RunLog | None) -> RunResults:
    """Without a log, scores and gates are those of the state, and there are no verdicts and no steps."""
    scores = tuple(_scores(state, log))
    gates = [event.decision for event in log.all_of(GateDecided)] if log else state.gates if state else []
    return RunResults(
        run=run,
        status=state.status.value if state else None,
        reason=(state.failed or state.paused) if state else None,
        round=round_,
        versions=state.version if state else {},
        scores=scores,
        improvements=tuple(_improvements(scores)),
        gates=tuple(gates),
        verdicts=tuple(log.verdict_counts()) if log else (),
        steps=tuple(_steps(log.all_of(StepApplied))) if log else (),
        difficulty=tuple(_difficulty(state)) if state else (),
        figures=tuple(_figures(state)) if state else (),
    )


def _scores(state: RunState | None, log: RunLog | None) -> Iterator[ScorePoint]:
    """From the log, with the intervals that the state knows the samples for; without a log, all from the state."""
    scores = state.scores if state else []
    known = {(s.student, s.version, s.split.value, s.round): s for s in scores}
    means = {key: {domain: score.mean(domain) for domain in score.correct} for key, score in known.items()}
    told = (
        [((e.student, e.version, e.split, e.round), e.scores) for e in log.all_of(Evaluated)] if log else means.items()
    )
    for key, by_domain in told:
        student, version, split, round_ = key
        score = known.get(key)
        for domain, mean in sorted(by_domain.items()):
            yield ScorePoint(
                student=student,
                version=version,
                split=split,
                round=round_,
                domain=domain,
                score=mean,
                interval=score_interval(score, domain) if score is not None and domain in score.correct else None,
            )


def _improvements(scores: Sequence[ScorePoint]) -> Iterator[Improvement]:
    """One for each student and split that was evaluated at least twice."""

    def where(point: ScorePoint) -> tuple[str, str]:
        return point.split, point.student

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
            broken, fixed = breaks(counts), fixes(counts)
            yield DifficultyRow(
                student=student,
                wrong_rollouts=wrong_rollouts,
                told=told,
                broke=broken.changed,
                right=broken.total,
                fixed=fixed.changed,
                wrong=fixed.total,
            )


def _figures(state: RunState) -> Iterator[StudentFigures]:
    for student, tally in sorted(state.tallies.items()):
        yield StudentFigures(
            student=student,
            tokens_per_s=engine_speeds(tally),
            stage_seconds=tally.stage_seconds,
            lost_feedback=tally.lost_feedback,
        )
