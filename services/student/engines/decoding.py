"""The sampling loop of the transformers engine: the rows of one version, which samples join and leave at every step.

Samples that so far have the same prompt, settings and tokens share one row of the batch: the model runs once for
all of them, and the row forks where their draws differ. Every sample has its own random generator, so that what it
draws does not depend on which others are there.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from services.student.engines.kvcache import RowBudget, RowCache
from services.student.engines.places import in_order, settled, spans, width
from services.student.engines.port import (
    EngineAwayError,
    Generation,
    GenerationRequest,
    NotFiniteError,
    TokenChoice,
    TokenDetail,
)
from services.student.engines.prefixes import PromptPart, passes
from services.student.engines.sampling import distribution, draw
from services.student.engines.tokens import TokenTable
from services.student.engines.transcript import Transcript
from shared.contracts.messages import Sampling
from shared.errors import reason
from shared.modeling.thinking import AnswerText

_SCORED_TOKENS = 128
"""Places of a prompt whose logits are there at once."""

PREFILL_TOKENS = 2048
"""Of one forward pass over prompts: enough for full speed, few enough for a small peak of memory."""

PADDING = 128
"""Tokens of it that cost about as much as another pass."""


@dataclass(eq=False)
class Draw:
    """One sequence in the making; `index` is its place among the requests. broken: the model gave no numbers for it."""

    index: int
    prompt: tuple[int, ...]
    request: GenerationRequest
    randomness: random.Random
    transcript: Transcript | None
    """None where nobody watches and no stop string is looked for."""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stopped: bool = False
    broken: bool = False

    @property
    def sampling(self) -> Sampling:
        return self.request.sampling

    @property
    def columns(self) -> int:
        """That it may need."""
        return len(self.prompt) + self.sampling.max_tokens

    @property
    def done(self) -> bool:
        ended = self.stopped or len(self.token_ids) >= self.sampling.max_tokens
        return ended or self.broken or self.request.unwanted


@dataclass(frozen=True)
class DecodingRow:
    """Samples that are the same so far; `length` columns of their row are stored, and `token` comes next."""

    samples: tuple[Draw, ...]
    length: int
    token: int = -1

    @property
    def sampling(self) -> Sampling:
        return self.samples[0].sampling

    @property
    def prompt(self) -> tuple[int, ...]:
        return self.samples[0].prompt


class Decoder:
    """The model with the weights that it has now, and how tokens are drawn from what it says."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, eos_ids: frozenset[int]):
        self._model = model
        self._text = AnswerText(tokenizer)
        self._eos_ids = eos_ids
        self._tokens = TokenTable(tokenizer)
        self._device = model.device

    def require_device(self) -> None:
        """Raises EngineAwayError where the GPU's context is broken: every pass in this process would fail then."""
        if self._device.type != "cuda":
            return
        try:
            torch.cuda.synchronize(self._device)
        except RuntimeError as error:
            raise EngineAwayError(f"the GPU is lost to this process, which ends: {reason(error)}") from error

    def cache(self, budget: RowBudget) -> RowCache:
        return RowCache(self._model.config, self._model.dtype, self._device, budget)

    def finish(self, sample: Draw) -> Generation:
        """Return a sample that is done as the port has it. Raises NotFiniteError."""
        if sample.broken:
            raise NotFiniteError(sample.request.version)
        details: tuple[TokenDetail, ...] = ()
        if sample.transcript is None:
            text = self._text.of(sample.token_ids)
        else:
            text, details = sample.transcript.end()
        reason: Literal["stop", "length"] = "stop" if sample.stopped else "length"
        prompt_details = self._scored(sample) if sample.request.echo and not sample.request.unwanted else ()
        return Generation(
            text,
            list(sample.prompt),
            sample.token_ids,
            sample.logprobs,
            reason,
            details,
            prompt_details,
            self._text.opened if sample.request.prompt is None else "",
        )

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
            logprobs_NV = self.logits(hidden_ND).float().log_softmax(-1)
            given = logprobs_NV.gather(1, next_N[:, None])[:, 0].tolist()
            best = logprobs_NV.topk(most)
            rows = zip(next_N.tolist(), given, best.indices.tolist(), best.values.tolist(), strict=True)
            for token, logprob, others, values in rows:
                if not math.isfinite(logprob):
                    raise NotFiniteError(sample.request.version)
                top = tuple(self._tokens.choice(*one) for one in zip(others, values, strict=True))
                details.append(TokenDetail(self._tokens.choice(token, logprob), top))
        return tuple(details)

    def read(self, parts: Sequence[PromptPart], cache: RowCache) -> Tensor:
        """Run parts of prompts, whose first columns are stored; return the hidden state [B, H] after each."""
        starts = [part.start for part in parts]
        counts = [len(part.ids) for part in parts]
        most = max(counts)
        ids_BT = torch.tensor([[*part.ids, *[0] * (most - len(part.ids))] for part in parts], device=self._device)
        last_B1 = torch.tensor(counts, device=self._device)[:, None] - 1
        # No token, and padding least of all, stands behind its prompt's last: some rotary angles follow the largest.
        places_BT = torch.arange(most, device=self._device).minimum(last_B1)
        positions_BT = places_BT + torch.tensor(starts, device=self._device)[:, None]
        cache.fill([part.row for part in parts], starts, counts)
        hidden_BTH = self._forward(ids_BT, positions_BT, max(part.end for part in parts), cache)
        return hidden_BTH[torch.arange(len(parts), device=self._device), last_B1[:, 0]]

    def step(self, rows: Sequence[DecodingRow], cache: RowCache) -> Tensor:
        """Run the token that comes next in each row; return the logits [R, V] after it."""
        lengths = [row.length for row in rows]
        cache.grow_by_one(lengths)
        ids_R1 = torch.tensor([[row.token] for row in rows], device=self._device)
        positions_R1 = torch.tensor(lengths, device=self._device)[:, None]
        return self.logits(self._forward(ids_R1, positions_R1, max(lengths) + 1, cache, spans(lengths))[:, 0])

    def logits(self, hidden_NH: Tensor) -> Tensor:
        logits_NV: Tensor = self._model.get_output_embeddings()(hidden_NH)
        return logits_NV

    def extend(self, rows: Sequence[DecodingRow], logits_RV: Tensor) -> Iterator[tuple[int, DecodingRow]]:
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
                yield number, DecodingRow(tuple(members), row.length, token)

    def _forward(
        self,
        ids_BT: Tensor,
        positions_BT: Tensor,
        end: int,
        cache: RowCache,
        lots: Sequence[tuple[int, int]] = (),
    ) -> Tensor:
        """The last hidden states [B, T, H]. A token attends to the columns up to its position, of `end`.

        lots: how many rows, one lot after the other, need how many columns.
        """
        # Cut off by its place and not by padding: whatever lies behind a row's end has no weight at all.
        hidden_BTS = torch.arange(end, device=self._device) > positions_BT[..., None]
        mask_BTS = torch.zeros(hidden_BTS.shape, dtype=self._model.dtype, device=self._device)
        mask_BTS.masked_fill_(hidden_BTS, torch.finfo(self._model.dtype).min)
        output = self._model.get_decoder()(
            input_ids=ids_BT,
            attention_mask=mask_BTS[:, None],
            position_ids=positions_BT,
            past_key_values=cache,
            use_cache=True,
            # For attention on CPUs (shared/modeling/attention.py); others look at all columns.
            spans=lots,
        )
        hidden_BTH: Tensor = output.last_hidden_state
        return hidden_BTH

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
        # One logit that is not finite makes all probabilities of its row NaN.
        if not math.isfinite(logprob):
            sample.broken = True
            return
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


