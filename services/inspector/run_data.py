"""Putting a run's view together from the log of events, the run's state and the bus. Only reads.

The state is that of Redis while it answers, else the file's; without either the log alone has most of it.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import ValidationError

from services.inspector.beside import OtherRuns
from services.inspector.intervals import score_interval
from services.inspector.run_view import (
    DifficultyRow,
    Improvement,
    LetterRow,
    QueueRow,
    RunView,
    ScorePoint,
    StepPoint,
    StudentFigures,
)
from services.inspector.store import Store
from shared.bus.keys import queues_of
from shared.bus.port import DeadLetter
from shared.config.settings import RunSettings
from shared.contracts.events import Evaluated, GateDecided, StepApplied
from shared.contracts.heartbeats import Heartbeat
from shared.contracts.run import STATE_FILE, RunState
from shared.errors import NotFoundError, StorageError, UnavailableError
from shared.method.metrics import pareto_improved

Part = TypeVar("Part")


class RunBus(Protocol):
    """The part of the bus that is looked at."""

    def load_state(self) -> str | None: ...

    def heartbeats(self) -> list[Heartbeat]: ...

    def queue_depth(self, queue: str, group: str) -> tuple[int, int]: ...

    def dead_letters(self, count: int = 100) -> list[DeadLetter]: ...


class RunData:
    """Of the run in `run_dir`; safe to use from many threads."""

    def __init__(self, run: str, run_dir: Path, settings: RunSettings, store: Store, bus: RunBus) -> None:
        self._run = run
        self._run_dir = run_dir
        self._settings = settings
        self._store = store
        self._bus = bus
        self._others = OtherRuns(run_dir)

    def view(self, beside: str | None = None) -> RunView:
        """What is known now, with the scores of another run beside it if one is named.

        Raises StorageError for the inspector's own store only.
        """
        parts = _Parts()
        text = parts.read(self._bus.load_state, None)
        state = parts.read(lambda: self._state(text), None)
        log = self._store.log
        scores = tuple(_scores(state, log.all_of(Evaluated)))
        return RunView(
            run=self._run,
            status=state.status.value if state else None,
            reason=(state.failed or state.paused) if state else None,
            round=min(state.round, self._settings.run.rounds) if state else None,
            rounds=self._settings.run.rounds,
            samples=self._settings.rollout.samples,
            students={name: student.domain for name, student in sorted(self._settings.students.items())},
            versions=state.version if state else {},
            scores=scores,
            others=tuple(self._others.names()),
            beside=beside,
            beside_scores=tuple(parts.read(lambda: self._others.scores(beside), [])) if beside else (),
            improvements=tuple(_improvements(scores)),
            gates=tuple(event.decision for event in log.all_of(GateDecided)),
            verdicts=tuple(log.verdict_counts()),
            steps=tuple(_step(event) for event in log.all_of(StepApplied)),
            difficulty=tuple(_difficulty(state)) if state else (),
            figures=tuple(_figures(state)) if state else (),
            services=tuple(parts.read_bus(self.services, ())),
            queues=tuple(parts.read_bus(self._queues, ())),
            dead_letters=tuple(parts.read_bus(self._letters, ())),
            problem="; ".join(dict.fromkeys(parts.problems)) or None,
        )

    def services(self) -> Sequence[Heartbeat]:
        """Who is up. Raises UnavailableError."""
        return sorted(self._bus.heartbeats(), key=lambda beat: (beat.service, beat.replica))

    def _state(self, text: str | None) -> RunState | None:
        """text: Redis's, None where it has none; then the file's."""
        path = self._run_dir / STATE_FILE
        try:
            if text is None and path.exists():
                text = path.read_text()
            return None if text is None else RunState.model_validate_json(text)
        except (OSError, ValidationError) as error:
            first = str(error).splitlines()[0]
            raise StorageError(f"the run's state cannot be read ({first}); what the log has is shown") from error

    def _queues(self) -> list[QueueRow]:
        rows = []
        for queue, group in queues_of(sorted(self._settings.students)):
            waiting, taken = self._bus.queue_depth(queue, group)
            rows.append(QueueRow(queue=queue, waiting=waiting, taken=taken))
        return rows

    def _letters(self) -> list[LetterRow]:
        return [
            LetterRow(id=letter.entry_id, queue=letter.queue, reason=letter.reason, deliveries=letter.deliveries)
            for letter in self._bus.dead_letters()
        ]


class _Parts:
    """Reads the parts of a view; what cannot be read becomes a problem to be told, and the rest goes on."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._bus_away = False

    def read(self, part: Callable[[], Part], otherwise: Part) -> Part:
        try:
            return part()
        except (UnavailableError, StorageError, NotFoundError) as error:
            self._bus_away = self._bus_away or isinstance(error, UnavailableError)
            self.problems.append(str(error))
            return otherwise

    def read_bus(self, part: Callable[[], Part], otherwise: Part) -> Part:
        """Asks no server that is away twice: each time would take its whole deadline."""
        return otherwise if self._bus_away else self.read(part, otherwise)


def _scores(state: RunState | None, evaluated: Sequence[Evaluated]) -> Iterator[ScorePoint]:
    """From the log, with the intervals that the state knows the samples for."""
    known = {(s.student, s.version, s.split.value, s.round): s for s in (state.scores if state else ())}
    for event in evaluated:
        score = known.get((event.student, event.version, event.split, event.round))
        for domain, mean in sorted(event.scores.items()):
            yield ScorePoint(
                student=event.student,
                version=event.version,
                split=event.split,
                round=event.round,
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


def _step(event: StepApplied) -> StepPoint:
    fields = event.model_dump(exclude={"kind", "source"})
    return StepPoint.model_validate(fields)


def _difficulty(state: RunState) -> Iterator[DifficultyRow]:
    for student, tally in sorted(state.tallies.items()):
        keys = sorted({(count.wrong_rollouts, count.told) for count in tally.revisions})
        for wrong_rollouts, told in keys:
            counts = [c for c in tally.revisions if (c.wrong_rollouts, c.told) == (wrong_rollouts, told)]
            yield DifficultyRow(
                student=student,
                wrong_rollouts=wrong_rollouts,
                told=told,
                broke=sum(count.broke for count in counts),
                right=sum(count.right for count in counts),
                fixed=sum(count.fixed for count in counts),
                wrong=sum(count.wrong for count in counts),
            )


def _figures(state: RunState) -> Iterator[StudentFigures]:
    for student, tally in sorted(state.tallies.items()):
        speeds = {k: tally.output_tokens.get(k, 0) / s for k, s in tally.engine_seconds.items() if s > 0}
        yield StudentFigures(
            student=student,
            tokens_per_s=speeds,
            stage_seconds=tally.stage_seconds,
            lost_feedback=tally.lost_feedback,
        )
