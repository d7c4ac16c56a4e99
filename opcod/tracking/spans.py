"""A run's steps as traces of OpenTelemetry.

A step's spans are complete when the version that it made is served, and only then given out; their times are those of
the events, so nothing has to travel with the messages.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.contracts.events import Event, GroupGraded
from shared.errors import UnavailableError
from shared.installed import optional
from shared.results.timeline import Steps, StepTimes

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
    """OpenTelemetry: a trace a step, sent whole before the next: a queue that fills up, as of a run that is over and
    read faster than it can be sent, would drop spans.

    exporter: an OpenTelemetry SpanExporter. sequential: the run's schedule.
    """

    def __init__(self, exporter: Any, run: str, *, sequential: bool = False) -> None:
        sdk = optional("opentelemetry.sdk.trace", INSTALL_TRACE)
        export = optional("opentelemetry.sdk.trace.export", INSTALL_TRACE)
        memory = optional("opentelemetry.sdk.trace.export.in_memory_span_exporter", INSTALL_TRACE)
        resources = optional("opentelemetry.sdk.resources", INSTALL_TRACE)
        resource = resources.Resource.create({"service.name": "opcod", "opcod.run": run})
        self._provider = sdk.TracerProvider(resource=resource, shutdown_on_exit=False)
        self._ended = memory.InMemorySpanExporter()
        self._provider.add_span_processor(export.SimpleSpanProcessor(self._ended))
        self._exporter = exporter
        self._success = export.SpanExportResult.SUCCESS
        self._tracer = self._provider.get_tracer("opcod")
        self._trace = optional("opentelemetry.trace", INSTALL_TRACE)
        self._steps = Steps(sequential=sequential)

    def take(self, event: Event) -> None:
        """Raises UnavailableError where the collector does not take a step's spans."""
        ended = self._steps.feed(event)
        if ended is None:
            return
        self._write(span_of(ended), None)
        spans = self._ended.get_finished_spans()
        self._ended.clear()
        if self._exporter.export(spans) is not self._success:
            raise UnavailableError(
                f"--to otlp: expected the collector to take the {len(spans)} spans of a step, it did not (its reason "
                "is above). The run goes on as before. See to OTEL_EXPORTER_OTLP_ENDPOINT and the collector, then "
                "`opcod track --to otlp` sends all of it again"
            )

    def close(self) -> None:
        self._provider.shutdown()
        self._exporter.shutdown()

    def _write(self, span: Span, context: Any) -> None:
        attributes = {f"opcod.{name}": value for name, value in span.attributes.items()}
        written = self._tracer.start_span(
            span.name, context=context, start_time=int(span.begin * NANOSECONDS), attributes=attributes
        )
        for child in span.children:
            self._write(child, self._trace.set_span_in_context(written))
        written.end(end_time=int(span.end * NANOSECONDS))


def span_of(step: StepTimes) -> Span:
    """Of a step that has ended."""
    sealed, applied, served = step.sealed, step.applied, step.served
    assert sealed is not None and applied is not None and served is not None
    problems = [_problem(step, graded) for graded in step.graded.values()]
    # A tutor may answer after the rollouts of other problems: sealing begins when the last of all is there.
    ready = max([problem.end for problem in problems], default=step.opened)
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
    return Span("step", step.opened, served.at, attributes, (*problems, *stages))


def _problem(step: StepTimes, graded: GroupGraded) -> Span:
    rewards, begin = graded.rewards, step.opened
    rollout = Span("rollout", begin, graded.at, {"samples": len(rewards), "mean_reward": sum(rewards) / len(rewards)})
    given = [told for (problem, _), told in step.feedback.items() if problem == graded.problem_id]
    feedback = [
        Span("feedback", graded.at, told.at, {"tutor": told.tutor, "tutor_version": told.tutor_version})
        for told in given
    ]
    end = max(graded.at, *(told.at for told in given)) if given else graded.at
    attributes = {"problem": graded.problem_id, "domain": graded.domain}
    return Span("problem", begin, end, attributes, (rollout, *feedback))
