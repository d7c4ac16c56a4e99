"""The training rows of a batch, and how they are dealt out to mini-batches.

What always holds:
- a response is trained on as the ids that were sampled, never tokenised again;
- every sample of the batch becomes a row. One that cannot be trained on is inactive: it costs no compute, and
  it still counts in the denominator of a per-sequence mean. Every reason but the sealed mask has a counter;
- rows are in the batch's order (by problem, then by sample), whoever reads it.
"""

import math
from collections import Counter
from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from services.trainer.step.losses import LOG_PROB_MAX, group_advantages
from services.trainer.step.trees import Row
from shared.contracts.batches import BatchGroup, BatchSample
from shared.method import reprompt
from shared.modeling.chat import render

TOO_LONG = "teacher_prompt_too_long"
BAD_LOGPROBS = "unusable_logprobs"
EMPTY = "empty_response"


def training_rows(
    groups: Sequence[BatchGroup], tokenizer: PreTrainedTokenizerBase, *, context_tokens: int, shorten: bool
) -> tuple[list[Row], Counter[str]]:
    """One row a sample, and how often a teacher prompt was shortened or a sample rejected, by reason.

    context_tokens: what the model can hold. shorten: a teacher prompt that leaves no room for its response is
    built again with less of the solution, then without feedback (`reprompt.fit`; only for formats that use its
    template). One that is still too long is never cut, since that would change the question or the generation
    prefix: the sample is rejected.
    """
    rows: list[Row] = []
    events: Counter[str] = Counter()
    for number, group in enumerate(groups):
        advantages = group_advantages(torch.tensor([sample.reward for sample in group.samples])).tolist()
        for sample, advantage in zip(group.samples, advantages, strict=True):
            teacher = tuple(render(tokenizer, sample.teacher_messages)) if sample.mask else ()
            # The response is trained on as it was sampled, so only the prompt can give way.
            room = context_tokens - len(sample.token_ids)
            if shorten and len(teacher) > room:
                teacher, changes = _shortened(group, sample, tokenizer, room)
                events.update(changes)
            reason = _rejection(sample, len(teacher), room)
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
    return rows, events


def mini_batches(rows: Sequence[Row], count: int) -> list[list[Row]]:
    """`count` mini-batches of whole groups, or as many as there are groups.

    Groups are dealt out in turn: a batch sorted by domain gives mini-batches that have every domain.
    """
    # Whole groups: only rows of one group share a prefix tree.
    groups = sorted({row.group for row in rows})
    parts = min(count, len(groups))
    part_of = {group: position % parts for position, group in enumerate(groups)}
    return [[row for row in rows if part_of[row.group] == part] for part in range(parts)]


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
    usable = all(math.isfinite(value) and value <= LOG_PROB_MAX for value in sample.logprobs)
    if len(sample.logprobs) != len(sample.token_ids) or not usable:
        return BAD_LOGPROBS
    return TOO_LONG if teacher_tokens > room else None
