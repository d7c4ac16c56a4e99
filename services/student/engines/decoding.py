"""The sampling loop of the transformers engine.

Samples that so far have the same prompt, settings and tokens share one row of the batch: the model runs once for
all of them, and the row forks where their draws differ. Every sample has its own random generator, so that what it
draws does not depend on which others are there.
"""

import math
import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from services.student.engines.kvcache import RowCache
from services.student.engines.port import (
    Generation,
    GenerationCancelledError,
    GenerationRequest,
    NotFiniteError,
    TokenChoice,
    TokenDetail,
)
from services.student.engines.sampling import distribution, draw
from services.student.engines.tokens import TokenTable
from services.student.engines.transcript import Transcript
from shared.contracts.messages import Sampling

_SCORED_TOKENS = 128
"""Places of a prompt whose logits are there at once."""

_PREFILL_TOKENS = 2048
"""Of one forward pass over prompts: enough for full speed, few enough for a small peak of memory."""


@dataclass
class Draw:
    """One sequence in the making; `index` is its place among the requests."""

    index: int
    prompt: tuple[int, ...]
    request: GenerationRequest
    randomness: random.Random
    transcript: Transcript | None
    """None where nobody watches and no stop string is looked for."""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stopped: bool = False

    @property
    def sampling(self) -> Sampling:
        return self.request.sampling

    @property
    def done(self) -> bool:
        return self.stopped or len(self.token_ids) >= self.sampling.max_tokens or self.request.unwanted


@dataclass(frozen=True)
class DecodingRow:
    """Samples that are the same so far; `pad` columns of the row come before its prompt."""

    samples: tuple[Draw, ...]
    pad: int
    token: int = -1

    @property
    def sampling(self) -> Sampling:
        return self.samples[0].sampling


