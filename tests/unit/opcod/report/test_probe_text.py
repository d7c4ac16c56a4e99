"""The sentences and tables of a probe."""

from opcod.report.probe_text import grids, notes, to_markdown, verdict_lines
from shared.results.grid import text
from shared.results.probing import KindRow, Probe
from tests.unit.results.test_probing import row


def probe(*rows: KindRow, **changes: object) -> Probe:
    fields: dict[str, object] = {
        "name": "laptop",
        "seed": 0,
        "method": "opcod",
        "tutoring": True,
        "problems_per_kind": 3,
        "samples": 4,
        "rollouts": 6,
        "temperature": 1.0,
        "seconds": 60.0,
        "rows": list(rows),
    }
    return Probe.model_validate(fields | changes)


def pair(**changes: object) -> Probe:
    """b with these changes in one kind, which a knows in 30 %."""
    tutor = row(student="a", plain=0.3, errors=0, told=None, finding="too_few")
    return probe(tutor, row(**changes))


def test_each_reason_is_said_with_the_number_that_decided() -> None:
    for changes, said in (
        ({"finding": "nobody_knows"}, "a cannot teach b ice: nobody knows it. a itself is right in: ice 30 %."),
        (
            {"finding": "tutor_silent", "told": 0.25},
            "a cannot teach b ice: a does not tell it. Told all that it takes, of the errors: ice 25 %.",
        ),
        (
            {"finding": "tutee_deaf", "hinted": 0.4},
            "a cannot teach b ice: b does not follow. Right when told: ice 40 %.",
        ),
        (
            {"finding": "loss_blind", "unseen_where_differing": 0.6},
            "a cannot teach b ice: the loss does not reach it. Of the tokens at which the self-teacher wants another "
            "one, given less than 1 %: ice 60 %; the loss pulls at those by less than 0.05.",
        ),
        ({"finding": "teachable"}, "a can teach b: ice."),
    ):
        assert said in verdict_lines(pair(**changes))


def test_what_a_student_finds_itself_is_said_of_kinds_that_nobody_can_teach_it() -> None:
    said = "Right answers of its own can still teach b: ice; at least half of its groups of 6 rollouts have one."
    assert said in verdict_lines(pair(finding="tutee_deaf", chance=0.5))
    assert said not in verdict_lines(pair(finding="tutee_deaf", chance=0.49))
    assert said not in verdict_lines(pair(finding="teachable", chance=0.9))


def test_a_baseline_is_told_that_nobody_tutors() -> None:
    alone = probe(row(student="a"), row(), method="sdpo", tutoring=False)
    assert "sdpo" in verdict_lines(alone)[0] and "nobody tutors" in verdict_lines(alone)[0]


def test_verdicts_have_a_column_only_where_some_tutor_gives_one() -> None:
    def titles(probed: Probe) -> list[str]:
        return [column.title for grid in grids(probed) for column in grid.columns]

    assert "verdict" not in titles(pair()) and any("no verdicts" in note for note in notes(pair()))
    assert "verdict" in titles(pair(true_verdict=0.5)) and len(notes(pair(true_verdict=0.5))) == 2


def test_what_is_known_has_no_row_among_the_errors_and_what_was_not_measured_is_a_dash() -> None:
    known, open_ = row(kind="kerosene", plain=0.9, finding="known"), row(pull=None)
    *_, errors = grids(probe(row(student="a", errors=0), known, open_))
    [shown] = errors.rows
    cells = [text(cell, column) for cell, column in zip(shown, errors.columns, strict=True)]
    assert (cells[0], cells[1], cells[2], cells[-1]) == ("ice", "10", "100", "–")


def test_the_page_has_everything() -> None:
    page = to_markdown(pair(finding="tutee_deaf", hinted=0.4))
    assert page.startswith("# Probe of laptop\n")
    for part in (*verdict_lines(pair(finding="tutee_deaf", hinted=0.4)), "| kind |", "Seed 0, 3 training problems"):
        assert part in page


def test_problems_of_a_set_without_kinds_are_called_by_their_domain() -> None:
    lines = verdict_lines(probe(row(student="a", kind=""), row(kind="")))
    assert "a can teach b: physics." in lines
