"""The diagnostics of a report: revisions by tutor, cognizance and difficulty, verdicts by round, steps."""

import pytest

from opcod.local.progress import headline
from opcod.report.text import diagnostic_grids, to_markdown
from opcod.report.warning_text import warning_lines
from shared.contracts.diagnostics import Alarm, Silenced
from shared.contracts.events import AlarmRaised, GateDecided, TutorSilenced
from shared.contracts.run import Tally
from shared.contracts.weights import StepRecord
from shared.results.diagnostics import Diagnostics, RevisionRates, diagnose
from shared.results.grid import text
from shared.results.report import Decline, build_report
from shared.results.subsets import KindScore
from tests.fakes.figures import revision_count, step_metrics
from tests.fakes.final_state import final_state, gate_of_three, settings

SAMPLES = 8
SILENCED = Silenced(
    round=1, step=3, tutor="b", student="a", broke=9, right=10, break_rate=0.9, low=0.61, chance=0.25, bound=0.5
)
ALARM = Alarm(student="b", alarm="reward_collapse", round=2, step=7, reason="mean reward 0.1 over 5 steps")


def record(student: str, step: int, **metrics: object) -> StepRecord:
    return StepRecord(
        student=student,
        round=1,
        step=step,
        version=f"{student}@v{step}",
        tutored=True,
        mean_reward=0.5,
        unique_share=None,
        metrics=step_metrics(**metrics),
    )


def diagnosed() -> Diagnostics:
    """b tutors a in rounds 1 (cognizant) and 2 (no gate said so)."""
    tally = Tally(
        revisions=[
            revision_count(1, 3, wrong=4),
            revision_count(1, 6, wrong=1),
            revision_count(1, 0, wrong=7, round_=2),
            revision_count(0, 4, wrong=4, told=False),
        ]
    )
    steps = [record("a", 2, loss=0.2, clipped_share=0.5), record("a", 1, loss=0.4), record("b", 1)]
    return diagnose(final_state(tallies={"a": tally, "b": Tally()}), SAMPLES, steps)


def row(of: str, *, told: bool = True) -> RevisionRates:
    [found] = [each for each in diagnosed().revisions if (each.of, each.told) == (of, told)]
    return found


@pytest.mark.parametrize(
    ("of", "told", "broke", "right", "groups"),
    [
        ("all", True, 3, 12, 3),
        ("all", False, 0, 4, 1),
        ("cognizant tutor", True, 2, 11, 2),
        ("incognizant tutor", True, 1, 1, 1),
        ("easiest", True, 1, 7, 1),
        ("easy", True, 2, 11, 2),
        ("hard", True, 1, 1, 1),
        ("hardest", True, 1, 1, 1),
        ("easy", False, 0, 4, 1),
    ],
)
def test_break_rates_are_by_tutor_cognizance_and_overlapping_bins(
    of: str, told: bool, broke: int, right: int, groups: int
) -> None:
    found = row(of, told=told)
    assert (found.student, found.tutor, found.groups) == ("a", "b", groups)
    assert (found.breaks.changed, found.breaks.total, found.breaks.rate) == (broke, right, broke / right)
    assert found.breaks.interval is not None
    low, high = found.breaks.interval
    assert low <= broke / right <= high


def test_the_interval_counts_groups_not_revisions() -> None:
    """One group of 7 right rollouts tells as much as one rollout."""
    low, high = row("easiest").breaks.interval or (0, 0)
    assert high - low > 0.7


def test_chance_is_what_answering_again_would_break() -> None:
    assert row("all").chance == pytest.approx((4 * 4 / 7 + 7 * 1 / 7 + 1 * 1.0) / 12)


def test_a_rate_over_nothing_is_none() -> None:
    state = final_state(tallies={"a": Tally(revisions=[revision_count(0, 0, wrong=8)]), "b": Tally()})
    [everything, _] = diagnose(state, SAMPLES, []).revisions
    assert (everything.of, everything.chance) == ("all", None)
    assert (everything.breaks.rate, everything.breaks.interval) == (None, None)
    assert everything.fixes.rate == 0.0


def test_figures_are_means_and_the_last_step_in_order() -> None:
    diagnostics = diagnosed()
    figures = {(figure.student, figure.name): (figure.mean, figure.last) for figure in diagnostics.figures}
    assert figures["a", "loss"] == (pytest.approx(0.3), 0.2)
    assert figures["a", "clipped_share"] == (0.25, 0.5)
    assert figures["b", "effective_sample_share"] == (1.0, 1.0)
    assert [(each.student, each.step) for each in diagnostics.steps] == [("a", 1), ("a", 2), ("b", 1)]


def test_a_step_without_tokens_has_no_figures_but_its_active_share() -> None:
    empty = record("a", 2, tokens=0, loss=0.0, effective_sample_share=0.0, active_share=0.0)
    figures = {f.name: f for f in diagnose(final_state(), SAMPLES, [record("a", 1), empty]).figures}
    assert (figures["effective_sample_share"].steps, figures["effective_sample_share"].last) == (1, 1.0)
    assert (figures["active_share"].steps, figures["active_share"].mean) == (2, 0.5)


