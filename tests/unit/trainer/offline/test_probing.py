"""How far the loss reaches into an answer, against the same read off whole logits, token by token."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from services.trainer.model.model import StudentModel
from services.trainer.offline.probing import main, reaches, taught_rows
from services.trainer.step.step import StepSettings
from services.trainer.step.trees import Row, Tree
from shared.config.loading import load_settings, to_toml
from shared.contracts.messages import ChatMessage
from shared.contracts.models import PreparedModel, model_file
from shared.contracts.probing import UNSEEN, Reach, TaughtAnswer
from shared.modeling.chat import encode, render
from shared.modeling.loading import load_tokenizer
from tests.unit.trainer.ground import learner, rows, settings


def lone_rows() -> list[Row]:
    """Each a group of its own, as the answers of a probe are."""
    return [replace(row, group=number) for number, row in enumerate(rows(groups=4))]


def logits(model: StudentModel, prompt: tuple[int, ...], response: tuple[int, ...]) -> torch.Tensor:
    """Of each token of the response [T, V]."""
    tree = Tree()
    path = tree.insert(prompt + response)
    with torch.no_grad():
        return model.logits([tree], [(0, node) for node in path[len(prompt) - 1 : -1]]).float()


def by_hand(model: StudentModel, row: Row, alpha: float) -> Reach:
    """Over the whole vocabulary; the pull by automatic differentiation."""

    def divergence(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        s, q = student.log_softmax(-1), teacher.log_softmax(-1)
        if alpha == 0:
            return (q.exp() * (q - s)).sum()
        m = torch.logaddexp(s, q) - torch.log(torch.tensor(2.0))
        return 0.5 * (q.exp() * (q - m)).sum() + 0.5 * (s.exp() * (s - m)).sum()

    students = logits(model, row.prompt, row.response)
    teachers = logits(model, row.teacher_prompt, row.response)
    differing = unseen = 0
    pull = 0.0
    for student, teacher in zip(students, teachers, strict=True):
        wanted = int(teacher.argmax())
        if int(student.argmax()) == wanted:
            continue
        differing += 1
        if float(student.softmax(-1)[wanted]) < UNSEEN:
            unseen += 1
            moved = student.double().requires_grad_()
            divergence(moved, teacher.double()).backward()
            assert moved.grad is not None
            pull -= float(moved.grad[wanted])
    return Reach(tokens=len(row.response), differing=differing, unseen=unseen, pull=pull)


@pytest.mark.parametrize("alpha", [0.5, 0.0])
def test_it_is_what_the_whole_logits_say(tiny_dir: Path, alpha: float) -> None:
    step = settings(alpha=alpha, top_k="all")
    model = learner(tiny_dir, step).model
    taught = lone_rows()
    found = reaches(model, taught, step)
    assert [reach is not None for reach in found] == [row.active for row in taught]
    for row, reach in zip(taught, found, strict=True):
        if reach is None:
            continue
        wanted = by_hand(model, row, alpha)
        assert (reach.tokens, reach.differing, reach.unseen) == (wanted.tokens, wanted.differing, wanted.unseen)
        assert reach.pull == pytest.approx(wanted.pull, abs=1e-4)
    assert sum(reach.unseen for reach in found if reach) > 0


def test_forward_kl_pulls_at_what_the_other_leaves_alone(tiny_dir: Path) -> None:
    def pull(alpha: float) -> float:
        step: StepSettings = settings(alpha=alpha, top_k="all")
        found = [reach for reach in reaches(learner(tiny_dir, step).model, lone_rows(), step) if reach]
        return sum(reach.pull for reach in found) / sum(reach.unseen for reach in found)

    assert pull(0.0) > 3 * pull(0.5) > 0


def answer(tokenizer: object, question: str, text: str) -> TaughtAnswer:
    asked = (ChatMessage(role="user", content=question),)
    shown = (ChatMessage(role="user", content=f"{question} Feedback: 7"),)
    ids = tuple(encode(tokenizer, text))
    prompt = tuple(render(tokenizer, asked))
    return TaughtAnswer(prompt_token_ids=prompt, token_ids=ids, teacher_messages=shown)


def test_what_does_not_fit_or_is_empty_is_none_and_the_others_keep_their_places(tiny_dir: Path) -> None:
    step = settings(top_k="all")
    model, tokenizer = learner(tiny_dir, step).model, load_tokenizer(tiny_dir, None)
    given = [answer(tokenizer, "3 + 4?", text) for text in ("8", "9" * 400, "", "12")]
    found = reaches(model, taught_rows(given, tokenizer, model.context_tokens), step)
    assert [None if reach is None else reach.tokens for reach in found] == [1, None, None, 2]


def test_the_command_prints_a_line_for_each_answer(
    tiny_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = load_settings(
        preset="smoke",
        overrides=["lora.first_layer=0", "students.a.chat_template=none", f"students.a.model={tiny_dir}"],
        environ={},
    )
    (tmp_path / "config.toml").write_text(to_toml(chosen))
    model_file(tmp_path, "a").parent.mkdir()
    model_file(tmp_path, "a").write_text(PreparedModel(path=tiny_dir, sha256="a" * 64).model_dump_json())
    tokenizer = load_tokenizer(tiny_dir, None)
    lines = [answer(tokenizer, "3 + 4?", text).model_dump_json() for text in ("8", "", "12")]
    (tmp_path / "answers.jsonl").write_text("\n".join(lines) + "\n")
    assert main(["--student", "a", "--run-dir", str(tmp_path), "--answers", str(tmp_path / "answers.jsonl")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 of 2 answers measured", "told while it goes on"
    said = [json.loads(line) for line in lines[-3:]]
    assert [None if each is None else each["tokens"] for each in said] == [1, None, 2]
