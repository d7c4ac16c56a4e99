"""A run's steps as traces of OpenTelemetry.

A step's spans are complete when the version that it made is served, and only then given out; their times are those of
the events, so nothing has to travel with the messages.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.contracts.events import (
    BatchReady,
    Event,
    FeedbackGiven,
    GroupGraded,
    StatusChanged,
    StepApplied,
    VersionServing,
)
from shared.contracts.ids import parse_version
from shared.installed import optional

NANOSECONDS = 1_000_000_000
INSTALL_TRACE = "pip install -c constraints.txt -e '.[trace]'"


Value = str | int | float


@dataclass(frozen=True)
class Span:
    """begin, end: seconds since the epoch. children: what it is made of."""

    name: str
    begin: float
    end: float
    attributes: Mapping[str, Value]
    children: tuple["Span", ...] = ()


class SpanTracker:
    """OpenTelemetry: a trace a step. exporter: an OpenTelemetry SpanExporter."""

    def __init__(self, exporter: Any, run: str) -> None:
        sdk = optional("opentelemetry.sdk.trace", INSTALL_TRACE)
        export = optional("opentelemetry.sdk.trace.export", INSTALL_TRACE)
        resources = optional("opentelemetry.sdk.resources", INSTALL_TRACE)
        resource = resources.Resource.create({"service.name": "opcod", "opcod.run": run})
        self._provider = sdk.TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(export.BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("opcod")
        self._trace = optional("opentelemetry.trace", INSTALL_TRACE)
        self._steps = Steps()

    def take(self, event: Event) -> None:
        step = self._steps.feed(event)
        if step is not None:
            self._write(step, None)

    def close(self) -> None:
        self._provider.shutdown()

    def _write(self, span: Span, context: Any) -> None:
        attributes = {f"opcod.{name}": value for name, value in span.attributes.items()}
        written = self._tracer.start_span(
            span.name, context=context, start_time=int(span.begin * NANOSECONDS), attributes=attributes
        )
        for child in span.children:
            self._write(child, self._trace.set_span_in_context(written))
        written.end(end_time=int(span.end * NANOSECONDS))


@dataclass
class _Open:
    """A step that is not served yet."""

    begin: float
    graded: dict[str, GroupGraded] = field(default_factory=dict)
    told: dict[str, FeedbackGiven] = field(default_factory=dict)
    sealed: BatchReady | None = None
    applied: StepApplied | None = None


class Steps:
    """Fed the events of one run in order."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, int], _Open] = {}
        self._free_since: dict[str, float] = {}
        self._training_since = 0.0

    def feed(self, event: Event) -> Span | None:
        """The span of the step that this event ends, if it does."""
        match event:
            case StatusChanged(status="TRAINING"):
                self._training_since = event.at
            case GroupGraded():
                self._step(event.student, event.step, event.at).graded[event.problem_id] = event
            case FeedbackGiven():
                self._step(event.student, event.step, event.at).told[event.problem_id] = event
            case BatchReady():
                self._step(event.student, event.step, event.at).sealed = event
            case StepApplied():
                self._step(event.student, event.step, event.at).applied = event
            case VersionServing():
                return self._served(event)
        return None

    def _step(self, student: str, step: int, at: float) -> _Open:
        """It began when its student had nothing else to do: the version before was served, or training began."""
        # A log that was cut may lack both; the step then begins with the first of its events.
        begin = max(self._training_since, self._free_since.get(student, 0.0)) or at
        return self._open.setdefault((student, step), _Open(min(begin, at)))

    def _served(self, event: VersionServing) -> Span | None:
        key = event.student, parse_version(event.version)[1]
        found = self._open.get(key)
        if found is None or found.sealed is None or found.applied is None:
            # With several replicas the first one that serves ends the step.
            return None  # served again, or told before the step was: it is told once more by the broker
        del self._open[key]
        self._free_since[event.student] = event.at
        return _span_of(found, found.sealed, found.applied, event)


def _span_of(found: _Open, sealed: BatchReady, applied: StepApplied, served: VersionServing) -> Span:
    problems = [_problem(found.begin, graded, found.told.get(name)) for name, graded in found.graded.items()]
    # A tutor may answer after the rollouts of other problems: sealing begins when the last of all is there.
    ready = max([problem.end for problem in problems], default=found.begin)
    seconds = {f"seconds.{stage}": value for stage, value in applied.metrics.seconds.items()}
    stages = (
        Span("seal", min(ready, sealed.at), sealed.at, {"samples": sealed.samples, "feedback": sealed.kept_feedback}),
        Span("train", sealed.at, applied.at, {"loss": applied.metrics.loss, **seconds}),
        Span("swap", applied.at, served.at, {"replica": served.replica}),
    )
    attributes: dict[str, Value] = {
        "student": applied.student,
        "round": applied.round,
        "step": applied.step,
        "version": applied.version,
    }
    return Span("step", found.begin, served.at, attributes, (*problems, *stages))


def _problem(begin: float, graded: GroupGraded, told: FeedbackGiven | None) -> Span:
    rewards = graded.rewards
    rollout = Span("rollout", begin, graded.at, {"samples": len(rewards), "mean_reward": sum(rewards) / len(rewards)})
    attributes = {"problem": graded.problem_id, "domain": graded.domain}
    if told is None:
        return Span("problem", begin, graded.at, attributes, (rollout,))
    feedback = Span("feedback", graded.at, told.at, {"tutor": told.tutor, "tutor_version": told.tutor_version})
    return Span("problem", begin, max(graded.at, told.at), attributes, (rollout, feedback))
