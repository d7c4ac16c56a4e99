"""Following a run into somebody else's tool: a trace collector, or a tracker of experiments.

What always holds: it only reads, and a run neither waits for it nor knows of it. The tools' packages are imported only
when they are asked for.
"""

from pathlib import Path
from typing import Protocol

from opcod.talk.exchanges import Exchanges
from opcod.tracking.figures import ChangedAnswers, figures
from opcod.tracking.sinks import SINKS, Sink, open_sink
from opcod.tracking.spans import INSTALL_TRACE, SpanTracker
from opcod.tracking.tables import step_tables
from shared.config.loading import asked_settings
from shared.contracts.events import Event, Revised, StepApplied
from shared.errors import ConfigError
from shared.installed import optional

OTLP = "otlp"
TARGETS = (OTLP, *SINKS)


class Tracker(Protocol):
    """Takes a run's events in order."""

    def take(self, event: Event) -> None: ...

    def close(self) -> None: ...


def open_tracker(to: str, run_dir: Path, exchanges: Exchanges, shown: int) -> Tracker:
    """shown: exchanges of each step in its table. Raises ConfigError for a name that is none, or whose package is not
    installed, and where the run's config.toml cannot be read."""
    if to == OTLP:
        exporter = optional("opentelemetry.exporter.otlp.proto.http.trace_exporter", INSTALL_TRACE)
        settings = asked_settings(run_dir, begins=False)
        sequential = settings.run.schedule == "sequential"
        return SpanTracker(exporter.OTLPSpanExporter(), run_dir.name, sequential=sequential)
    if to in SINKS:
        return RunTracker(open_sink(to, run_dir), exchanges, shown)
    raise ConfigError(f"--to: expected one of {', '.join(TARGETS)}, got {to!r}")


class RunTracker:
    """A run's figures, and for each step a table of some of its exchanges and of their traces."""

    def __init__(self, sink: Sink, exchanges: Exchanges, shown: int) -> None:
        self._sink = sink
        self._exchanges = exchanges
        self._shown = shown
        self._waiting: dict[str, int] = {}
        self._changed = ChangedAnswers()

    def take(self, event: Event) -> None:
        found = figures(event)
        if found is not None:
            self._sink.figures(found.values, found.at)
        if isinstance(event, Revised):
            self._changed.take(event)
        if isinstance(event, StepApplied):
            # One step late: whoever keeps the log may not have read as far as this event yet, and a step is answered
            # again beside the next one.
            before = self._waiting.get(event.student)
            self._waiting[event.student] = event.step
            if before is not None:
                self._send_step(event.student, before)

    def close(self) -> None:
        try:
            for student, step in self._waiting.items():
                self._send_step(student, step)
        finally:
            self._sink.close()

    def _send_step(self, student: str, step: int) -> None:
        for found in self._changed.figures(student, step):
            self._sink.figures(found.values, found.at)
        if self._shown:
            for table in step_tables(self._exchanges, student, step, self._shown):
                self._sink.table(table, step)
