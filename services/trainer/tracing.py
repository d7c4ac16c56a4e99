"""The divergence of some rollouts, token by token, for people: taken beside the loss and never part of it.

What always holds: which rollouts are traced follows from ids alone, so a step that is made again or replayed traces
the same ones; tracing reads hidden states that the step has anyway, without gradients and without random numbers, so
the weights are those of a step that traces nothing, bit for bit; and it holds one chunk over the vocabulary at a time.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from services.trainer.chunked import OutputLayer
from services.trainer.divergence import chunk_rows
from services.trainer.places import Places
from services.trainer.rows import Row
from shared.contracts.batches import BatchGroup, BatchManifest
from shared.contracts.ids import seed_of
from shared.contracts.traces import Alternative, RolloutTrace, StepTrace, TokenTrace
from shared.modeling.pieces import lone_piece, text_pieces

MAX_TOKENS = 512
"""Of one rollout: a token takes about 600 bytes in the file."""

ALTERNATIVES = 5
LOWEST_LOGPROB = -1e4
"""Stands for the logarithm of 0, which JSON cannot say."""

RolloutKey = tuple[int, int]
"""Group and sample, as in a row."""


class Tracer:
    """Collects the traces of one step."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, chosen: Iterable[RolloutKey]) -> None:
        self._tokenizer = tokenizer
        self._chosen = frozenset(chosen)
        self._found: dict[RolloutKey, RolloutTrace] = {}
        self._pieces: dict[int, str] = {}

    def record(
        self,
        rows: Sequence[Row],
        places: Places,
        divergence_P: Tensor,
        weights_RT: Tensor,
        student_hidden: Tensor,
        teacher_hidden: Tensor,
        output: OutputLayer,
    ) -> None:
        """Trace the chosen rows of a micro-batch. Hidden states are those of `places`, weights by row and token."""
        with torch.no_grad():
            for number, row in enumerate(rows):
                if (row.group, row.sample) not in self._chosen:
                    continue
                length = min(len(row.response), MAX_TOKENS)
                pairs = places.pair_index[number, :length]
                of_student, of_teacher = places.pairs[pairs].unbind(1)
                student = self._side(student_hidden, of_student, places.targets[number, :length], output)
                teacher = self._side(teacher_hidden, of_teacher, places.targets[number, :length], output)
                values = zip(
                    text_pieces(self._tokenizer, row.response[:length]),
                    divergence_P[pairs].tolist(),
                    weights_RT[number, :length].tolist(),
                    student,
                    teacher,
                    strict=True,
                )
                self._found[row.group, row.sample] = RolloutTrace(
                    problem_id=row.problem_id,
                    sample=row.sample,
                    all_tokens=len(row.response),
                    tokens=tuple(_token(*value) for value in values),
                )

    def step_trace(self, manifest: BatchManifest, sha256: str, share: float) -> StepTrace:
        """What was traced, in the batch's order."""
        return StepTrace(
            run=manifest.run,
            student=manifest.student,
            step=manifest.step,
            version=manifest.base_version,
            batch_sha256=sha256,
            share=share,
            rollouts=tuple(self._found[key] for key in sorted(self._found)),
        )

    def _side(
        self, hidden: Tensor, at: Tensor, targets: Tensor, output: OutputLayer
    ) -> list[tuple[float, tuple[Alternative, ...]]]:
        """By token: the log-prob of what was sampled, and the likeliest alternatives."""
        found: list[tuple[float, tuple[Alternative, ...]]] = []
        rows = chunk_rows(len(output.weight))
        for part, wanted in zip(torch.split(at, rows), torch.split(targets, rows), strict=True):
            logprobs = torch.log_softmax(output.logits(hidden[part]).float(), dim=1)
            top = logprobs.topk(min(ALTERNATIVES, logprobs.shape[1]), dim=1)
            sampled = logprobs.gather(1, wanted[:, None])[:, 0].clamp(min=LOWEST_LOGPROB)
            for logprob, ids, values in zip(
                sampled.tolist(), top.indices.tolist(), top.values.exp().tolist(), strict=True
            ):
                found.append((logprob, self._alternatives(ids, values)))
        return found

    def _alternatives(self, ids: Sequence[int], probabilities: Sequence[float]) -> tuple[Alternative, ...]:
        return tuple(
            Alternative(text=self._piece(token), probability=_short(value))
            for token, value in zip(ids, probabilities, strict=True)
        )

    def _piece(self, token: int) -> str:
        if token not in self._pieces:
            self._pieces[token] = lone_piece(self._tokenizer, token)
        return self._pieces[token]


def chosen_rollouts(student: str, step: int, groups: Sequence[BatchGroup], share: float) -> list[RolloutKey]:
    """The rollouts of a batch that are traced, about `share` of those with loss; the same whoever asks."""
    return [
        (number, sample.index)
        for number, group in enumerate(groups)
        for sample in group.samples
        if sample.mask and seed_of(student, step, group.problem_id, sample.index, "trace") < share * 2**63
    ]


def _token(
    text: str,
    divergence: float,
    weight: float,
    student: tuple[float, tuple[Alternative, ...]],
    teacher: tuple[float, tuple[Alternative, ...]],
) -> TokenTrace:
    return TokenTrace(
        text=text,
        divergence=_short(divergence),
        weight=_short(weight),
        student_logprob=_short(student[0]),
        teacher_logprob=_short(teacher[0]),
        student_top=student[1],
        teacher_top=teacher[1],
    )


def _short(value: float) -> float:
    """Six digits: enough to read, and a third of the bytes."""
    return float(f"{value:.6g}")
