"""A run's report and its page are about the same run: what both say of it is the same number."""

import pytest

from services.inspector.run.view import RunView
from services.inspector.web.run_tables import run_tables
from shared.contracts.run import Split
from shared.results.grid import text
from shared.results.progress import Logged, VerdictCount, run_results
from shared.results.report import Report, build_report
from tests.fakes.final_state import final_state, settings


@pytest.fixture
def report() -> Report:
    return build_report(final_state(), settings(), {}, 100.0, {})


@pytest.fixture
def view() -> RunView:
    """With a run beside it that is like it."""
    state = final_state()
    verdicts = [
        VerdictCount(student="a", step=step, verdict=verdict, count=count)
        for step, counts in state.tallies["a"].verdicts.items()
        for verdict, count in counts.items()
    ]
    results = run_results("by-hand", 1, state, None).model_copy(update={"verdicts": tuple(verdicts)})
    return RunView(
        **dict(results),
        glance=None,
        rounds=1,
        samples=settings().rollout.samples,
        students={name: student.domain for name, student in settings().students.items()},
        domains=("physics", "chemistry"),
        problem=None,
        others=("like it",),
        beside=results,
        services=(),
        queues=(),
        dead_letters=(),
        timeline=None,
        usage=(),
    )


def test_break_and_fix_rate_are_of_what_saw_the_feedback(report: Report, view: RunView) -> None:
    """Of a's revisions four saw the feedback; two more, all of wrong rollouts, did not."""
    a = report.students[0]
    assert (a.break_rate, a.fix_rate) == (1 / 4, 1 / 2)
    assert (view.broken("a").value, view.fixed("a").value) == (a.break_rate, a.fix_rate)
    outcomes = run_tables(view).outcomes
    assert outcomes is not None
    shown = {row[0]: row[1:] for row in outcomes.rows}
    assert shown["Break-rate of a"] == ["25.0 % of 4"] * 2
    assert shown["Fix-rate of a"] == ["50.0 % of 2"] * 2


def test_scores_intervals_and_improvement_agree(report: Report, view: RunView) -> None:
    for row in report.scores:
        points = [
            point
            for point in view.scores
            if (point.student, point.domain, point.split) == (row.student, row.domain, Split.TEST.value)
        ]
        assert [(point.score, point.interval) for point in (points[0], points[-1])] == [
            (row.before, row.before_interval),
            (row.after, row.after_interval),
        ]
    for student in report.students:
        found = view.improvement(student.student, "test")
        assert found is not None
        assert found.pareto == student.pareto_improvement


def test_kept_feedback_speeds_and_seconds_agree(report: Report, view: RunView) -> None:
    a = report.students[0]
    assert view.delivered("a").value == a.kept_share
    assert (view.figures[0].tokens_per_s, view.figures[0].stage_seconds) == (a.engine_tokens_per_s, a.stage_seconds)


def test_a_log_that_was_begun_late_takes_nothing_from_what_the_state_knows(view: RunView) -> None:
    late = run_results("by-hand", 1, final_state(), Logged([], [], [], []))
    assert late.scores and (late.scores, late.gates, late.improvements) == (view.scores, view.gates, view.improvements)
    assert (late.difficulty, late.figures) == (view.difficulty, view.figures)


def test_the_page_writes_its_tables_from_the_same_grid(view: RunView) -> None:
    tables = run_tables(view)
    assert tables.other is not None
    own, other = tables.own.revisions, tables.other.revisions
    texts = [[text(value, column) for value, column in zip(row, own.columns, strict=True)] for row in own.rows]
    assert texts == [["a", "1", "yes", "25 %", "4", "50 %", "2"], ["a", "3", "no", "–", "0", "0 %", "2"]]
    assert [row[1:] for row in own.rows] == [row[1:] for row in other.rows]
