"""A whole run's events as spans and figures, and what arrives where they are sent."""

import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from opcod.tracking import FigureTracker, Span, SpanTracker, Steps, figures, open_tracker
from shared.contracts.events import Event
from shared.errors import ConfigError
from tests.fakes.broker import RUN, BrokerBench


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    """The events of a run of one round in which both students tutor."""
    bench = BrokerBench(tmp_path_factory.mktemp("run"), overrides=("gate.mode=always", "feedback.revise_share=1"))
    bench.finish()
    bench.settle()
    return [event for _, event in bench.workers.read_events("0", count=10_000, block_s=0)]


def steps_of(log: list[Event]) -> list[Span]:
    steps = Steps()
    return [span for event in log if (span := steps.feed(event)) is not None]


def test_each_step_is_one_span_from_its_problems_to_its_version(log: list[Event]) -> None:
    found = steps_of(log)
    applied = {(event.student, event.version) for event in log if event.kind == "step"}
    assert {(span.attributes["student"], span.attributes["version"]) for span in found} == applied
    assert applied
    for step in found:
        names = [child.name for child in step.children]
        assert names == ["problem"] * names.count("problem") + ["seal", "train", "swap"]
        problems = {child.attributes["problem"] for child in step.children if child.name == "problem"}
        graded = [e for e in log if e.kind == "group" and (e.student, e.step) == of(step)]
        assert problems == {event.problem_id for event in graded}
        tutors = {
            part.attributes["tutor"] for child in step.children for part in child.children if part.name == "feedback"
        }
        assert tutors == {"b" if step.attributes["student"] == "a" else "a"}


def of(step: Span) -> tuple[object, object]:
    return step.attributes["student"], step.attributes["step"]


def test_no_span_ends_before_it_begins_or_leaves_the_one_that_it_is_part_of(log: list[Event]) -> None:
    def check(span: Span) -> None:
        assert span.begin <= span.end, span
        for child in span.children:
            assert span.begin <= child.begin and child.end <= span.end, (span, child)
            check(child)

    for step in steps_of(log):
        check(step)


def test_a_version_that_is_served_twice_ends_its_step_once(log: list[Event]) -> None:
    twice = [event for event in log for _ in range(2 if event.kind == "serving" else 1)]
    assert steps_of(twice) == steps_of(log)


def test_spans_reach_a_collector_as_one_trace_a_step(log: list[Event]) -> None:
    exporter = InMemorySpanExporter()
    tracker = SpanTracker(exporter, RUN)
    for event in log:
        tracker.take(event)
    tracker.close()
    spans = exporter.get_finished_spans()
    roots = [span for span in spans if span.parent is None]
    assert len(roots) == len(steps_of(log)) == len({span.context.trace_id for span in spans})
    assert {span.name for span in spans} == {"step", "problem", "rollout", "feedback", "seal", "train", "swap"}
    assert {span.resource.attributes["opcod.run"] for span in spans} == {RUN}


def test_figures_are_numbers_under_a_students_or_the_gates_name(log: list[Event]) -> None:
    found = [figures(event) for event in log]
    names = {name for each in found for name in each}
    assert {"a/loss", "b/grad_norm", "a/mean_reward", "gate/a/gap", "gate/b/cognizant"} <= names
    assert any(name.startswith("a/test/") for name in names)
    assert all(isinstance(value, float) for each in found for value in each.values())


class Recorder(ModuleType):
    """A tracker's library, as far as it is used."""

    def __init__(self) -> None:
        super().__init__("trackio")
        self.begun: list[dict[str, str]] = []
        self.logged: list[dict[str, float]] = []
        self.finished = 0

    def init(self, **what: str) -> None:
        self.begun.append(what)

    def log(self, found: dict[str, float]) -> None:
        self.logged.append(found)

    def finish(self) -> None:
        self.finished += 1


def test_a_tracker_of_experiments_gets_every_figure_once(log: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    library = Recorder()
    monkeypatch.setitem(sys.modules, "trackio", library)
    tracker = open_tracker("trackio", RUN)
    assert isinstance(tracker, FigureTracker)
    for event in log:
        tracker.take(event)
    tracker.close()
    assert library.begun == [{"project": "opcod", "name": RUN}]
    assert library.logged == [found for event in log if (found := figures(event))]
    assert library.finished == 1


@pytest.mark.parametrize(
    ("to", "reason"),
    [
        ("mlflow", "expected one of otlp, wandb, trackio"),
        ("wandb", "`pip install wandb`"),
        ("otlp", r"`pip install -c constraints.txt -e '.\[trace\]'`"),
    ],
)
def test_what_cannot_be_sent_to_is_refused(to: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("wandb", "opentelemetry.exporter.otlp.proto.http.trace_exporter"):
        monkeypatch.setitem(sys.modules, module, None)  # as where it is not installed
    with pytest.raises(ConfigError, match=reason):
        open_tracker(to, RUN)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """Bodies that were posted to a collector's /v1/traces."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        yield bodies
        server.shutdown()


def test_a_collector_is_found_by_opentelemetrys_own_variables(log: list[Event], collector: list[bytes]) -> None:
    tracker = open_tracker("otlp", RUN)
    for event in log:
        tracker.take(event)
    tracker.close()
    requests = [ExportTraceServiceRequest.FromString(body) for body in collector]
    names = {
        span.name
        for request in requests
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    }
    assert names == {"step", "problem", "rollout", "feedback", "seal", "train", "swap"}
