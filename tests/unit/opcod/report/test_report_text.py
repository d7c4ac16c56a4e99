"""The report in words and tables."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from opcod.report.text import grids, print_report, to_markdown, verdict_lines
from shared.contracts.run import RunState, Status
from shared.results.report import Report, build_report
from tests.fakes.broker import THREE, BrokerBench
from tests.fakes.final_state import BEFORE, final_state, settings


def built(state: RunState) -> Report:
    return build_report(state, settings(), {}, 100.0, {})


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (None, ["Student a improved: better in physics, chemistry, worse in none.", "Mutual Pareto improvement: yes."]),
        (BEFORE, ["Student b did not improve: no domain changed.", "Mutual Pareto improvement: no."]),
        (
            {"physics": [4, 4, 4, 4], "chemistry": [0, 0, 0, 0]},
            [
                "Student a did not improve in the Pareto sense: worse in chemistry.",
                "Mutual Pareto improvement: no.",
            ],
        ),
    ],
)
def test_what_came_out_is_said_plainly(after: dict[str, list[int]] | None, said: list[str]) -> None:
    assert set(said) <= set(verdict_lines(built(final_state(after))))


def test_what_may_be_noise_is_called_so() -> None:
    last = verdict_lines(built(final_state()))[-1]
    assert last.startswith("Within the noise of this test") and "a/physics" in last


def test_an_unfinished_run_says_so_with_its_reason() -> None:
    lines = verdict_lines(built(final_state(status=Status.TRAINING, paused="out of memory")))
    assert lines == ["The run is not finished (TRAINING: out of memory)."]


def test_no_tests_no_claim() -> None:
    assert verdict_lines(built(final_state(scores=[]))) == [
        "The run has no test scores; nothing can be said about improvement."
    ]


def test_a_lenient_reading_is_shown_and_not_called_the_score() -> None:
    text = to_markdown(built(final_state()))
    assert "right for a lenient reader (not the score)" in text
    assert "| a | physics | 75.0 → 75.0 | 50.0 → 50.0 | 25.0 → 25.0 |" in text


def test_the_best_constant_answer_stands_beside_every_score() -> None:
    rows = grids(built(final_state()))[0].rows
    assert [row[2] for row in rows] == [0.25] * 4


def test_the_gates_own_noise_is_shown() -> None:
    assert "0.250 (0.00 to 0.50)" in to_markdown(built(final_state()))


@pytest.mark.parametrize("empty", [False, True])
def test_every_table_is_well_formed(empty: bool) -> None:
    state = final_state(scores=[], gates=[], status_seconds={}) if empty else final_state()
    report = built(state)
    for grid in grids(report):
        assert {len(row) for row in grid.rows} <= {len(grid.columns)}, grid.title
    text = to_markdown(report)
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) >= 2
    for table in tables:
        assert len({line.count("|") for line in table}) == 1
        assert set(table[1]) == set("| -")
    assert "None" not in text


def test_the_gate_and_the_feedback_are_in_the_tables() -> None:
    text = to_markdown(built(final_state()))
    assert "| 1 | a | physics 50.0, chemistry 25.0 | 0.250 (0.00 to 0.50) | 0.2 | no |" in text
    assert "| 1 | b | physics 25.0, chemistry 50.0 | 0.125 (0.10 to 0.20) | 0.2 | yes |" in text
    assert "| a | 10 | 80.0 % | 75.0 % | match 75.0 %, no_match 25.0 % | tutor_timeout 1 | 25.0 % | 50.0 % |" in text
    assert "| b | 0 | – | – | none given | none | – | – |" in text


def test_the_terminal_shows_the_same_words() -> None:
    report = built(final_state())
    output = io.StringIO()
    print_report(report, Console(file=output, width=200))
    assert all(line in output.getvalue() for line in verdict_lines(report))
    assert "Seconds by stage" in output.getvalue()


def test_of_three_students_every_pair_is_told_and_who_taught_whom_what(tmp_path: Path) -> None:
    bench = BrokerBench(tmp_path, THREE)
    report = build_report(bench.finish(), bench.settings, {}, 100.0, {})
    found = {grid.title: grid for grid in grids(report)}
    assert [(row[1], row[2]) for row in found["Gate"].rows] == [
        (tutor, tutee) for tutor in "abc" for tutee in "abc" if tutor != tutee
    ]
    taught = found["Who taught whom"].rows
    assert {row[1] for row in taught} == set("abc") and all(row[0] != row[1] for row in taught)
    assert sum(row.feedbacks for row in report.taught) == sum(student.samples for student in report.students)
    assert report.mutual_improvement == all(student.pareto_improvement for student in report.students)
    assert report.unclaimed == []


def test_a_domain_that_nobody_is_strong_in_is_named() -> None:
    report = built(final_state()).model_copy(update={"unclaimed": ["optics", "DNA"]})
    assert "No student is strong in optics, DNA." in verdict_lines(report)
