"""`opcod specialize` on a file of the user's, with a tiny real model, as a shell would call it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.modeling.tiny_model import write_tiny_model

pytestmark = pytest.mark.usefixtures("forking")


def specialize(cache: Path, model: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    values = (f"model={model}", "chat_template=none")
    settings = [f"students.{student}.{value}" for student in "ab" for value in values]
    command = [sys.executable, "-m", "opcod.main", "specialize", "--preset", "smoke", "--cache-dir", str(cache)]
    command += [part for setting in [*settings, "lora.first_layer=0", "lora.rank=2"] for part in ("--set", setting)]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120, check=False)


def rows(path: Path, answer: str) -> Path:
    row = {"messages": [{"role": "user", "content": "Which lens?"}], "completion": answer}
    path.write_text(json.dumps(row) + "\n")
    return path


def test_one_student_is_tuned_on_the_file_and_cached_by_its_content(tmp_path: Path) -> None:
    model, cache = write_tiny_model(tmp_path / "model"), tmp_path / "cache"
    template = model / "chat_template.jinja"
    template.write_text(f"{template.read_text()}{{% if add_generation_prompt %}}<think>{{% endif %}}")
    file = rows(tmp_path / "examples.jsonl", "The thin one.")
    first = specialize(cache, model, "--student", "a", "--examples", str(file))
    assert first.returncode == 0, first.stderr
    (made,) = (path for path in (cache / "specialists").iterdir() if path.is_dir())
    assert f'a: {{"path":"{made}"' in first.stdout
    assert "b: {" not in first.stdout, "the other student was not asked for"
    assert "note: student a thinks before it answers" in " ".join(first.stdout.split())
    assert "student b thinks" not in first.stdout
    assert (made / "model.safetensors").read_bytes() != (model / "model.safetensors").read_bytes()

    file.rename(tmp_path / "renamed.jsonl")
    again = specialize(cache, model, "--student", "a", "--examples", str(tmp_path / "renamed.jsonl"))
    assert again.returncode == 0, again.stderr
    assert [path for path in (cache / "specialists").iterdir() if path.is_dir()] == [made]

    other = specialize(cache, model, "--student", "a", "--examples", str(rows(file, "The thick one.")))
    assert other.returncode == 0, other.stderr
    assert len([path for path in (cache / "specialists").iterdir() if path.is_dir()]) == 2


def test_a_bad_row_and_a_file_without_a_student_end_with_one_clear_line(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    file = tmp_path / "examples.jsonl"
    file.write_text('{"messages": [], "completion": "x"}\n')
    for arguments, said in (
        (("--student", "a", "--examples", str(file)), f"error: {file}:1: messages: "),
        (("--examples", str(file)), "error: --examples: expected --student, too"),
    ):
        ended = specialize(tmp_path / "cache", model, *arguments)
        assert (ended.returncode, ended.stderr.startswith(said)) == (2, True), ended.stderr
        assert len(ended.stderr.splitlines()) == 1
        assert not (tmp_path / "cache" / "specialists").exists()
