"""Between OpenAI's completions and the engine: prompts as they are given, and tokens with their log-probs. Pure."""

import codecs
import math
from collections.abc import Sequence

from services.student.engines.port import Generation, GenerationRequest, TokenDetail
from services.student.http.chat import Answering
from shared.contracts.completions import CompletionChoice, CompletionLogprobs, CompletionRequest, CompletionResponse
from shared.contracts.ids import seed_of
from shared.contracts.messages import Sampling
from shared.contracts.openai import usage_of


def completion_requests(
    body: CompletionRequest, version: str, sampling: Sampling, seed: int
) -> list[GenerationRequest]:
    """By prompt, then by choice; choice j of prompt i is drawn with seed_of(seed, i, j)."""
    return [
        GenerationRequest(
            version,
            (),
            sampling,
            seed_of(seed, number, choice),
            body.stops,
            top_logprobs=body.logprobs,
            fills_context=body.max_tokens is None,
            prompt=prompt,
            echo=bool(body.echo),
        )
        for number, prompt in enumerate(body.prompts)
        for choice in range(body.choices)
    ]


def completion_response(
    answering: Answering, body: CompletionRequest, generations: Sequence[Generation]
) -> CompletionResponse:
    # A prompt counts once, however many answers it got.
    prompt_tokens = sum(len(each.prompt_token_ids) for each in generations[:: body.choices])
    drawn_tokens = 0 if body.max_tokens == 0 else sum(len(each.token_ids) for each in generations)
    return CompletionResponse(
        id=answering.id,
        created=answering.created,
        model=answering.version,
        choices=tuple(_choice(index, body, each) for index, each in enumerate(generations)),
        usage=usage_of(prompt_tokens, drawn_tokens),
        system_fingerprint=answering.checksum,
    )


def _choice(index: int, body: CompletionRequest, generation: Generation) -> CompletionChoice:
    nothing = body.max_tokens == 0
    details = (*generation.prompt_details, *(() if nothing else generation.details))
    prompt = b"".join(detail.drawn.data for detail in generation.prompt_details).decode(errors="replace")
    return CompletionChoice(
        index=index,
        text=prompt + ("" if nothing else generation.text),
        logprobs=None if body.logprobs is None else _logprobs(details),
        finish_reason="length" if nothing else generation.finish_reason,
    )


def _logprobs(details: Sequence[TokenDetail]) -> CompletionLogprobs:
    first = [math.isnan(detail.drawn.logprob) for detail in details]
    return CompletionLogprobs(
        tokens=tuple(_text(detail.drawn.data) for detail in details),
        token_logprobs=tuple(
            None if alone else detail.drawn.logprob for alone, detail in zip(first, details, strict=True)
        ),
        top_logprobs=tuple(None if alone else _top(detail) for alone, detail in zip(first, details, strict=True)),
        text_offset=tuple(_offsets(details)),
    )


def _top(detail: TokenDetail) -> dict[str, float]:
    """The best first; of tokens whose texts are alike, the likelier one."""
    found: dict[str, float] = {}
    for choice in (*detail.top, detail.drawn):
        found.setdefault(_text(choice.data), choice.logprob)
    return found


def _offsets(details: Sequence[TokenDetail]) -> list[int]:
    """A token that begins within a character begins where that does."""
    decoder, offsets, length = codecs.getincrementaldecoder("utf-8")("replace"), [], 0
    for detail in details:
        offsets.append(length)
        length += len(decoder.decode(detail.drawn.data))
    return offsets


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