class Decoding:
    """The samples of one version that are in the making. The model must have its weights in `join` and `step`."""

    def __init__(self, decoder: Decoder, budget: RowBudget):
        self.rows: list[DecodingRow] = []
        self._decoder = decoder
        self._budget = budget
        # Made anew for each version's turn among the busy: how wide an old one is would be in the last bits.
        self._cache = decoder.cache(budget)

    @property
    def samples(self) -> list[Draw]:
        return [sample for row in self.rows for sample in row.samples]

    @torch.inference_mode()
    def join(self, samples: Sequence[Draw]) -> None:
        """Take in samples and draw the first token of each, which may end some."""
        first, new = len(self.rows), _initial_rows(samples)
        places = range(first, first + len(new))
        there = {row.prompt: place for place, row in enumerate(self.rows)}
        self._reserve([*self.rows, *new])
        hidden: dict[int, Tensor] = {}
        for parts in passes([row.prompt for row in new], places, there):
            self._copy(parts)
            for chunk in _chunks(parts):
                states_BH = self._decoder.read(chunk, self._cache)
                hidden |= {part.prompt: states_BH[i] for i, part in enumerate(chunk) if part.prompt is not None}
        logits_RV = self._decoder.logits(torch.stack([hidden[place] for place in range(len(new))]))
        self._settle(first, new, logits_RV)

    @torch.inference_mode()
    def step(self) -> None:
        """Draw one more token of each sample, which may end some."""
        self._reserve(self.rows)
        self._sort()
        logits_RV = self._decoder.step(self.rows, self._cache)
        self._settle(0, [DecodingRow(row.samples, row.length + 1) for row in self.rows], logits_RV)

    @torch.inference_mode()
    def leave(self, unwanted: Callable[[Draw], bool]) -> None:
        """Let go of samples that are not done."""
        kept = [tuple(sample for sample in row.samples if not unwanted(sample)) for row in self.rows]
        left = [(i, DecodingRow(members, self.rows[i].length, self.rows[i].token)) for i, members in enumerate(kept)]
        self._place(0, [(place, row) for place, row in left if row.samples], len(self.rows))

    def close(self) -> None:
        """Nothing is in the making any more; its memory is free for others."""
        self._budget.caches.remove(self._cache)

    def _reserve(self, rows: Sequence[DecodingRow]) -> None:
        """For one more column of each."""
        most = max(sample.columns for row in rows for sample in row.samples)
        self._cache.reserve(len(rows), max(row.length for row in rows) + 1, most)
        self._cache.rows = len(rows)

    def _sort(self) -> None:
        """Rows of like length side by side: one long row would else make all others as long for attention."""
        parents = in_order([width(row.length) for row in self.rows])
        moved = [(parent, place) for place, parent in enumerate(parents) if parent != place]
        if moved:
            longest = max(self.rows[parent].length for parent, _ in moved)
            self._cache.copy([parent for parent, _ in moved], [place for _, place in moved], longest)
            self.rows = [self.rows[parent] for parent in parents]

    def _copy(self, parts: Sequence[PromptPart]) -> None:
        copied = [part for part in parts if part.start and part.source != part.row]
        length = max((part.start for part in copied), default=0)
        self._cache.copy([part.source for part in copied], [part.row for part in copied], length)

    def _settle(self, first: int, rows: Sequence[DecodingRow], logits_RV: Tensor) -> None:
        """Extend `rows`, which lie from `first` on, the last ones."""
        found = [(first + parent, row) for parent, row in self._decoder.extend(rows, logits_RV)]
        if any(sample.broken for row in rows for sample in row.samples):
            self._cache.scrub()
        self._place(first, found, first + len(rows))

    def _place(self, first: int, found: Sequence[tuple[int, DecodingRow]], end: int) -> None:
        """Put rows in place of those from `first` to `end`, the last ones; each comes with its parent's place."""
        rows, parents = settled(found, first, end)
        moved = [(parent, first + i) for i, parent in enumerate(parents) if parent != first + i]
        self.rows[first:] = rows
        if rows:
            self._reserve(self.rows)
        self._cache.rows = len(self.rows)
        longest = max((self.rows[target].length for _, target in moved), default=0)
        self._cache.copy([source for source, _ in moved], [target for _, target in moved], longest)


def _alternatives(row: DecodingRow) -> int:
    return max(sample.request.top_logprobs or 0 for sample in row.samples)


def _initial_rows(samples: Sequence[Draw]) -> list[DecodingRow]:
    """One row for each distinct pair of prompt and settings."""
    alike: dict[tuple[tuple[int, ...], Sampling], list[Draw]] = {}
    for sample in samples:
        alike.setdefault((sample.prompt, sample.sampling), []).append(sample)
    return [DecodingRow(tuple(members), len(prompt)) for (prompt, _), members in alike.items()]


def _chunks(parts: Sequence[PromptPart]) -> Iterator[list[PromptPart]]:
    """Those that have tokens, those of like length together, up to PREFILL_TOKENS with at most PADDING of padding."""
    chunk: list[PromptPart] = []
    tokens = 0
    for part in sorted((part for part in parts if part.ids), key=lambda part: len(part.ids)):
        padded, tokens = (len(chunk) + 1) * len(part.ids), tokens + len(part.ids)
        if chunk and (padded > PREFILL_TOKENS or padded - tokens > PADDING):
            yield chunk
            chunk, tokens = [], len(part.ids)
        chunk.append(part)
    if chunk:
        yield chunk
