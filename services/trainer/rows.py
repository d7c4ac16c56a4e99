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
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from services.trainer.importance import LOG_PROB_MAX
from shared.contracts.batches import BatchGroup, BatchSample
from shared.modeling.chat import render

TOO_LONG = "teacher_prompt_too_long"
BAD_LOGPROBS = "unusable_logprobs"
EMPTY = "empty_response"
REJECTIONS = (TOO_LONG, BAD_LOGPROBS, EMPTY)


@dataclass(frozen=True)
class Row:
    """One rollout as the loss sees it; token ids throughout. `active` False: no loss, no compute."""

    group: int
    prompt: tuple[int, ...]
    teacher_prompt: tuple[int, ...]
    response: tuple[int, ...]
    logprobs: tuple[float, ...]
    active: bool


def training_rows(
    groups: Sequence[BatchGroup], tokenizer: PreTrainedTokenizerBase, context_tokens: int
) -> tuple[list[Row], Counter[str]]:
    """One row a sample, and how many samples were rejected, by reason.

    context_tokens: what the model can hold. A teacher prompt that leaves no room for its response is not cut,
    because any cut would change the question or the generation prefix: the sample is rejected (docs/method.md).
    """
    rows: list[Row] = []
    rejected: Counter[str] = Counter()
    for number, group in enumerate(groups):
        for sample in group.samples:
            teacher = tuple(render(tokenizer, sample.teacher_messages)) if sample.mask else ()
            reason = _rejection(sample, len(teacher), context_tokens)
            if reason is not None:
                rejected[reason] += 1
            rows.append(
                Row(
                    group=number,
                    prompt=group.prompt_token_ids,
                    teacher_prompt=teacher,
                    response=sample.token_ids,
                    logprobs=sample.logprobs,
                    active=bool(sample.mask) and reason is None,
                )
            )
    return rows, rejected


def mini_batches(rows: Sequence[Row], count: int) -> list[list[Row]]:
    """`count` mini-batches of whole groups, or as many as there are groups.

    Groups are dealt out in turn: a batch sorted by domain gives mini-batches that have every domain.
    """
    groups = sorted({row.group for row in rows})
    parts = min(count, len(groups))
    part_of = {group: position % parts for position, group in enumerate(groups)}
    return [[row for row in rows if part_of[row.group] == part] for part in range(parts)]


def _rejection(sample: BatchSample, teacher_tokens: int, context_tokens: int) -> str | None:
    """Why a sample that the batch meant to train on cannot be, or None."""
    if not sample.mask:
        return None
    if not sample.token_ids:
        return EMPTY
    usable = all(math.isfinite(value) and value <= LOG_PROB_MAX for value in sample.logprobs)
    if len(sample.logprobs) != len(sample.token_ids) or not usable:
        return BAD_LOGPROBS
    if teacher_tokens + len(sample.token_ids) > context_tokens:
        return TOO_LONG
    return None
