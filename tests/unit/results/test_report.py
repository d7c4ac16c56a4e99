"""The numbers of a report, from a state made by hand."""

import pytest

from shared.contracts.run import RunState, Split, Status
from shared.results.report import Decline, Report, build_report
from tests.fakes.final_state import BEFORE, final_state, score, settings

TIMELINE = {"loading models": 5.0}


def built(state: RunState, wall_s: float = 100.0) -> Report:
    return build_report(state, settings(), TIMELINE, wall_s, {"student-a": 1})


def test_scores_are_means_over_problems_before_and_after() -> None:
    rows = {(row.student, row.domain): row for row in built(final_state()).scores}
    assert set(rows) == {(s, d) for s in "ab" for d in ("physics", "chemistry")}
    row = rows["a", "physics"]
    assert (row.before, row.after, row.change) == (0.5, 0.75, 0.25)
    assert (row.problems, row.samples, row.strong) == (4, 4, True)
    assert not rows["a", "chemistry"].strong
    assert row.change_interval[0] <= row.change <= row.change_interval[1]
    assert row.before_interval[0] <= row.before <= row.before_interval[1]


def test_beside_the_scores_stand_baseline_and_rates() -> None:
    row = built(final_state()).scores[0]
    assert row.majority == 0.25
    rates = row.after_answers
    assert (rates.lenient, rates.format_ok, rates.truncated) == (0.75, 0.5, 0.25)


@pytest.mark.parametrize(
    ("after", "improved"),
    [
        (None, True),
        (BEFORE, False),
        ({"physics": [4, 4, 4, 4], "chemistry": [0, 0, 0, 3]}, False),
        ({"physics": [4, 4, 4, 0], "chemistry": [0, 0, 0, 4]}, True),
    ],
)
def test_improvement_is_paretos(after: dict[str, list[int]] | None, improved: bool) -> None:
    report = built(final_state(after))
    assert [student.pareto_improvement for student in report.students] == [improved, improved]
    assert report.mutual_improvement is improved


def test_one_student_that_improves_is_not_mutual() -> None:
    state = final_state()
    worse = state.scores[-1].model_copy(update={"correct": BEFORE})
    report = built(state.model_copy(update={"scores": [*state.scores[:-1], worse]}))
    assert [student.pareto_improvement for student in report.students] == [True, False]
    assert report.mutual_improvement is False


def test_rates_are_over_what_could_change_and_was_told() -> None:
    a, b = built(final_state()).students
    assert (a.break_rate, a.fix_rate, a.revised) == (0.25, 0.5, 6), "two more revisions saw no feedback"
    assert (a.kept_share, a.active_share) == (0.75, 0.8)
    assert a.engine_tokens_per_s == {"rollout": 25.0}
    assert (b.break_rate, b.fix_rate, b.kept_share, b.active_share) == (None, None, None, None)


def test_stages_are_the_launchers_and_the_runs() -> None:
    report = built(final_state())
    assert {stage.name: stage.seconds for stage in report.stages} == {
        "loading models": 5.0,
        "validation (and the first test)": 10.0,
        "training rounds": 60.0,
        "final validation and test": 20.0,
    }
    assert (report.accounted_share, report.dominant_stage) == (0.95, "training rounds")
    assert [stage.share for stage in report.stages] == [0.05, 0.1, 0.6, 0.2]


def test_a_run_that_did_not_end_has_a_report_too() -> None:
    state = final_state(status=Status.TRAINING, paused="out of memory")
    report = built(state.model_copy(update={"scores": state.scores[:3]}))
    assert (report.finished, report.reason, report.scores) == (False, "out of memory", [])
    assert report.mutual_improvement is None
    assert {student.pareto_improvement for student in report.students} == {None}


def test_it_is_the_same_every_time_and_survives_json() -> None:
    report = built(final_state())
    assert report == built(final_state())
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_a_student_that_ends_below_its_best_validation_is_named_with_what_is_handed_on() -> None:
    good = {"physics": [4] * 8, "chemistry": [4] * 8}
    bad = {"physics": [4] * 8, "chemistry": [0] * 8}
    noisy = {"physics": [4] * 8, "chemistry": [4] * 7 + [3]}
    state = final_state()

    def declines(last: dict[str, list[int]], live: str) -> list[Decline]:
        scores = [score("a", step, correct, Split.VALIDATION) for step, correct in ((0, bad), (1, good), (2, last))]
        changes = {"scores": [*state.scores, *scores], "version": {"a": live, "b": "b@v2"}}
        return built(state.model_copy(update=changes)).declines

    (left,), (kept,) = declines(bad, "a@v2"), declines(bad, "a@v1")
    assert (left.best, left.best_score, left.last, left.last_score) == ("a@v1", 1.0, "a@v2", 0.5)
    assert left.interval[1] < 0
    assert (left.kept, kept.kept) == (False, True)
    # One sample fewer is noise, and a last version that is as good as the best is the best.
    assert declines(noisy, "a@v2") == declines(good, "a@v2") == []


def test_a_domain_of_few_problems_weighs_as_much_as_in_the_score_that_is_told() -> None:
    """Physics, a tenth of the problems, falls by half: a quarter of the mean over domains."""
    good = {"physics": [4] * 8, "chemistry": [4] * 80}
    worse = {"physics": [2] * 8, "chemistry": [4] * 80}
    state = final_state()
    scores = [score("a", step, correct, Split.VALIDATION) for step, correct in ((1, good), (2, worse))]
    (found,) = built(state.model_copy(update={"scores": [*state.scores, *scores]})).declines
    assert (found.best_score, found.last_score) == (1.0, 0.75)
    assert found.interval == pytest.approx((-0.25, -0.25))
