"""The training rows of a batch, and how they are dealt out to mini-batches.

What always holds:
- a response is trained on as the ids that were sampled, never tokenised again; only of a peer's rollout, whose ids
  are of another tokenizer, the text is encoded;
- every sample of the batch becomes a row. One that cannot be trained on is inactive: it costs no compute, and
  it still counts in the denominator of a per-sequence mean. Every reason but the sealed mask has a counter;
- rows are in the batch's order (by problem, then by sample), whoever reads it.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import structlog
import torch
from transformers import PreTrainedTokenizerBase

from services.trainer.step.losses import LOG_PROB_MAX, group_advantages
from services.trainer.step.trees import Row
from shared.contracts.batches import BatchGroup, BatchSample, PeerSample, mini_batch_of
from shared.errors import PromptError
from shared.method import reprompt
from shared.method.sharing import capability_ratio, shared_advantages
from shared.modeling.chat import encode, neutralise, render

TOO_LONG = "teacher_prompt_too_long"
REFUSED = "teacher_prompt_refused"
BAD_LOGPROBS = "unusable_logprobs"
EMPTY = "empty_response"
PEER_TOO_LONG = "peer_rollout_too_long"

log = structlog.get_logger()


@dataclass(frozen=True)
class Pair:
    """The student that learns and the peer whose rollouts it learns from, too: how able each is (HACPO)."""

    learner: float
    peer: float

    @property
    def ratio(self) -> float:
        return capability_ratio(self.peer, self.learner)


def training_rows(
    groups: Sequence[BatchGroup],
    tokenizer: PreTrainedTokenizerBase,
    *,
    context_tokens: int,
    shorten: bool,
    pair: Pair | None = None,
    first: int = 0,
) -> tuple[list[Row], Counter[str]]:
    """One row a sample, in each group the peer's last, and how often a teacher prompt was shortened or a sample
    rejected, by reason.

    context_tokens: what the model can hold. shorten: a teacher prompt that leaves no room for its response is
    built again with less of the solution, then without feedback (`reprompt.fit`; only for formats that use its
    template). One that is still too long is never cut, since that would change the question or the generation
    prefix: the sample is rejected, as is one whose teacher prompt the tokenizer or its template refuses. pair: of
    students that share their rollouts. first: number of the first group.
    """
    rows: list[Row] = []
    events: Counter[str] = Counter()
    for number, group in enumerate(groups, first):
        advantages, foreign = _advantages(group, pair)
        for sample, advantage in zip(group.samples, advantages, strict=True):
            # The response is trained on as it was sampled, so only the prompt can give way.
            room = context_tokens - len(sample.token_ids)
            try:
                teacher, changes = _teacher_prompt(group, sample, tokenizer, room, shorten=shorten)
                events.update(changes)
                reason = _rejection(sample, len(teacher), room)
            except PromptError as error:
                log.warning("teacher prompt refused", problem=group.problem_id, sample=sample.index, error=str(error))
                teacher, reason = (), REFUSED
            if reason is not None:
                events[reason] += 1
            rows.append(
                Row(
                    group=number,
                    prompt=group.prompt_token_ids,
                    teacher_prompt=teacher,
                    response=sample.token_ids,
                    logprobs=sample.logprobs,
                    active=bool(sample.mask) and reason is None,
                    advantage=advantage,
                    problem_id=group.problem_id,
                    sample=sample.index,
                )
            )
        for peer_sample, advantage in zip(group.peer_samples, foreign, strict=True):
            row, reason = _foreign_row(number, group, peer_sample, tokenizer, context_tokens)
            if reason is not None:
                events[reason] += 1
            rows.append(replace(row, advantage=advantage, weight=pair.ratio if pair else 1.0))
    return rows, events


def _advantages(group: BatchGroup, pair: Pair | None) -> tuple[list[float], list[float]]:
    """Of the own samples, and of the peer's."""
    rewards = [sample.reward for sample in group.samples]
    if pair is None:
        return group_advantages(torch.tensor(rewards)).tolist(), []
    return shared_advantages(rewards, [sample.reward for sample in group.peer_samples], pair.ratio)


