"""A bundle holds what the run holds, as text and nothing else; wrong places are named."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from opcod.main import app
from shared.contracts.run import STATE_FILE
from shared.errors import ConfigError
from tests.fakes.bundled import HOSTILE, write_run
from tests.fakes.final_state import final_state


class Page(HTMLParser):
    """Elements and attributes of a page, and the texts of its elements of class `text`."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self._open = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if ("class", "text") in attrs:
            self._open = True
            self.texts.append("")

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._open = self._open and tag != "dd"


def bundled(runs: Path, out: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["bundle", "r1", "--runs-dir", str(runs), "--out", str(out), *words])


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    write_run(tmp_path / "runs" / "r1")
    return tmp_path / "runs"


def test_hostile_texts_stay_texts(runs: Path, tmp_path: Path) -> None:
    done = bundled(runs, tmp_path / "out")
    assert done.exit_code == 0, done.output
    text = (tmp_path / "out" / "index.html").read_text()
    page = Page(text)
    assert set(HOSTILE) <= set(page.texts), "shown whole, as written"
    assert page.tags.count("script") == 1
    assert {"iframe", "object", "embed", "base", "svg"}.isdisjoint(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "style"]
    targets = [value or "" for name, value in page.attributes if name in ("src", "href", "action")]
    assert {re.split(r"[:.]", target)[0] for target in targets if not target.startswith("#")} == {
        "data",
        "report",
        "exchanges",
    }


def test_it_holds_report_exchanges_history_and_heat(runs: Path, tmp_path: Path) -> None:
    bundled(runs, tmp_path / "out")
    text = (tmp_path / "out" / "index.html").read_text()
    for part in ("Student a improved", "data:image/png;base64,", "reads like a paraphrase", 'class="heat-4"', "fixed"):
        assert part in text
    lines = [json.loads(line) for line in (tmp_path / "out" / "exchanges.jsonl").read_bytes().splitlines()]
    assert len(lines) == len(HOSTILE) + 1
    assert json.loads((tmp_path / "out" / "report.json").read_text())["run"] == "r1"


def test_limit_and_filter_choose(runs: Path, tmp_path: Path) -> None:
    done = bundled(runs, tmp_path / "out", "--limit", "2", "--filter", "problem_id=p0")
    assert "1 of 1 exchanges on the page" in done.output
    again = bundled(runs, tmp_path / "out", "--limit", "2")
    assert f"2 of {len(HOSTILE) + 1} exchanges" in again.output
    assert (tmp_path / "out" / "index.html").read_text().count("<article") == 2


def test_wrong_places_are_named_and_nothing_is_written_over(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    for out, said in ((tmp_path / "mine", "no bundle"), (tmp_path / "mine" / "thesis.txt", "is a file")):
        done = bundled(runs, out)
        assert isinstance(done.exception, ConfigError) and said in str(done.exception)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_run_that_no_launcher_wrote_a_report_of_gets_one(runs: Path, tmp_path: Path) -> None:
    run_dir = runs / "r1"
    shutil.rmtree(run_dir / "report")
    begins_not = bundled(runs, tmp_path / "out")
    assert isinstance(begins_not.exception, ConfigError) and "a run that has begun" in str(begins_not.exception)
    (run_dir / STATE_FILE).write_text(final_state(run="r1").model_dump_json())
    done = bundled(runs, tmp_path / "out")
    assert done.exit_code == 0, done.output
    text = (tmp_path / "out" / "index.html").read_text()
    assert "Student a improved" in text and text.count("data:image/png;base64,") == 3
    assert json.loads((tmp_path / "out" / "report.json").read_bytes())["finished"] is True