def test_only_steps_with_shared_rollouts_have_a_share_of_the_peer_s() -> None:
    records = [record("a", 1, peer_share=0.5), record("a", 2, peer_share=None), record("b", 1)]
    [shared] = [f for f in diagnose(final_state(), SAMPLES, records).figures if f.name == "peer_share"]
    assert (shared.student, shared.steps, shared.mean) == ("a", 1, 0.5)


def test_the_tables_hold_first_and_last_round_and_step_times() -> None:
    state = final_state()
    state.tallies["a"].verdicts[3] = {"match": 1, "empty": 3}
    _, verdicts, times, _ = diagnostic_grids(diagnose(state, 3, []))
    assert [row[:3] for row in verdicts.rows] == [["a", "1", 4], ["a", "3", 4]]
    assert verdicts.rows[1][3] == "empty 75.0 %, match 25.0 %"
    assert list(times.rows) == [["a", "with feedback", 2, 2.5]]


def test_no_cell_breaks_the_markdown_table() -> None:
    for grid in diagnostic_grids(diagnosed()):
        assert grid.rows or grid.title.startswith(("Verdicts", "Step time"))
        assert {len(row) for row in grid.rows} <= {len(grid.columns)}
        texts = [text(cell, column) for row in grid.rows for cell, column in zip(row, grid.columns, strict=True)]
        assert not any("|" in each or "None" in each for each in [*texts, *(c.title for c in grid.columns)])


def test_warnings_stand_in_the_report() -> None:
    state = final_state(silenced=[SILENCED], alarms=[ALARM])
    report = build_report(state, settings(), {}, 100.0, {})
    written = to_markdown(report)
    first, second = warning_lines(report)
    assert f"- {first}\n- {second}\n" in written
    assert "Tutor b was silenced for student a in step 3, for the rest of round 1: its feedback broke 9 of 10" in first
    assert second == "Alarm, student b, round 2, step 7: reward collapse, mean reward 0.1 over 5 steps."


def test_warnings_are_lines_of_who_follows_the_run() -> None:
    silenced = TutorSilenced(at=1.0, source="broker/0", **SILENCED.model_dump())
    alarm = AlarmRaised(at=1.0, source="broker/0", **ALARM.model_dump())
    assert headline(silenced) == (
        "SILENCED tutor b for student a, rest of round 1: its feedback broke 9 of 10 right answers "
        "(surely more than 50 %)"
    )
    gate = GateDecided(at=1.0, source="broker/0", decision=gate_of_three())
    assert headline(gate) == (
        "gate of round 1: gaps a to b 0.300, a to c 0.400, b to a 0.500, b to c 0.600, c to a 0.100, c to b 0.700; "
        "τ 0.2; c to a may tutor"
    )
    assert headline(alarm) == "ALARM student b, step 7: reward collapse: mean reward 0.1 over 5 steps"


def test_who_ends_below_its_best_is_told_with_the_command_that_goes_back() -> None:
    decline = Decline(
        student="a", best="a@v3", best_score=0.9, last="a@v6", last_score=0.6, interval=(-0.4, -0.2), kept=False
    )
    report = build_report(final_state(), settings(), {}, 100.0, {})
    (left,) = warning_lines(report.model_copy(update={"declines": [decline]}))
    assert "a@v3 validates at 90.0 %, the last version a@v6 at 60.0 % (change -40.0 to -20.0)" in left
    assert f"`opcod weights rollback {report.run} --student a --to v3`" in left
    (kept,) = warning_lines(report.model_copy(update={"declines": [decline.model_copy(update={"kept": True})]}))
    assert kept.endswith("a@v3 is what was tested and is handed on (run.keep_best).")


def test_a_kind_that_is_lost_is_told_with_a_command_and_stands_in_a_table_of_what_moved() -> None:
    row = KindScore(
        student="b",
        domain="chemistry",
        kind="free acid",
        problems=9,
        before=1,
        after=0.125,
        change_interval=(-1, -0.7),
    )
    others = [
        row.model_copy(update={"kind": "lye", "after": 1.0, "change_interval": (0.0, 0.0)}),
        row.model_copy(update={"kind": "ether", "before": 0.5, "after": 1.0, "change_interval": (0.2, 0.8)}),
    ]
    report = build_report(final_state(), settings(), {}, 100.0, {}).model_copy(update={"kinds": [row, *others]})
    (line,) = warning_lines(report)
    assert "Student b has lost the kind free acid of chemistry: 100.0 % of its test answers were right before" in line
    assert f"--run {report.run} --filter student=b --filter domain=chemistry --filter correct=false`" in line
    text = to_markdown(report)
    assert f"- {line}" in text
    assert "| b | chemistry | free acid | 9 | 100.0 | 12.5 | -87.5 (-100.0 to -70.0) |" in text
    assert "| b | chemistry | ether | 9 |" in text and "| b | chemistry | lye |" not in text