def _foreign_row(
    number: int, group: BatchGroup, sample: PeerSample, tokenizer: PreTrainedTokenizerBase, context_tokens: int
) -> tuple[Row, str | None]:
    """A peer's rollout as the student would have written it, and why it cannot be trained on, or None.

    The token that ended it stands in no text, and the two tokenizers need not have the same: it is left out on both
    sides, as HACPO's authors do.
    """
    response = tuple(encode(tokenizer, neutralise(tokenizer, sample.text)))
    logprobs = sample.logprobs[:-1] if sample.finish_reason == "stop" else sample.logprobs
    reason = None
    if sample.mask:
        reason = _foreign_rejection(response, logprobs, context_tokens - len(group.prompt_token_ids))
    usable = bool(sample.mask) and reason is None
    row = Row(
        group=number,
        prompt=group.prompt_token_ids,
        # Nobody is shown anything: the teacher's tree is the student's.
        teacher_prompt=group.prompt_token_ids,
        response=response,
        logprobs=(fmean(logprobs) if usable else 0.0,) * len(response),
        active=usable,
        problem_id=group.problem_id,
        sample=sample.index,
        foreign=True,
    )
    return row, reason


def _foreign_rejection(response: Sequence[int], logprobs: Sequence[float], room: int) -> str | None:
    if not response or not logprobs:
        return EMPTY
    if not _usable(logprobs):
        return BAD_LOGPROBS
    return PEER_TOO_LONG if len(response) > room else None


def mini_batches(rows: Sequence[Row], count: int) -> list[list[Row]]:
    """`count` mini-batches of whole groups, or as many as there are groups; which ones, says `mini_batch_of`."""
    # Whole groups: only rows of one group share a prefix tree.
    groups = sorted({row.group for row in rows})
    part_of = {group: mini_batch_of(position, len(groups), count) for position, group in enumerate(groups)}
    return [[row for row in rows if part_of[row.group] == part] for part in range(min(count, len(groups)))]


def _teacher_prompt(
    group: BatchGroup, sample: BatchSample, tokenizer: PreTrainedTokenizerBase, room: int, *, shorten: bool
) -> tuple[tuple[int, ...], list[str]]:
    """Nothing for a sample that is not trained on; and what had to go. Raises PromptError."""
    if not sample.mask:
        return (), []
    whole = tuple(render(tokenizer, sample.teacher_messages))
    return _shortened(group, sample, tokenizer, room) if shorten and len(whole) > room else (whole, [])


def _shortened(
    group: BatchGroup, sample: BatchSample, tokenizer: PreTrainedTokenizerBase, room: int
) -> tuple[tuple[int, ...], list[str]]:
    """The teacher prompt within `room` tokens as far as that is possible, and what had to go."""
    shown = sample.demonstration
    solution = None if shown is None else next(one.text for one in group.samples if one.index == shown)
    fitted = reprompt.fit(
        [message.model_dump() for message in group.messages],
        solution=solution,
        feedback=sample.feedback,
        budget=room,
        count=lambda messages: len(render(tokenizer, messages)),
    )
    if not fitted.mask:
        # nothing left to show: the prompt stays too long, and the sample is rejected for it
        return tuple(render(tokenizer, sample.teacher_messages)), [event.value for event in fitted.events]
    return tuple(render(tokenizer, fitted.messages)), [event.value for event in fitted.events]


def _rejection(sample: BatchSample, teacher_tokens: int, room: int) -> str | None:
    """Why a sample that the batch meant to train on cannot be, or None."""
    if not sample.mask:
        return None
    if not sample.token_ids:
        return EMPTY
    if len(sample.logprobs) != len(sample.token_ids) or not _usable(sample.logprobs):
        return BAD_LOGPROBS
    return TOO_LONG if teacher_tokens > room else None


def _usable(logprobs: Sequence[float]) -> bool:
    return all(math.isfinite(value) and value <= LOG_PROB_MAX for value in logprobs)
