"""From a message on `results` to an event of the state machine."""

from pathlib import Path

import pytest

from services.broker.exchange.groups import GroupReader
from services.broker.machine.moves import (
    Controlled,
    JobReported,
    MachineEvent,
    StepFinished,
    StepRefused,
    VersionServed,
)
from services.broker.reports import ReportReader
from services.broker.upkeep import Replicas
from shared.contracts.acting import Control
from shared.contracts.envelope import Message
from shared.contracts.events import GroupGraded, Revised
from shared.contracts.jobs import JobDone, JobKind, JobStarted
from shared.contracts.run import Status
from shared.contracts.weights import StepFailed, VersionLoaded, VersionRefused, WeightsPublished
from shared.files.store import LocalStore
from tests.fakes.broker import BrokerBench
from tests.fakes.figures import step_done

AT = 5.0
DONE = step_done("a", 1)
FAILED = StepFailed(student="a", step=2, reason="nan")


def reader_of(bench: BrokerBench) -> ReportReader:
    groups = GroupReader(bench.settings, bench.problems, bench.workers, LocalStore(bench.run_dir))
    replicas = Replicas(bench.settings, bench.workers)
    return ReportReader(bench.settings, bench.plan, bench.problems, groups, replicas)


def failed(job_id: str, error: str | None) -> JobDone:
    return JobDone(
        job_id=job_id, kind=JobKind.EVAL, student="a", replica="0", outcome="failed", error=error, version="a@v0"
    )


@pytest.fixture
def bench(run_dir: Path) -> BrokerBench:
    return BrokerBench(run_dir)


@pytest.mark.parametrize(
    ("message", "event", "told"),
    [
        (JobStarted(job_id="j", student="a", replica="0", attempt=1), JobReported(AT, "j", "started"), []),
        (FAILED, StepRefused(AT, FAILED), []),
        (Control(id="1", action="pause", reason="lunch"), Controlled(AT, "pause", "lunch"), []),
        (DONE, StepFinished(AT, DONE), []),
        (
            VersionLoaded(student="a", replica="0", version="a@v1", checksum="c", seconds=1),
            VersionServed(AT, "a", "a@v1"),
            ["serving"],
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_reports_become_events(bench: BrokerBench, message: Message, event: MachineEvent, told: list[str]) -> None:
    report = reader_of(bench).read(message, bench.state, AT)
    assert report is not None
    assert (report.event, [event.kind for event in report.events]) == (event, told)


def test_a_version_that_is_refused_twice_pauses_the_run(bench: BrokerBench) -> None:
    """What cannot be read for a moment on a network's disk is loaded at the next try, and nobody is called for it."""
    reader, refused = reader_of(bench), VersionRefused(student="a", replica="0", version="a@v1", reason="torn")
    assert reader.read(refused, bench.state, AT) is None
    report = reader.read(refused, bench.state, AT)
    assert report is not None
    assert report.event == Controlled(AT, "pause", "student-a refused a@v1: torn") and not report.events


@pytest.mark.parametrize(("error", "reason"), [("out of memory", "out of memory"), (None, "no reason given")])
def test_a_failed_job_says_why(bench: BrokerBench, error: str | None, reason: str) -> None:
    report = reader_of(bench).read(failed("r1.a.validation.c0", error), bench.state, AT)
    assert report is not None
    assert report.event == JobReported(AT, "r1.a.validation.c0", "failed", kind=JobKind.EVAL, reason=reason)
    assert [event.kind for event in report.events] == ["lost"]


def test_a_report_of_nothing_that_is_open_is_stale(bench: BrokerBench) -> None:
    assert reader_of(bench).read(failed("r7.a.validation.c0", "late"), bench.state, AT) is None


def test_a_message_that_does_not_belong_on_results_is_only_acknowledged(bench: BrokerBench) -> None:
    published = WeightsPublished(student="a", version="a@v1", step=1, uri="weights/a/v000001", manifest_sha256="0")
    assert reader_of(bench).read(published, bench.state, AT) is None


def test_an_evaluation_is_graded_problem_by_problem(bench: BrokerBench) -> None:
    bench.students["a"].work()
    done = next(done for done in bench.students["a"].done if done.job_id == "r1.a.validation.c0")
    report = reader_of(bench).read(done, bench.state, AT)
    assert report is not None and isinstance(report.event, JobReported)
    chunk = bench.plan.chunk(bench.state.evals[0].split, 0)
    assert set(report.event.correct) == {problem.id for problem in chunk}
    assert set(report.event.correct.values()) <= {0, 1}
    counts = report.event.answers[chunk[0].domain]
    assert (counts.truncated, counts.format_ok) == (0, len(chunk) * bench.state.evals[0].samples)
    assert counts.lenient == sum(report.event.correct.values())


def test_revisions_are_counted_against_the_rollouts_they_revise(bench: BrokerBench) -> None:
    """Also when their step is sealed and closed before they come."""
    bench.students["a"].held = {JobKind.REVISE}
    bench.run(lambda state: state.steps["a"] == 2 and all(phase.steps_done == 2 for phase in state.phases))
    assert bench.state.status is Status.TRAINING, "the phase waits for its revisions"
    bench.students["a"].held = set()
    bench.finish()
    told = [event for event in bench.events("revised") if event.kind == "revised" and event.student == "a"]
    before = {(e.problem_id, e.step, n): r for e in _graded(bench) for n, r in enumerate(e.rewards)}
    assert len(told) == 12
    assert all(event.before == (before[event.problem_id, event.step, event.sample] == 1.0) for event in told)
    rows = bench.state.tallies["a"].revisions
    assert sum(row.fixed for row in rows) == sum(event.change == "fixed" for event in told)
    assert sum(row.broke for row in rows) == sum(event.change == "broke" for event in told)
    assert sum(row.right + row.wrong for row in rows) == 12
    for row in rows:
        assert (row.round, row.tutor, row.told) == (1, "b", True), "all feedback of this bench is delivered"
        of = {e.problem_id for e in told if sum(r < 1 for r in _rewards(bench, e)) == row.wrong_rollouts}
        assert row.groups == len(of)
        assert row.wrong == row.groups * row.wrong_rollouts
        assert row.right_squares == row.groups * (3 - row.wrong_rollouts) ** 2


def _rewards(bench: BrokerBench, event: Revised) -> tuple[float, ...]:
    return next(e.rewards for e in _graded(bench) if (e.problem_id, e.step) == (event.problem_id, event.step))


def _graded(bench: BrokerBench) -> list[GroupGraded]:
    return [event for event in bench.events("group") if event.kind == "group" and event.student == "a"]
