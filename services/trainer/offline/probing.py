"""Measures how far the loss reaches into a student's answers before any training: no broker, no Redis.

`python -m services.trainer.offline.probing --student a --run-dir R --answers F` reads a `TaughtAnswer` a line from F
and at the end prints a line of JSON for each, a `Reach`, or `null` where prompt and answer are longer than the model's
context. What always holds: rows, forward pass, output layer and divergence are those of a step, at the rollouts'
temperature.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from services.trainer.app import build_model
from services.trainer.config import training_config
from services.trainer.device import set_up
from services.trainer.model.model import StudentModel
from services.trainer.step.distil import OutputLayer
from services.trainer.step.divergence import DivergenceRule, chunk_rows, divergence_with_gradient
from services.trainer.step.step import StepSettings, divergence_rule
from services.trainer.step.trees import Pack, Places, Row, micro_batches, pack_rows, places_of
from shared.config.loading import settings_of
from shared.contracts.probing import UNSEEN, Reach, TaughtAnswer
from shared.modeling.chat import render
from shared.modeling.device import device_here
from shared.modeling.loading import load_tokenizer
from shared.parents import run_service


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Raises ConfigError or ModelError."""
    parser = argparse.ArgumentParser(prog="probing", description="Measure how far the loss reaches into answers.")
    parser.add_argument("--student", required=True)
    for name in ("--run-dir", "--answers"):
        parser.add_argument(name, required=True, type=Path)
    given = parser.parse_args(arguments)
    settings = settings_of(given.run_dir)
    settings.require_student(given.student)
    set_up(settings, device_here())
    config = training_config(settings, given.run_dir.name, given.run_dir, given.student)
    model = build_model(config)
    tokenizer = load_tokenizer(config.base.path, config.section.chat_template)
    with given.answers.open(encoding="utf-8") as lines:
        rows = taught_rows([TaughtAnswer.model_validate_json(line) for line in lines], tokenizer, model.context_tokens)

    def say(line: str) -> None:
        # At once: whoever waits goes by it.
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    for found in reaches(model, rows, config.step, say):
        sys.stdout.write(("null" if found is None else found.model_dump_json()) + "\n")
    return 0


def taught_rows(answers: Sequence[TaughtAnswer], tokenizer: PreTrainedTokenizerBase, context_tokens: int) -> list[Row]:
    """A row each; inactive where there is nothing to read, or where it does not fit."""
    rows = []
    for number, answer in enumerate(answers):
        teacher = tuple(render(tokenizer, answer.teacher_messages))
        longest = max(len(teacher), len(answer.prompt_token_ids)) + len(answer.token_ids)
        rows.append(
            Row(
                group=number,
                prompt=answer.prompt_token_ids,
                teacher_prompt=teacher,
                response=answer.token_ids,
                # No importance weight is asked for, so nobody reads these.
                logprobs=(0.0,) * len(answer.token_ids),
                active=bool(answer.token_ids) and longest <= context_tokens,
            )
        )
    return rows


def reaches(
    model: StudentModel, rows: Sequence[Row], step: StepSettings, say: Callable[[str], None] = lambda _: None
) -> list[Reach | None]:
    """How far the loss reaches into each row, in order; None for inactive ones. say: told how many are measured."""
    limit, largest = step.optimizer.pass_tokens, model.packing.tree_tokens
    packs = pack_rows([row for row in rows if row.active], min(limit, largest))
    found: dict[int, Reach] = {}
    with torch.no_grad():
        for part in micro_batches(packs, limit, largest):
            found |= _reach(model, part, step)
            say(f"{len(found)} of {sum(row.active for row in rows)} answers measured")
    return [found.get(row.group) for row in rows]


def _reach(model: StudentModel, packs: Sequence[Pack], step: StepSettings) -> Iterator[tuple[int, Reach]]:
    places = places_of(packs, model.device)
    # Both from the same weights: self-teachers of either kind begin as the student.
    student = model.hidden([pack.student for pack in packs], places.student)
    teacher = model.hidden([pack.teacher for pack in packs], places.teacher)
    rule = divergence_rule(step.loss, model.vocabulary)
    differing_P, unseen_P, pull_P = _by_pair(student, teacher, model.output_layer(step.temperature), places, rule)
    for at, row in enumerate(row for pack in packs for row in pack.rows):
        pairs = places.pair_index[at, : len(row.response)]
        unseen = unseen_P[pairs]
        yield (
            row.group,
            Reach(
                tokens=len(row.response),
                differing=int(differing_P[pairs].sum()),
                unseen=int(unseen.sum()),
                pull=float(pull_P[pairs][unseen].sum()),
            ),
        )


def _by_pair(
    student: Tensor, teacher: Tensor, output: OutputLayer, places: Places, rule: DivergenceRule
) -> tuple[Tensor, Tensor, Tensor]:
    """Of every pair of places [P]: whether it differs, whether it is unseen, and the pull on the wanted token."""
    rows = chunk_rows(len(output.weight), student.device, rule.chunk_elements)
    parts = [
        _of_chunk(output.logits(student[of_student]), output.logits(teacher[of_teacher]), rule)
        for of_student, of_teacher in (chunk.unbind(1) for chunk in torch.split(places.pairs, rows))
    ]
    differing, unseen, pull = (torch.cat(part) for part in zip(*parts, strict=True))
    return differing, unseen, pull


def _of_chunk(student_NV: Tensor, teacher_NV: Tensor, rule: DivergenceRule) -> tuple[Tensor, Tensor, Tensor]:
    wanted_N1 = teacher_NV.argmax(1, keepdim=True)
    given_N = student_NV.float().softmax(1).gather(1, wanted_N1)[:, 0]
    _, gradient_NV = divergence_with_gradient(student_NV, teacher_NV, rule)
    differing_N = student_NV.argmax(1) != wanted_N1[:, 0]
    return differing_N, differing_N & (given_N < UNSEEN), -gradient_NV.gather(1, wanted_N1)[:, 0]


if __name__ == "__main__":
    run_service(main)
