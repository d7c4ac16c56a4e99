"""Supervised fine-tuning of an adapter: next-token loss on completions alone, the closing eos token included.

What always holds: every example is used once an epoch, in an order that the seed alone decides; a batch's loss is
the mean over all its completion tokens, however it was cut up to fit.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from services.trainer.model.learner import adamw
from services.trainer.model.model import StudentModel
from services.trainer.step.trees import Tree
from shared.config.specializing import SpecializeSection
from shared.errors import ModelError
from shared.modeling.chat import completion_ids, render
from shared.problems.specialising import Example

CLIP_NORM = 1.0
# Short enough that sorting by length leaves little padding, long enough that a product of matrices is efficient.
ROWS_AT_ONCE = 4


@dataclass(frozen=True)
class TuningRow:
    """An example as token ids; the completion ends with the eos token."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]

    @property
    def tokens(self) -> int:
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True)
class Progress:
    """Where the training is after an update; `loss` is that batch's, in nats a token."""

    update: int
    updates: int
    loss: float


def tokenized(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, limit: int) -> list[TuningRow]:
    """The examples' ids. Raises ModelError for one of more than `limit` tokens, the model's context."""
    rows = [
        TuningRow(tuple(render(tokenizer, each.messages)), tuple(completion_ids(tokenizer, each.completion)))
        for each in examples
    ]
    longest = max(row.tokens for row in rows)
    if longest > limit:
        raise ModelError(
            f"expected a model with a context of {longest} tokens or more for the examples to fine-tune on, "
            f"got one of {limit}: choose another model"
        )
    return rows


def finetune(
    model: StudentModel,
    rows: Sequence[TuningRow],
    settings: SpecializeSection,
    seed: int,
    report: Callable[[Progress], None],
) -> None:
    """Train the adapter of `model` on `rows`. Raises ModelError if a loss or gradient is not finite."""
    batches = list(_batches(rows, settings, seed))
    betas = (settings.beta1, settings.beta2)
    optimizer = adamw(model.parameters, learning_rate=settings.learning_rate, betas=betas, weight_decay=0.0)
    for done, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate(done, len(batches), settings.warmup_share)
        loss = _accumulate(model, batch)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters, CLIP_NORM)
        if not (math.isfinite(loss) and torch.isfinite(norm)):
            raise ModelError(
                f"expected a finite loss and gradient, got {loss} and {norm.item()} in update {done + 1}: "
                "lower specialize.learning_rate"
            )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        report(Progress(done + 1, len(batches), loss))


def rate(done: int, updates: int, warmup_share: float) -> float:
    """The factor of the learning rate after `done` updates: linear warm-up, then a cosine down to 0."""
    warmup = round(updates * warmup_share)
    if done < warmup:
        return (done + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / max(updates - warmup, 1)))


def micro_batches(batch: Sequence[TuningRow]) -> list[list[TuningRow]]:
    """The rows of a batch, those of similar length together, in even parts of at most ROWS_AT_ONCE."""
    ordered = sorted(batch, key=lambda row: row.tokens)
    parts = math.ceil(len(ordered) / ROWS_AT_ONCE)
    bounds = [len(ordered) * part // parts for part in range(parts + 1)]
    return [ordered[first:last] for first, last in pairwise(bounds)]


def batch_loss(model: StudentModel, rows: Sequence[TuningRow]) -> Tensor:
    """The summed negative log-likelihood (nats) of the rows' completions, with gradient."""
    trees = [Tree() for _ in rows]
    nodes: list[tuple[int, int]] = []
    targets: list[int] = []
    for index, (tree, row) in enumerate(zip(trees, rows, strict=True)):
        path = tree.insert(row.prompt + row.completion)
        nodes += [(index, node) for node in path[len(row.prompt) - 1 : -1]]
        targets += row.completion
    logits_PV = model.logits(trees, nodes).float()
    return functional.cross_entropy(logits_PV, torch.tensor(targets, device=logits_PV.device), reduction="sum")


def _accumulate(model: StudentModel, batch: Sequence[TuningRow]) -> float:
    """Add the gradient of the batch's loss; return the loss."""
    tokens = sum(len(row.completion) for row in batch)
    total = 0.0
    for part in micro_batches(batch):
        # By the tokens of the whole batch, so that the parts add up to its mean.
        loss = batch_loss(model, part) / tokens
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total


def _batches(rows: Sequence[TuningRow], settings: SpecializeSection, seed: int) -> Iterator[list[TuningRow]]:
    for epoch in range(settings.epochs):
        order = list(rows)
        # An order for each epoch from its own seed, whatever was drawn before.
        Random(f"{seed}/finetune/{epoch}").shuffle(order)
        for first in range(0, len(order), settings.batch_size):
            yield order[first : first + settings.batch_size]
