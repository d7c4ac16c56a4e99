"""A student's own answers: drawn once, gone on with after a kill, and never taken for whole when they are not."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from services.student.config import StudentConfig
from services.student.engines.port import EngineAwayError, Generation, GenerationRequest
from services.student.engines.scripted import Script, ScriptedEngine
from services.student.own_answers import BaseStudent, OwnQuestions, describe, ensure, key_of, main
from shared.config.loading import load_settings
from shared.config.settings import RunSettings
from shared.errors import ConfigError, ModelError, StorageError
from shared.problems.formats import format_named
from shared.problems.problem import Problem
from shared.problems.rejection import DrawnAnswers
from tests.fakes.student import config_in
from tests.unit.modeling.tiny_model import write_tiny_model

PROBLEMS = tuple(Problem(f"p{n}", "physics", "", f"What is {n} + 1?", str(n + 1)) for n in range(10))
FORM = format_named("integer")
KEY = "0" * 64
SLOTS = 2
CHUNK = 4
"""Problems of one call: four times the slots, two samples each."""


class Breaking(ScriptedEngine):
    """Is lost in its `dies_at`-th call."""

    def __init__(self, dies_at: int | None = None) -> None:
        super().__init__(Script(problems=PROBLEMS), slots=SLOTS)
        self.calls: list[int] = []
        self._dies_at = dies_at

    def generate(
        self, requests: Sequence[GenerationRequest], cancelled: threading.Event | None = None
    ) -> list[Generation]:
        if len(self.calls) + 1 == self._dies_at:
            raise EngineAwayError("lost")
        self.calls.append(len(requests))
        return super().generate(requests, cancelled)


def settings(*overrides: str) -> RunSettings:
    return load_settings(preset="smoke", overrides=["specialize.sampling.samples=2", *overrides], environ={})


def drawing(*overrides: str) -> OwnQuestions:
    return describe(settings(*overrides), "a", PROBLEMS, FORM)


def never() -> Breaking:
    raise AssertionError("an engine was built")


def undisturbed(tmp_path: Path) -> list[DrawnAnswers]:
    return ensure(drawing(), KEY, tmp_path / "undisturbed", Breaking, _ignore)[0]


def _ignore(_line: str) -> None:
    pass


def test_all_problems_are_answered_in_order_and_progress_is_told(tmp_path: Path) -> None:
    said: list[str] = []
    drawn, cached = ensure(drawing(), KEY, tmp_path, Breaking, said.append)
    assert not cached
    assert [each.problem_id for each in drawn] == [problem.id for problem in PROBLEMS]
    assert {len(each.answers) for each in drawn} == {2}
    assert said == [f"answers drawn to {done} of 10 problems" for done in (4, 8, 10)]


def test_what_is_there_is_taken_without_an_engine(tmp_path: Path) -> None:
    first, _ = ensure(drawing(), KEY, tmp_path, Breaking, _ignore)
    assert ensure(drawing(), KEY, tmp_path, never, _ignore) == (first, True)
    assert {file.name for file in (tmp_path / "samples").iterdir()} == {f"{KEY}.jsonl", f".{KEY}.lock"}


@pytest.mark.parametrize(("dies_at", "left"), [(1, [8, 8, 4]), (2, [8, 4]), (3, [4])])
def test_what_was_drawn_before_it_was_lost_is_not_drawn_again(tmp_path: Path, dies_at: int, left: list[int]) -> None:
    with pytest.raises(EngineAwayError):
        ensure(drawing(), KEY, tmp_path, lambda: Breaking(dies_at), _ignore)
    assert not (tmp_path / "samples" / f"{KEY}.jsonl").exists()
    engine = Breaking()
    drawn, _ = ensure(drawing(), KEY, tmp_path, lambda: engine, _ignore)
    assert engine.calls == left
    assert drawn == undisturbed(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole + b'{"problem_id":"p8","answers":[',
        lambda whole: whole.rstrip(b"\n"),
        lambda whole: b"\0" * len(whole),
        lambda whole: whole.replace(b'"p3"', b'"p4"'),
        lambda whole: whole[:0],
    ],
    ids=["cut", "half a line more", "no newline", "zeros", "of another problem", "empty"],
)
def test_of_what_was_half_written_only_whole_chunks_are_kept(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(EngineAwayError):
        ensure(drawing(), KEY, tmp_path, lambda: Breaking(3), _ignore)
    partial = tmp_path / "samples" / f".{KEY}.partial"
    partial.write_bytes(damage(partial.read_bytes()))
    drawn, _ = ensure(drawing(), KEY, tmp_path, Breaking, _ignore)
    assert drawn == undisturbed(tmp_path)


def test_a_finished_file_that_was_damaged_is_refused(tmp_path: Path) -> None:
    ensure(drawing(), KEY, tmp_path, Breaking, _ignore)
    file = tmp_path / "samples" / f"{KEY}.jsonl"
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(StorageError, match=r"answers to 10 problems .* found 9 whole ones: it was damaged; remove it"):
        ensure(drawing(), KEY, tmp_path, never, _ignore)


def base_student(run_dir: Path, model: Path, *overrides: str, student: str = "a") -> BaseStudent:
    config: StudentConfig = config_in(run_dir, *overrides)
    return BaseStudent(config.environment, config.settings, None, student, model)


@pytest.mark.model
def test_the_key_holds_what_the_answers_depend_on_and_nothing_else(tmp_path: Path) -> None:
    model, other = write_tiny_model(tmp_path / "model"), write_tiny_model(tmp_path / "other", seed=1)
    key = key_of(drawing(), base_student(tmp_path / "run", model))

    def with_settings(*overrides: str) -> str:
        return key_of(drawing(*overrides), base_student(tmp_path / "run", model, *overrides))

    for changed in (
        "run.seed=1",
        "specialize.sampling.samples=3",
        "specialize.sampling.temperature=0.5",
        "specialize.sampling.top_p=0.5",
        "specialize.sampling.max_tokens=9",
        "students.a.dtype=float32",
        "students.a.engine=transformers",
        "students.a.chat_template=none",
    ):
        assert with_settings(changed) != key, changed
    assert key_of(drawing(), base_student(tmp_path / "run", other)) != key
    fewer = describe(settings(), "a", PROBLEMS[:9], FORM)
    assert key_of(fewer, base_student(tmp_path / "run", model)) != key
    for unrelated in ("specialize.sampling.keep=1", "specialize.sampling.min_examples=5", "lora.rank=2"):
        assert with_settings(unrelated) == key, unrelated
    as_b = describe(settings(), "b", PROBLEMS, FORM)
    assert key_of(as_b, base_student(tmp_path / "run", model, student="b")) == key


@pytest.mark.model
def test_a_server_that_is_to_serve_the_specialist_is_not_asked_for_what_makes_it(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    config_in(
        tmp_path / "run",
        "students.a.specialize=true",
        "specialize.source=self",
        "students.a.engine=vllm",
        "students.a.vllm.url=unix:/tmp/none",
        f"students.a.model={model}",
    )
    places = ["--run-dir", str(tmp_path / "run"), "--cache-dir", str(tmp_path / "cache")]
    with pytest.raises(
        ConfigError, match=r"students\.a\.vllm\.url: expected none while .* `opcod specialize --student a"
    ):
        main(["--student", "a", *places, "--examples", str(tmp_path / "a.jsonl")])
    assert not (tmp_path / "a.jsonl").exists()


@pytest.mark.model
def test_answers_that_are_no_texts_are_not_drawn(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    (model / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ 'user:x' if m.role == 'user' else 'A<|im_end|>' + m.content }}{% endfor %}A"
    )
    config_in(
        tmp_path / "run",
        "students.a.specialize=true",
        "specialize.source=self",
        "students.a.engine=transformers",
        "students.a.chat_template=none",
        f"students.a.model={model}",
    )
    places = ["--run-dir", str(tmp_path / "run"), "--cache-dir", str(tmp_path / "cache")]
    with pytest.raises(ModelError, match="keeps answers as texts"):
        main(["--student", "a", *places, "--examples", str(tmp_path / "a.jsonl")])
