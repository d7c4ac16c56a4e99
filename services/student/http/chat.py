"""Between OpenAI's chat and the engine: what a request asks of it, what its generations are as an answer. Pure."""

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from services.student.engines.port import Generation, GenerationRequest, Piece, TokenChoice, TokenDetail
from services.student.http.interactive import Heard
from shared.contracts.completions import CompletionRequest
from shared.contracts.ids import seed_of
from shared.contracts.messages import ChatMessage, Sampling
from shared.contracts.openai import (
    ChatChunk,
    ChatRequest,
    ChatResponse,
    Choice,
    ChoiceLogprobs,
    ChunkChoice,
    Delta,
    ResponseFormat,
    TokenLogprob,
    TopLogprob,
    Usage,
    usage_of,
)
from shared.errors import RequestError
from shared.http.sse import DONE, Frames, frame
from shared.method.sanitizing import neutralise_control_tokens

ANY_OBJECT = {"type": "object"}
TOO_LONG = "context_length_exceeded"


@dataclass(frozen=True)
class Answering:
    """Who answers: what stands at the head of an answer, and of each of its chunks."""

    id: str
    created: int
    version: str
    checksum: str | None


def generation_requests(body: ChatRequest, version: str, sampling: Sampling, seed: int) -> list[GenerationRequest]:
    """One request a choice; choice j is drawn with seed_of(seed, 0, j). Text never becomes a control token."""
    # Neutralised after the parts of a message are joined: a token may be spread over two of them.
    turns = [message.turn() for message in body.messages]
    messages = tuple(turn.model_copy(update={"content": neutralise_control_tokens(turn.content)}) for turn in turns)
    schema = _schema(body.response_format)
    return [
        GenerationRequest(
            version,
            messages,
            sampling,
            seed_of(seed, 0, choice),
            body.stops,
            top_logprobs=body.alternatives,
            json_schema=schema,
            fills_context=body.token_limit is None,
        )
        for choice in range(body.choices)
    ]


def chosen_sampling(body: ChatRequest | CompletionRequest, default: Sampling, context: int | None) -> Sampling:
    """The caller's, `default` where it says nothing. Raises RequestError for more tokens than the model's context."""
    wanted = body.token_limit
    if wanted is not None and context is not None and wanted > context:
        param = body.limit_name
        message = f"{param}: expected at most {context}, the model's context with the prompt in it, got {wanted}"
        raise RequestError(message, code=TOO_LONG, param=param)
    return Sampling(
        temperature=default.temperature if body.temperature is None else body.temperature,
        top_p=body.nucleus or default.top_p,
        max_tokens=wanted or default.max_tokens,
    )


def response(answering: Answering, generations: Sequence[Generation], *, logprobs: bool) -> ChatResponse:
    return ChatResponse(
        id=answering.id,
        created=answering.created,
        model=answering.version,
        choices=tuple(
            Choice(
                index=index,
                message=ChatMessage(role="assistant", content=generation.text),
                finish_reason=generation.finish_reason,
                logprobs=_logprobs(generation.details) if logprobs else None,
            )
            for index, generation in enumerate(generations)
        ),
        usage=usage(generations),
        system_fingerprint=answering.checksum,
    )


async def chunk_frames(heard: AsyncIterator[Heard], answering: Answering, body: ChatRequest) -> Frames:
    """The chunks of a streamed answer, as OpenAI orders them: roles, contents, reasons to end, usage, [DONE]."""
    first = await anext(heard)  # before anything is sent, so that an error is not yet the middle of a stream
    for index in range(body.choices):
        yield _frame(answering, ChunkChoice(index=index, delta=Delta(role="assistant", content="")))
    # The final list of generations is the one item that is no tuple.
    item = first
    while isinstance(item, tuple):
        yield _frame(answering, _content(*item, logprobs=bool(body.logprobs)))
        item = await anext(heard)
    for index, generation in enumerate(item):
        yield _frame(answering, ChunkChoice(index=index, delta=Delta(), finish_reason=generation.finish_reason))
    if body.wants_usage:
        yield _frame(answering, usage=usage(item))
    yield DONE


def usage(generations: Sequence[Generation]) -> Usage:
    """The prompt counts once, however many answers it got."""
    return usage_of(len(generations[0].prompt_token_ids), sum(len(each.token_ids) for each in generations))


def _schema(wanted: ResponseFormat | None) -> str | None:
    if wanted is None or wanted.type == "text":
        return None
    return json.dumps((wanted.json_schema.schema_ or {}) if wanted.json_schema else ANY_OBJECT)


def _content(sample: int, piece: Piece, *, logprobs: bool) -> ChunkChoice:
    told = _logprobs(piece.details) if logprobs else None
    return ChunkChoice(index=sample, delta=Delta(content=piece.text), logprobs=told)


def _frame(answering: Answering, *choices: ChunkChoice, usage: Usage | None = None) -> bytes:
    return frame(
        ChatChunk(
            id=answering.id,
            created=answering.created,
            model=answering.version,
            choices=choices,
            usage=usage,
            system_fingerprint=answering.checksum,
        )
    )


def _logprobs(details: Sequence[TokenDetail]) -> ChoiceLogprobs:
    return ChoiceLogprobs(
        content=tuple(
            TokenLogprob(**_token(detail.drawn), top_logprobs=tuple(TopLogprob(**_token(each)) for each in detail.top))
            for detail in details
        )
    )


def _token(choice: TokenChoice) -> dict[str, object]:
    return {
        "token": choice.data.decode(errors="replace"),
        "logprob": choice.logprob,
        "bytes": tuple(choice.data),
    }
