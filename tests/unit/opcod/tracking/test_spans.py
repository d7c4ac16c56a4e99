"""A whole run's events as spans, and what arrives where they are sent."""

import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from opcod.talk.exchanges import StoredExchanges
from opcod.tracking.spans import Span, SpanTracker, span_of
from opcod.tracking.trackers import OTLP, open_tracker
from services.inspector.store.store import Store
from shared.config.loading import load_settings, to_toml
from shared.contracts.events import Event
from shared.errors import UnavailableError
from shared.results.timeline import Steps
from tests.fakes.broker import RUN
from tests.unit.results.test_timeline import STEP, applied, at, graded, sealed, serving

TURN = [at(40, graded("b", 1)), at(41, sealed("b", 1)), at(45, applied("b", 1, 2.0)), at(46, serving("b", 1))]
"""Of another student, after `STEP`."""


def steps_of(log: list[Event]) -> list[Span]:
    steps = Steps()
    return [span_of(ended) for event in log if (ended := steps.feed(event)) is not None]


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


def test_a_student_s_turn_begins_when_the_one_before_is_done() -> None:
    exporter = InMemorySpanExporter()
    tracker = SpanTracker(exporter, RUN, sequential=True)
    for event in (*STEP, *TURN):
        tracker.take(event)
    tracker.close()
    begun = {
        (span.attributes or {})["opcod.student"]: span.start_time
        for span in exporter.get_finished_spans()
        if not span.parent
    }
    assert begun == {"a": 10 * 10**9, "b": 32 * 10**9}


class Away:
    """A collector that takes the spans of one step and is gone then."""

    def __init__(self) -> None:
        self.taken: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self.taken:
            return SpanExportResult.FAILURE
        self.taken += spans
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None: ...


def test_a_step_that_is_not_taken_ends_it_with_its_reason(log: list[Event]) -> None:
    exporter = Away()
    tracker = SpanTracker(exporter, RUN)
    with pytest.raises(UnavailableError, match=r"--to otlp: expected the collector to take the \d+ spans of a step"):
        for event in log:
            tracker.take(event)
    tracker.close()
    assert len([span for span in exporter.taken if span.parent is None]) == 1


def test_nothing_is_dropped_of_a_step_of_many_spans() -> None:
    exporter, many = InMemorySpanExporter(), 3000
    tracker = SpanTracker(exporter, RUN)
    first = STEP[0]
    groups = [at(11, graded("a", 1, problem=f"p{number}")) for number in range(many)]
    for event in (first, *groups, *STEP[1:]):
        tracker.take(event)
    tracker.close()
    assert len([span for span in exporter.get_finished_spans() if span.name == "problem"]) >= many


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


def test_the_schedule_is_that_of_the_run_s_settings(collector: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(to_toml(load_settings(preset="smoke", overrides=["run.schedule=sequential"])))
    store = Store(tmp_path / "log.sqlite3", RUN)
    tracker = open_tracker(OTLP, tmp_path, StoredExchanges(store, tmp_path), 0)
    for event in (*STEP, *TURN):
        tracker.take(event)
    tracker.close()
    store.close()
    requests = [ExportTraceServiceRequest.FromString(body) for body in collector]
    spans = [
        span
        for request in requests
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert sorted(span.start_time_unix_nano // 10**9 for span in spans if not span.parent_span_id) == [10, 32]


def test_a_collector_is_found_by_opentelemetrys_own_variables(log: list[Event], collector: list[bytes]) -> None:
    tracker = SpanTracker(OTLPSpanExporter(), RUN)
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
