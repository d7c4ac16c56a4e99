"""Where events go: one thin port, and what implements it. Their packages are imported only when they are asked for."""

from importlib import import_module
from typing import Any, Protocol

from opcod.tracking.figures import figures
from opcod.tracking.spans import Span, Steps
from shared.contracts.events import Event
from shared.errors import ConfigError

NANOSECONDS = 1_000_000_000
TRACKERS = ("wandb", "trackio")
OTLP = "otlp"
INSTALL_TRACE = "pip install -c constraints.txt -e '.[trace]'"


class Tracker(Protocol):
    """Takes a run's events in order."""

    def take(self, event: Event) -> None: ...

    def close(self) -> None: ...


def open_tracker(to: str, run: str) -> Tracker:
    """Raises ConfigError for a name that is none, or whose package is not installed."""
    if to in TRACKERS:
        return FigureTracker(_imported(to, f"pip install {to}"), run)
    if to == OTLP:
        exporter = _imported("opentelemetry.exporter.otlp.proto.http.trace_exporter", INSTALL_TRACE)
        return SpanTracker(exporter.OTLPSpanExporter(), run)
    raise ConfigError(f"--to: expected one of {', '.join((OTLP, *TRACKERS))}, got {to!r}")


class FigureTracker:
    """W&B, or anything with its `init` and `log`; trackio has them by design."""

    def __init__(self, library: Any, run: str) -> None:
        self._library = library
        library.init(project="opcod", name=run)

    def take(self, event: Event) -> None:
        found = figures(event)
        if found:
            self._library.log(found)

    def close(self) -> None:
        self._library.finish()


class SpanTracker:
    """OpenTelemetry: a trace a step. exporter: an OpenTelemetry SpanExporter."""

    def __init__(self, exporter: Any, run: str) -> None:
        sdk = _imported("opentelemetry.sdk.trace", INSTALL_TRACE)
        export = _imported("opentelemetry.sdk.trace.export", INSTALL_TRACE)
        resources = _imported("opentelemetry.sdk.resources", INSTALL_TRACE)
        resource = resources.Resource.create({"service.name": "opcod", "opcod.run": run})
        self._provider = sdk.TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(export.BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("opcod")
        self._trace = _imported("opentelemetry.trace", INSTALL_TRACE)
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


def _imported(module: str, install: str) -> Any:
    try:
        return import_module(module)
    except ImportError as missing:
        raise ConfigError(f"this needs a package that is not installed: `{install}`") from missing