class Decoding:
    """One batch, from prompts to finished samples, on the weights that `model` has now."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, eos_ids: frozenset[int]):
        self._model = model
        self._tokenizer = tokenizer
        self._eos_ids = eos_ids
        self._tokens = TokenTable(tokenizer)
        self._device = model.device

    @torch.inference_mode()
    def run(self, samples: Sequence[Draw], cancelled: threading.Event | None) -> None:
        """Fill in tokens and log-probs of `samples`.

        Raises GenerationCancelledError when told to stop, NotFiniteError where the model gives no numbers.
        """
        rows = _initial_rows(samples)
        # Room for as many rows as samples: in the end each may have a row of its own.
        columns = max(row.pad + len(row.samples[0].prompt) + row.sampling.max_tokens for row in rows)
        cache = RowCache(self._model.config, len(samples), columns, self._model.dtype, self._device)
        logits_RV = self._prefill(rows, cache)
        while True:
            if cancelled is not None and cancelled.is_set():
                raise GenerationCancelledError(f"{len(samples)} samples were stopped before they were complete")
            # The cache is moved before the next pass writes to it: a row's parent must still lie where it lay.
            rows, parents = _settled(self._extend(rows, logits_RV), len(rows))
            if not rows:
                return
            cache.rearrange(parents)
            logits_RV = self._step(rows, cache)

    def finish(self, sample: Draw) -> Generation:
        """Return a sample that is done as the port has it."""
        details: tuple[TokenDetail, ...] = ()
        if sample.transcript is None:
            text: str = self._tokenizer.decode(sample.token_ids, skip_special_tokens=True)
        else:
            text, details = sample.transcript.end()
        reason: Literal["stop", "length"] = "stop" if sample.stopped else "length"
        prompt_details = self._scored(sample) if sample.request.echo and not sample.request.unwanted else ()
        return Generation(text, list(sample.prompt), sample.token_ids, sample.logprobs, reason, details, prompt_details)

    @torch.inference_mode()
    def _scored(self, sample: Draw) -> tuple[TokenDetail, ...]:
        """The tokens of its prompt, each after those before it. Raises NotFiniteError."""
        ids_T = torch.tensor(sample.prompt, device=self._device)
        # Of all places only the hidden states are held: logits of a long prompt would be gigabytes.
        output = self._model.get_decoder()(
            input_ids=ids_T[None], attention_mask=torch.ones_like(ids_T)[None], use_cache=False
        )
        most = min(sample.request.top_logprobs or 0, self._model.config.vocab_size)
        details = [TokenDetail(self._tokens.choice(sample.prompt[0], math.nan), ())]
        hidden_TD = output.last_hidden_state[0, :-1]
        parts = zip(torch.split(hidden_TD, _SCORED_TOKENS), torch.split(ids_T[1:], _SCORED_TOKENS), strict=True)
        for hidden_ND, next_N in parts:
            logprobs_NV = self._model.get_output_embeddings()(hidden_ND).float().log_softmax(-1)
            given = logprobs_NV.gather(1, next_N[:, None])[:, 0].tolist()
            best = logprobs_NV.topk(most)
            rows = zip(next_N.tolist(), given, best.indices.tolist(), best.values.tolist(), strict=True)
            for token, logprob, others, values in rows:
                if not math.isfinite(logprob):
                    raise NotFiniteError(sample.request.version)
                top = tuple(self._tokens.choice(*one) for one in zip(others, values, strict=True))
                details.append(TokenDetail(self._tokens.choice(token, logprob), top))
        return tuple(details)

    def _prefill(self, rows: Sequence[DecodingRow], cache: RowCache) -> Tensor:
        """Run the prompts, a few at a time; return the logits [R, V] after each."""
        # Padding is on the left, so every prompt ends in the same column and the last logits are each row's own.
        length = rows[0].pad + len(rows[0].samples[0].prompt)
        at_once = max(1, _PREFILL_TOKENS // length)
        parts = []
        for first in range(0, len(rows), at_once):
            chunk = rows[first : first + at_once]
            ids = [[0] * row.pad + list(row.samples[0].prompt) for row in chunk]
            # Each chunk begins at column 0 again, for its own rows.
            cache.window(first, len(chunk), 0)
            parts.append(self._forward(torch.tensor(ids, device=self._device), chunk, cache))
        cache.window(0, len(rows), length)
        return torch.cat(parts)

    def _step(self, rows: Sequence[DecodingRow], cache: RowCache) -> Tensor:
        ids_R1 = torch.tensor([[row.token] for row in rows], device=self._device)
        logits_RV = self._forward(ids_R1, rows, cache)
        cache.window(0, len(rows), cache.length + 1)
        return logits_RV

    def _forward(self, ids_BT: Tensor, rows: Sequence[DecodingRow], cache: RowCache) -> Tensor:
        """Run columns from cache.length on; return the logits [B, V] of the last one."""
        end = cache.length + ids_BT.shape[1]
        pads_B1 = torch.tensor([[row.pad] for row in rows], device=self._device)
        columns_S = torch.arange(end, device=self._device)
        output = self._model(
            input_ids=ids_BT,
            attention_mask=self._mask(pads_B1, columns_S, cache.length),
            # Positions count from the prompt's first token, so padding changes nothing but rounding.
            position_ids=(columns_S[cache.length :] - pads_B1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits_BV: Tensor = output.logits[:, -1]
        return logits_BV

    def _mask(self, pads_B1: Tensor, columns_S: Tensor, start: int) -> Tensor:
        """What is added to attention scores, [B, 1, T, S]: almost -inf for padding and the future, else nothing."""
        hidden_BTS = (columns_S < pads_B1)[:, None] | (columns_S > columns_S[start:, None])
        # The dtype's lowest number and not -inf: a row of padding alone would be all -inf, and its softmax NaN.
        zeros = torch.zeros(hidden_BTS.shape, dtype=self._model.dtype, device=self._device)
        return zeros.masked_fill_(hidden_BTS, torch.finfo(self._model.dtype).min)[:, None]

    def _extend(self, rows: Sequence[DecodingRow], logits_RV: Tensor) -> Iterator[tuple[int, DecodingRow]]:
        """Draw one token a sample; yield (parent row, row) for what goes on, samples of one token together."""
        settings = [row.sampling for row in rows]
        probabilities_RV = distribution(
            logits_RV, [setting.temperature for setting in settings], [setting.top_p for setting in settings]
        )
        # One number a token from each sample's own generator, whatever else is in the batch: so its draws are its
        # seed's alone. Greedy samples take theirs too, and do not use it.
        owners = [number for number, row in enumerate(rows) for _ in row.samples]
        uniforms = [sample.randomness.random() for row in rows for sample in row.samples]
        tokens_N = draw(probabilities_RV, owners, uniforms)
        if greedy := [number for number, owner in enumerate(owners) if settings[owner].temperature == 0]:
            tokens_N[greedy] = probabilities_RV[[owners[number] for number in greedy]].argmax(-1)
        # Of the distribution drawn from, after temperature and top-p: the trainer's importance weights compare with it.
        logprobs = probabilities_RV[owners, tokens_N].log().tolist()
        drawn = iter(zip(tokens_N.tolist(), logprobs, strict=True))
        tops = self._tops(rows, probabilities_RV)
        for number, row in enumerate(rows):
            children: dict[int, list[Draw]] = {}
            for sample in row.samples:
                token, logprob = next(drawn)
                self._append(sample, token, logprob, tops.get(number, ()))
                if not sample.done:
                    children.setdefault(token, []).append(sample)
            for token, members in children.items():
                yield number, DecodingRow(tuple(members), row.pad, token)

    def _tops(self, rows: Sequence[DecodingRow], probabilities_RV: Tensor) -> dict[int, Sequence[TokenChoice]]:
        """By row, its most probable tokens, best first: as many as its samples ask for, and of mass."""
        wanted = {number: most for number, row in enumerate(rows) if (most := _alternatives(row)) > 0}
        tops: dict[int, Sequence[TokenChoice]] = {}
        for number, most in wanted.items():
            best = probabilities_RV[number].topk(min(most, probabilities_RV.shape[1]))
            pairs = zip(best.indices.tolist(), best.values.log().tolist(), best.values.tolist(), strict=True)
            tops[number] = [self._tokens.choice(token, logprob) for token, logprob, mass in pairs if mass > 0]
        return tops

    def _append(self, sample: Draw, token: int, logprob: float, tops: Sequence[TokenChoice]) -> None:
        """Raises NotFiniteError: one logit that is not finite makes all probabilities of its row NaN."""
        if not math.isfinite(logprob):
            raise NotFiniteError(sample.request.version)
        sample.token_ids.append(token)
        sample.logprobs.append(logprob)
        sample.stopped = token in self._eos_ids
        if sample.transcript is None:
            return
        alternatives = sample.request.top_logprobs
        # The row's list is as long as the longest that any of its samples asks for.
        detail = None
        if alternatives is not None:
            detail = TokenDetail(self._tokens.choice(token, logprob), tuple(tops[:alternatives]))
        # What is done is told by `end`, which alone knows what the last bytes become.
        sample.stopped |= sample.transcript.add(token, detail)
        if not sample.done:
            sample.transcript.tell()


def _alternatives(row: DecodingRow) -> int:
    return max(sample.request.top_logprobs or 0 for sample in row.samples)


def _initial_rows(samples: Sequence[Draw]) -> list[DecodingRow]:
    """One row for each distinct pair of prompt and settings, padded to the longest prompt."""
    alike: dict[tuple[tuple[int, ...], Sampling], list[Draw]] = {}
    for sample in samples:
        alike.setdefault((sample.prompt, sample.sampling), []).append(sample)
    longest = max(len(sample.prompt) for sample in samples)
    return [DecodingRow(tuple(members), longest - len(prompt)) for (prompt, _), members in alike.items()]


def _settled(children: Iterator[tuple[int, DecodingRow]], parent_count: int) -> tuple[list[DecodingRow], list[int]]:
    """Give each child a place, its parent's where possible, so that few rows of the cache move.

    Returns the rows and, for each, the number of the row it comes from.
    """
    found = list(children)
    places: dict[int, tuple[int, DecodingRow]] = {}
    homeless = []
    for parent, row in found:
        if parent < len(found) and parent not in places:
            places[parent] = (parent, row)
        else:
            homeless.append((parent, row))
    free = (place for place in range(max(len(found), parent_count)) if place not in places)
    places.update(zip(free, homeless, strict=False))
    ordered = [places[place] for place in range(len(found))]
    return [row for _, row in ordered], [parent for parent, _ in ordered]
