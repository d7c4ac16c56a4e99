"""`opcod ask` of a run that is up: stages as they come, or the whole as JSON."""

from pathlib import Path

import pytest

from opcod.local.deployment import Deployment
from shared.contracts.http import AskResponse
from tests.fakes.command import call_opcod


class Ask:
    """Calls `opcod ask` in this process, as a shell would."""

    def __init__(self, runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._places = ["--runs-dir", str(runs_dir)]
        self._monkeypatch = monkeypatch

    def __call__(self, *arguments: str) -> int:
        """The exit code."""
        return call_opcod(self._monkeypatch, "ask", *arguments, *self._places)


@pytest.fixture
def ask(served: Deployment, monkeypatch: pytest.MonkeyPatch) -> Ask:
    return Ask(served.run_dir.parent, monkeypatch)


def test_stages_are_shown_and_are_those_of_the_whole(
    ask: Ask, known_question: str, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = (known_question, "--exchanges", "3", "--seed", "4", "--first", "b")
    assert ask(*wanted, "--json") == 0
    whole = AskResponse.model_validate_json(capsys.readouterr().out)
    assert (whole.answer.student, len(whole.exchanges)) == ("b", 3)
    assert ask(*wanted) == 0
    shown = capsys.readouterr().out
    stages = [whole.answer, *(each for exchange in whole.exchanges for each in (exchange.feedback, exchange.revised))]
    headings = [f"{stage.heading}:" for stage in stages if stage is not None]
    assert [line for line in shown.splitlines() if line in headings] == headings
    assert len(headings) >= 4
    assert whole.final.strip() in shown


def test_an_unknown_student_is_one_clear_line(
    ask: Ask, known_question: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(known_question, "--first", "c") == 2
    assert "--first: expected one of a, b, got 'c'" in capsys.readouterr().err


def test_a_run_that_is_up_is_not_asked_with_other_settings(
    ask: Ask, known_question: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(known_question, "--set", "evaluation.temperature=0.9") == 2
    assert "evaluation.temperature: 0.6 -> 0.9" in capsys.readouterr().err
