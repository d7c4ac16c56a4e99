"""A run at a glance, for the page and as JSON: its results, who serves what, what got stuck. Only reads.

The state is that of Redis while it answers, else the file's; without either the log alone has most of it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import ValidationError

from services.inspector.run.beside import OtherRuns
from services.inspector.store.store import Store
from services.inspector.store.usage import UsagePoint
from shared.bus.keys import queues_of
from shared.bus.port import DeadLetter
from shared.config.settings import RunSettings
from shared.contracts.heartbeats import Heartbeat, trains
from shared.contracts.messages import Contract
from shared.contracts.run import STATE_FILE, RunState, Status
from shared.errors import NotFoundError, StorageError, UnavailableError
from shared.results.comparison import Comparison
from shared.results.glance import Glance, glance
from shared.results.progress import RunOutline, RunResults, run_results
from shared.results.timeline import StepTimeline, timeline

STEPS_DRAWN = 4
"""Of each student: what a page has room for."""

Part = TypeVar("Part")


class QueueRow(Contract):
    """waiting: not taken by anybody yet; taken: in some consumer's hands."""

    queue: str
    waiting: int
    taken: int


class LetterRow(Contract):
    id: str
    queue: str
    reason: str
    deliveries: int


class RunView(RunResults):
    """problem: why a part is missing (no state yet, or Redis away); what is here is still true. glance: None while
    there is no state.

    students: the domain that each is strong in. domains: those, then the others in which there are scores.
    timeline: of the newest steps; None before something of one is done. usage: of each service over the timeline.
    others: runs in the same directory. beside: the one of them that was asked for.
    """

    glance: Glance | None
    rounds: int
    samples: int
    students: dict[str, str]
    domains: tuple[str, ...]
    problem: str | None
    others: tuple[str, ...]
    beside: RunResults | None
    timeline: StepTimeline | None
    usage: tuple[UsagePoint, ...]
    services: tuple[Heartbeat, ...]
    queues: tuple[QueueRow, ...]
    dead_letters: tuple[LetterRow, ...]


class RunsView(Contract):
    """Every run of the directory, the names of its comparisons, and all results of those runs that were asked for.

    own: the run that the inspector is of. problem: why a part of what was asked for is missing.
    """

    own: str
    runs: tuple[RunOutline, ...]
    comparisons: tuple[str, ...]
    chosen: tuple[RunResults, ...]
    problem: str | None


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

    @property
    def domains(self) -> list[str]:
        """Those that students are strong in, in their order, then the others in which they were evaluated."""
        return list(dict.fromkeys((*self._settings.domains, *self._store.log.domains())))

    def trained(self) -> bool:
        """Whether no round is left, so that nobody is taught any more; False while no state is known."""
        state = self._state(_Parts())
        return state is not None and state.status in (Status.FINAL_EVAL, Status.DONE)

    def view(self, beside: str | None = None) -> RunView:
        """What is known now, with another run beside it if one is named.

        Raises StorageError for the inspector's own store only.
        """
        parts = _Parts()
        state = self._state(parts)
        services: Sequence[Heartbeat] = parts.read_bus(self.services, ())
        letters: Sequence[LetterRow] = parts.read_bus(self._letters, ())
        # Beyond those that are drawn: the oldest of them begins where the step before it ended.
        told = self._store.log.since_step(STEPS_DRAWN + 2)
        sequential = self._settings.run.schedule == "sequential"
        drawn = timeline(told, self._settings.names, steps=STEPS_DRAWN, sequential=sequential)
        own = self._own(state)
        return RunView(
            **dict(own),
            glance=self._glanced(state, services, letters),
            rounds=self._settings.run.rounds,
            samples=self._settings.rollout.samples,
            students={name: self._settings.students[name].domain for name in self._settings.names},
            domains=tuple(dict.fromkeys((*self.domains, *(point.domain for point in own.scores)))),
            others=tuple(self._others.names()),
            beside=parts.read(lambda: self._beside(beside, parts), None) if beside else None,
            timeline=drawn,
            usage=tuple(self._usage(drawn)) if drawn else (),
            services=tuple(services),
            queues=tuple(parts.read_bus(self._queues, ())),
            dead_letters=tuple(letters),
            problem="; ".join(dict.fromkeys(parts.problems)) or None,
        )

    def runs(self, names: Sequence[str]) -> RunsView:
        """names: of runs whose results are wanted, too. Raises StorageError as `view`."""
        parts = _Parts()
        # `partial`, as a lambda in this loop would see the last name only. A name that is given twice is read once.
        chosen = [parts.read(partial(self._results, name, parts), None) for name in dict.fromkeys(names)]
        return RunsView(
            own=self._run_dir.name,
            runs=tuple(self._others.outlines()),
            comparisons=tuple(self._others.comparisons()),
            chosen=tuple(results for results in chosen if results is not None),
            problem="; ".join(dict.fromkeys(parts.problems)) or None,
        )

    def comparison(self, name: str) -> Comparison:
        """Raises NotFoundError, StorageError."""
        return self._others.comparison(name)

    def _results(self, name: str, parts: "_Parts") -> RunResults:
        if name == self._run_dir.name:
            return self._own(self._state(parts), intervals=False)
        return self._beside(name, parts, intervals=False)

    def _own(self, state: RunState | None, *, intervals: bool = True) -> RunResults:
        round_ = min(state.round, self._settings.run.rounds) if state else None
        return run_results(self._run, round_, state, self._store.log.results(), intervals=intervals)

    def glance(self) -> Glance | None:
        """The run in a few words, or None while there is no state."""
        parts = _Parts()
        state = self._state(parts)
        return self._glanced(state, parts.read_bus(self.services, ()), parts.read_bus(self._letters, ()))

    def _glanced(
        self, state: RunState | None, services: Sequence[Heartbeat], letters: Sequence[LetterRow]
    ) -> Glance | None:
        if state is None:
            return None
        return glance(state, self._settings.run, training=trains(services), dead_letters=len(letters))

    def _beside(self, name: str, parts: "_Parts", *, intervals: bool = True) -> RunResults:
        results, problem = self._others.results(name, intervals=intervals)
        if problem is not None:
            parts.problems.append(problem)
        return results

    def services(self) -> Sequence[Heartbeat]:
        """Who is up. Raises UnavailableError."""
        return sorted(self._bus.heartbeats(), key=lambda beat: (beat.service, beat.replica))

    def _usage(self, drawn: StepTimeline) -> list[UsagePoint]:
        return self._store.usage.between(drawn.begin, drawn.end, period_s=self._settings.bus.heartbeat_s)

    def _state(self, parts: "_Parts") -> RunState | None:
        text = parts.read(self._bus.load_state, None)
        return parts.read(lambda: self._parsed(text), None)

    def _parsed(self, text: str | None) -> RunState | None:
        """text: Redis's, None where it has none; then the file's."""
        path = self._run_dir / STATE_FILE
        try:
            # Redis is away, or empty: the file is at most one commit behind.
            if text is None and path.exists():
                text = path.read_text(encoding="utf-8")
            return None if text is None else RunState.model_validate_json(text)
        except (OSError, ValidationError) as error:
            first = str(error).splitlines()[0]
            raise StorageError(f"the run's state cannot be read ({first}); what the log has is shown") from error

    def _queues(self) -> list[QueueRow]:
        rows = []
        for queue, group in queues_of(self._settings.names):
            waiting, taken = self._bus.queue_depth(queue, group)
            rows.append(QueueRow(queue=queue, waiting=waiting, taken=taken))
        return rows

    def _letters(self) -> Sequence[LetterRow]:
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
