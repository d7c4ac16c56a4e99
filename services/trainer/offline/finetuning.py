"""Supervised fine-tuning of an adapter: next-token loss on completions alone, the closing eos token included.

What always holds: every example is used once an epoch, in an order that the seed alone decides; a batch's loss is
the mean over all its completion tokens, however it was cut up to fit, or shared out over ranks; and of anything over
the vocabulary only one chunk exists at a time.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from services.trainer.model.learner import adamw
from services.trainer.model.model import StudentModel
from services.trainer.ranks.group import Alone, Group
from services.trainer.step.divergence import chunk_rows
from services.trainer.step.shares import dealt_out
from services.trainer.step.trees import Tree
from shared.config.specializing import SpecializeSection
from shared.errors import ModelError
from shared.modeling.chat import completion_ids, render
from shared.problems.specialising import Example

CLIP_NORM = 1.0
# Short enough that sorting by length leaves little padding, long enough that a product of matrices is efficient.
ROWS_AT_ONCE = 4
# Of the logits on a CPU, 64 MiB in fp32: there is no divergence to keep beside them, and a small model's examples fit.
CPU_CHUNK_ELEMENTS = 1 << 24


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
    *,
    limit_tokens: int,
    group: Group | None = None,
) -> None:
    """Train the adapter of `model` on `rows`. limit_tokens: as in `micro_batches`. group: the ranks that train it
    together, each with a `model` of its own; one if none is given.

    Raises ModelError if a loss or gradient is not finite, then on all ranks.
    """
    group = group or Alone()
    batches = list(_batches(rows, settings, seed))
    betas = (settings.beta1, settings.beta2)
    optimizer = adamw(model.parameters, learning_rate=settings.learning_rate, betas=betas, weight_decay=0.0)
    for done, batch in enumerate(batches):
        for parameters in optimizer.param_groups:
            parameters["lr"] = settings.learning_rate * rate(done, len(batches), settings.warmup_share)
        loss = _accumulate(model, batch, limit_tokens, group)
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


def micro_batches(batch: Sequence[TuningRow], limit_tokens: int) -> list[list[TuningRow]]:
    """The rows of a batch, those of similar length together, in even parts of at most ROWS_AT_ONCE.

    A part of more than `limit_tokens` with padding is halved until it fits, down to a single row.
    """
    ordered = sorted(batch, key=lambda row: row.tokens)
    parts = math.ceil(len(ordered) / ROWS_AT_ONCE)
    bounds = [len(ordered) * part // parts for part in range(parts + 1)]
    return [part for first, last in pairwise(bounds) for part in _fitting(ordered[first:last], limit_tokens)]


def _fitting(part: list[TuningRow], limit_tokens: int) -> list[list[TuningRow]]:
    if len(part) == 1 or len(part) * part[-1].tokens <= limit_tokens:
        return [part]
    half = len(part) // 2
    return [*_fitting(part[:half], limit_tokens), *_fitting(part[half:], limit_tokens)]


def add_gradient(
    model: StudentModel, rows: Sequence[TuningRow], tokens: int, chunk_elements: int | None = None
) -> float:
    """Add the gradient of the rows' negative log-likelihood over `tokens`; returns that, in nats a token.

    tokens: of the completions of the whole batch that the rows are of. chunk_elements: as in `chunk_rows`. Gradients
    are taken down to the hidden states while a chunk's logits are there, and through the model once.
    """
    trees = [Tree() for _ in rows]
    nodes: list[tuple[int, int]] = []
    targets: list[int] = []
    for index, (tree, row) in enumerate(zip(trees, rows, strict=True)):
        path = tree.insert(row.prompt + row.completion)
        nodes += [(index, node) for node in path[len(row.prompt) - 1 : -1]]
        targets += row.completion
    hidden_PH = model.hidden(trees, nodes)
    targets_P = torch.tensor(targets, device=hidden_PH.device)
    output, read_PH = model.output_layer(1.0), hidden_PH.detach().requires_grad_()
    at_once = chunk_rows(model.vocabulary, hidden_PH.device, chunk_elements)
    total = 0.0
    for first in range(0, len(targets), at_once):
        part = slice(first, first + at_once)
        logits = output.logits(read_PH[part]).float()
        loss = functional.cross_entropy(logits, targets_P[part], reduction="sum") / tokens
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    hidden_PH.backward(read_PH.grad)  # type: ignore[no-untyped-call]
    return total


def _accumulate(model: StudentModel, batch: Sequence[TuningRow], limit_tokens: int, group: Group) -> float:
    """Add the gradient of the batch's loss, of which each rank computes a part; return the loss."""
    tokens = sum(len(row.completion) for row in batch)
    elements = CPU_CHUNK_ELEMENTS if model.device.type == "cpu" else None
    # By the tokens of the whole batch, so that the parts add up to its mean.
    parts = micro_batches(batch, limit_tokens)
    own = dealt_out([len(part) * part[-1].tokens for part in parts], group.size)[group.rank]
    loss = sum(add_gradient(model, parts[at], tokens, elements) for at in own)
    if group.size > 1:
        for parameter in model.parameters:
            if parameter.grad is None:
                # Of a rank that has no part; the others wait for it all the same.
                parameter.grad = torch.zeros_like(parameter)
        group.add_up([parameter.grad for parameter in model.parameters if parameter.grad is not None])
    return group.sums([loss])[0]


def _batches(rows: Sequence[TuningRow], settings: SpecializeSection, seed: int) -> Iterator[list[TuningRow]]:
    for epoch in range(settings.epochs):
        order = list(rows)
        # An order for each epoch from its own seed, whatever was drawn before.
        Random(f"{seed}/finetune/{epoch}").shuffle(order)
        for first in range(0, len(order), settings.batch_size):
            yield order[first : first + settings.batch_size]
