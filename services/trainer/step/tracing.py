"""The divergence of some rollouts, token by token, for people: taken beside the loss and never part of it.

What always holds: which rollouts are traced follows from ids alone, so a step that is made again or replayed traces
the same ones; tracing reads hidden states that the step has anyway, without gradients and without random numbers, so
the weights are those of a step that traces nothing, bit for bit; and it holds one chunk over the vocabulary at a time.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from pydantic import TypeAdapter
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from services.trainer.step.distil import OutputLayer
from services.trainer.step.divergence import chunk_rows
from services.trainer.step.trees import Places, Row
from shared.contracts.batches import BatchGroup, BatchManifest
from shared.contracts.ids import seed_of
from shared.contracts.traces import Alternative, RolloutTrace, StepTrace, TokenTrace
from shared.modeling.chat import lone_piece, text_pieces

MAX_TOKENS = 512
"""Of one rollout: a token takes about 600 bytes in the file."""

ALTERNATIVES = 5
LOWEST_LOGPROB = -1e4
"""Stands for the logarithm of 0, which JSON cannot say."""

RolloutKey = tuple[int, int]
"""Group and sample, as in a row."""

_TRACED = TypeAdapter(list[tuple[int, int, RolloutTrace]])

Hidden = tuple[Tensor, OutputLayer]
"""A model's hidden states, and what turns them into logits."""


class Side(NamedTuple):
    """What one model makes of a token: the log-prob of the sampled one, the likeliest ones, and how open the choice
    was, in nats; None where nobody asked for it."""

    logprob: float
    top: tuple[Alternative, ...]
    entropy: float | None


class Tracer:
    """Collects the traces of one step."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, chosen: Iterable[RolloutKey]) -> None:
        self._tokenizer = tokenizer
        self._chosen = set(chosen)
        self._found: dict[RolloutKey, RolloutTrace] = {}
        self._pieces: dict[int, str] = {}

    @property
    def chosen(self) -> bool:
        """Whether any rollout is traced."""
        return bool(self._chosen)

    def choose(self, more: Iterable[RolloutKey]) -> None:
        """Trace these, too, when they come."""
        self._chosen |= set(more)

    def record(
        self,
        rows: Sequence[Row],
        places: Places,
        divergence_P: Tensor,
        weights_RT: Tensor,
        student: Hidden,
        teacher: Hidden,
    ) -> None:
        """Trace the chosen rows of a micro-batch. Hidden states are those of `places`, weights by row and token."""
        chosen = [(at, row) for at, row in enumerate(rows) if (row.group, row.sample) in self._chosen]
        if not chosen:
            return
        of_token = torch.zeros_like(places.mask)
        for at, row in chosen:
            of_token[at, : min(len(row.response), MAX_TOKENS)] = True
        pairs_N, targets_N = places.pair_index[of_token], places.targets[of_token]
        of_student, of_teacher = places.pairs[pairs_N].unbind(1)
        with torch.no_grad():
            values = zip(
                divergence_P[pairs_N].tolist(),
                weights_RT[of_token].tolist(),
                self._side(student, of_student, targets_N, with_entropy=True),
                self._side(teacher, of_teacher, targets_N, with_entropy=False),
                strict=True,
            )
        for _, row in chosen:
            # Texts come first in the zip below: it must take no value beyond the row's last token.
            texts = text_pieces(self._tokenizer, row.response[:MAX_TOKENS])
            self._found[row.group, row.sample] = RolloutTrace(
                problem_id=row.problem_id,
                sample=row.sample,
                all_tokens=len(row.response),
                tokens=tuple(_token(text, *value) for text, value in zip(texts, values, strict=False)),
            )

    def told(self) -> str:
        """What was traced here, for another process."""
        return _TRACED.dump_json([(*key, trace) for key, trace in self._found.items()]).decode()

    def take(self, told: Iterable[str]) -> None:
        """What others have traced of the same step."""
        for text in told:
            for group, sample, trace in _TRACED.validate_json(text):
                self._found[group, sample] = trace

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

    def _side(self, model: Hidden, at_N: Tensor, targets_N: Tensor, *, with_entropy: bool) -> list[Side]:
        """By token. Shared places count once."""
        hidden, output = model
        distinct, which_N = torch.unique(at_N, return_inverse=True)
        sampled_N = torch.empty(len(at_N), device=hidden.device)
        alternatives: list[tuple[Alternative, ...]] = []
        entropies: list[float] = []
        rows = chunk_rows(len(output.weight), hidden.device)
        for first in range(0, len(distinct), rows):
            logits = output.logits(hidden[distinct[first : first + rows]]).float()
            total = logits.logsumexp(1, keepdim=True)
            top = logits.topk(min(ALTERNATIVES, logits.shape[1]), dim=1)
            shares = (top.values - total).exp()
            alternatives += map(self._alternatives, top.indices.tolist(), shares.tolist())
            inside = (which_N >= first) & (which_N < first + rows)
            at = which_N[inside] - first
            sampled_N[inside] = logits[at, targets_N[inside]] - total[at, 0]
            if with_entropy:
                # -p ln p, and 0 where p is 0. In place and last: nothing reads the logits after it.
                entropies += torch.special.entr(logits.sub_(total).exp_()).sum(1).tolist()
        logprobs = sampled_N.clamp(min=LOWEST_LOGPROB).tolist()
        return [
            Side(logprob, alternatives[which], entropies[which] if with_entropy else None)
            for logprob, which in zip(logprobs, which_N.tolist(), strict=True)
        ]

    def _alternatives(self, ids: Sequence[int], probabilities: Sequence[float]) -> tuple[Alternative, ...]:
        return tuple(
            Alternative(text=self._piece(token), probability=_short(value))
            for token, value in zip(ids, probabilities, strict=True)
        )

    def _piece(self, token: int) -> str:
        if token not in self._pieces:
            self._pieces[token] = lone_piece(self._tokenizer, token)
        return self._pieces[token]


def chosen_rollouts(
    student: str, step: int, groups: Sequence[BatchGroup], share: float, *, first: int = 0
) -> list[RolloutKey]:
    """The rollouts of a batch that are traced, about `share` of those with loss; the same whoever asks. first: number
    of the first group."""
    return [
        (number, sample.index)
        for number, group in enumerate(groups, first)
        for sample in group.samples
        if sample.mask and seed_of(student, step, group.problem_id, sample.index, "trace") < share * 2**63
    ]


def _token(
    text: str,
    divergence: float,
    weight: float,
    student: Side,
    teacher: Side,
) -> TokenTrace:
    return TokenTrace(
        text=text,
        divergence=_short(divergence),
        weight=_short(weight),
        student_logprob=_short(student.logprob),
        teacher_logprob=_short(teacher.logprob),
        student_top=student.top,
        teacher_top=teacher.top,
        student_entropy=None if student.entropy is None else _short(student.entropy),
    )


def _short(value: float) -> float:
    """Six digits: enough to read, and a third of the bytes."""
    return float(f"{value:.6g}")
