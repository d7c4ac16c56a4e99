"""Showing how a run goes: bars on a terminal, a line now and then when piped.

What cannot be shown, as on a full disk or a terminal that is gone, is lost: what it tells of goes on.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

from opcod.local.names import name_of
from shared.contracts.events import Acted, AlarmRaised, Event, TutorSilenced
from shared.contracts.heartbeats import Heartbeat
from shared.contracts.run import JobStatus, PhaseState, RunState, Status
from shared.errors import printable

LINE_EVERY_S = 10.0
PIPED_WIDTH = 140
WIDE = 100


def make_console(*, stderr: bool = False) -> Console:
    """As wide as the terminal; wide enough for the report's tables when there is none. What is printed, also a table's
    cell, is text and never markup: models, files and directories give names such as `[/x]` and `:x:`."""
    console = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    # Rich takes 80 columns where there is no terminal, and would fold the tables.
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    return console


@contextlib.contextmanager
def _shown_if_possible(console: Console) -> Iterator[None]:
    try:
        yield
    except OSError:
        # The console keeps what it could not write, and would write all of it again with each further line.
        with contextlib.suppress(OSError):
            console.begin_capture()
            console.end_capture()


def tell(console: Console, text: str, *, style: str | None = None) -> None:
    """One line that stays, for whoever follows what goes on; whole, as it may be a path or a command to be copied."""
    with _shown_if_possible(console):
        console.print(printable(text), soft_wrap=True, style=style)


class RunProgress:
    """Fed with the state every second. On a terminal it draws; otherwise it writes a line when something changed."""

    def __init__(self, console: Console, rounds: int, steps_per_round: int, processes: int) -> None:
        self._console = console
        self._total = rounds * steps_per_round
        self._processes = processes
        self._rounds = rounds
        self._live = console.is_terminal
        # Where there is little room, the note is what is cut; what is to be read first stands at its beginning.
        self._bars = Progress(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(bar_width=24 if console.width >= WIDE else 10),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[note]}", markup=False, table_column=Column(no_wrap=True, ratio=1)),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            console=console,
            expand=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._last_line = ""
        self._last_line_s = 0.0

    def __enter__(self) -> Self:
        with _shown_if_possible(self._console):
            if self._live:
                self._bars.start()
            return self
        # Bars that did not begin cannot be ended either.
        self._live = False
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            with _shown_if_possible(self._console):
                self._bars.stop()

    def say(self, text: str) -> None:
        """One line that stays: an event worth reading."""
        tell(self._console, text)

    def events(self, events: Sequence[Event]) -> None:
        for event in events:
            text = headline(event)
            if text is not None:
                self.say(text)

    def update(self, state: RunState, beats: Sequence[Heartbeat]) -> None:
        title = f"{state.status.value.lower()}, round {min(state.round, self._rounds)}/{self._rounds}"
        self._bar("run", title, state.round - 1 if state.status is not Status.DONE else self._rounds, self._rounds, "")
        notes = []
        for student in sorted(state.version):
            note = _note(state, student)
            notes.append(f"{student}: step {state.steps[student]}/{self._total} {note}")
            self._bar(student, f"student {student} {state.version[student]}", state.steps[student], self._total, note)
        if state.evals:
            done = sum(chunk.status is JobStatus.DONE for e in state.evals for chunk in e.chunks)
            total = sum(len(e.chunks) for e in state.evals)
            self._bar("evaluation", "evaluation", done, total, "")
            notes.append(f"evaluation {done}/{total}")
        found = sorted((beat.state == "ready", name_of(beat), beat.state) for beat in beats)
        services = ", ".join(f"{name} {state}" for _, name, state in found)
        self._bar("services", "services", len(beats), max(self._processes, len(beats)), services)
        self._line(f"{title} | {' | '.join(notes)}")

    def _bar(self, name: str, description: str, done: int, total: int, note: str) -> None:
        if not self._live:
            return
        description, note = printable(description), printable(note)
        with _shown_if_possible(self._console):
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(description, total=total, note=note)
            self._bars.update(self._tasks[name], description=description, completed=done, total=total, note=note)

    def _line(self, text: str) -> None:
        now = time.monotonic()
        # A log that somebody reads later: a line when something has changed, and not more often than every ten seconds.
        if self._live or text == self._last_line or now - self._last_line_s < LINE_EVERY_S:
            return
        self._last_line, self._last_line_s = text, now
        self.say(text)


def headline(event: Event) -> str | None:
    """The events that a person following a run wants as a line; None for the many small ones."""
    match event.kind:
        case "status":
            return f"[{event.status}] round {event.round}" + (f": {event.reason}" if event.reason else "")
        case "taken_up":
            return event.line
        case "gate":
            gate = event.decision
            pairs = gate.named_pairs()
            who = [name for name, pair in pairs.items() if pair.cognizant or gate.mode == "always"]
            gaps = ", ".join(f"{name} {pair.gap:.3f}" for name, pair in pairs.items())
            speakers = " and ".join(who) if who and gate.mode != "never" else "nobody"
            return f"gate of round {gate.round}: gaps {gaps}; τ {gate.tau:g}; {speakers} may tutor"
        case "evaluated":
            scores = ", ".join(f"{domain} {100 * score:.1f} %" for domain, score in event.scores.items())
            return f"{event.version} on {event.split}: {scores}"
        case "step":
            loss = event.metrics.loss
            return f"{event.version}: step {event.step} applied, loss {loss:.4f}, |g| {event.metrics.grad_norm:.3f}"
        case "lost":
            return f"lost: {event.job_id} ({event.reason})"
        case "alarm" | "silenced":
            return warning(event)
        case "acted":
            return act_line(event)
    return None


def warning(event: AlarmRaised | TutorSilenced) -> str:
    """What went wrong, on one line."""
    if event.kind == "alarm":
        return f"ALARM student {event.student}, step {event.step}: {event.alarm.replace('_', ' ')}: {event.reason}"
    if event.by is not None:
        return (
            f"SILENCED tutor {event.tutor} for student {event.student}, rest of round {event.round}, by {event.by}: "
            f"{event.reason}"
        )
    return (
        f"SILENCED tutor {event.tutor} for student {event.student}, rest of round {event.round}: its feedback broke "
        f"{event.broke} of {event.right} right answers (surely more than {100 * event.bound:.0f} %)"
    )


def act_line(event: Acted) -> str:
    """What a person did, on one line."""
    act = event.act
    what = f"tutor {act.tutor}" if act.act == "silence" else act.exchange.key
    refused = f" (refused: {event.refused})" if event.refused else ""
    return f"{act.act} {what}, {act.by}: {act.reason}{refused}"


def _note(state: RunState, student: str) -> str:
    phase = next((p for p in state.phases if p.student == student), None)
    if phase is None or phase.finished:
        return "" if phase is None else "phase done"
    return _step_note(phase)


def _step_note(phase: PhaseState) -> str:
    step = phase.step
    if step is None:
        return "swapping"
    if step.sealed:
        return "training"
    rolled = sum(group.rollout.status is JobStatus.DONE for group in step.groups)
    ready = sum(group.ready for group in step.groups)
    return f"rollouts {rolled}/{len(step.groups)}, ready {ready}"
