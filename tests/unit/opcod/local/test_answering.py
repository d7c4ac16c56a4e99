"""Processes that answer from a file: waited for while they go on, and read whatever libraries say as they end."""

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from opcod.local import answering, processes
from opcod.local.answering import answer
from opcod.local.processes import ProcessSpec
from shared.config.settings import Paths
from shared.contracts.jobs import PromptOutput, Questions
from shared.contracts.messages import Sampling
from shared.errors import OpcodError

Played = Callable[[str], None]

LINE = PromptOutput(prompt_token_ids=(), samples=()).model_dump_json()
ENDS = """
print('{"checksum": "c0ffee"}')
print(20 * '[W] a library ends\\n')
"""


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Played:
    """Puts `code`, which finds the file of its answers in `answers`, in the place of what asks a model."""
    spec = answering._spec

    def play(code: str) -> None:
        (tmp_path / "played.py").write_text(f"import sys, time\nanswers = open(sys.argv[-1], 'w', buffering=1)\n{code}")

        def in_its_place(*given: object) -> ProcessSpec:
            meant = spec(*given)  # type: ignore[arg-type]
            return ProcessSpec("played", "played", meant.log_file, {"PYTHONPATH": str(tmp_path)}, meant.arguments)

        monkeypatch.setattr(answering, "_spec", in_its_place)

    return play


def ask(tmp_path: Path) -> answering.Answers:
    sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=8)
    questions = Questions(student="a", version="a@v0", samples=1, sampling=sampling, questions=())
    paths = Paths(runs_dir=tmp_path, run="r1", cache_dir=tmp_path)
    [answers] = answer(paths, [questions], lambda _: None, lambda: False)
    return answers


def test_what_a_library_says_last_is_not_taken_for_the_result(tmp_path: Path, played: Played) -> None:
    played(f"print('loading'); answers.write({LINE!r} + chr(10))\n{ENDS}")
    assert ask(tmp_path).checksum == "c0ffee"
    played("print('loading')")
    with pytest.raises(OpcodError, match="none does; it ends:\nloading"):
        ask(tmp_path)


def test_who_goes_on_answering_is_waited_for(tmp_path: Path, played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes as it is looked at what was written, and not by how long that takes."""
    seen: list[int] = []
    written = answering._written

    def looks(place: Path) -> int:
        if (found := written(place)) not in seen:
            seen.append(found)
        return found

    clock = SimpleNamespace(monotonic=lambda: 0.6 * processes.SILENT_S * len(seen), sleep=time.sleep)
    monkeypatch.setattr(answering, "_written", looks)
    monkeypatch.setattr(processes, "time", clock)
    played(f"for _ in range(12): answers.write({LINE!r} + chr(10)); time.sleep(0.1)\n{ENDS}")
    assert len(ask(tmp_path).outputs) == 12
