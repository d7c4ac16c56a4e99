"""OpenAI's chat, completions and models on the broker.

A chat with a student, or a completion by one, is passed through. A chat with the model `peers` runs the ask flow: its
stages are one answer, or a chunk each as they come.

What always holds: a field that the flow could not follow is refused by its name, never left unread.
"""

from collections.abc import Sequence
from contextlib import aclosing

from fastapi import APIRouter, Request, Response

from services.broker.http.asking import Asking
from services.broker.http.peers import Peers
from shared.clock import SystemClock
from shared.contracts.completions import CompletionRequest, CompletionResponse
from shared.contracts.http import Advised, AskRequest, Stage
from shared.contracts.messages import ChatMessage
from shared.contracts.openai import (
    ChatChunk,
    ChatRequest,
    ChatResponse,
    Choice,
    ChunkChoice,
    Delta,
    ModelCard,
    ModelList,
    Usage,
    usage_of,
)
from shared.errors import ConfigError, RequestError
from shared.http.app import ASK, READ, OpenAIRoute
from shared.http.guard import request_id
from shared.http.sse import DONE, EVENTS, Frames, frame, open_stream, unless_gone

PEERS = "peers"
CARD = ModelCard(id=PEERS)


class PeersChat:
    """Answers chats whose model is `peers`."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    async def answer(self, body: ChatRequest) -> ChatResponse:
        async with aclosing(self._asking.stages(_question(body), body)) as stages:
            told = [stage async for stage in stages]
        text = "".join(_text(stage) for stage in told)
        choice = Choice(index=0, message=ChatMessage(role="assistant", content=text), finish_reason="stop")
        return ChatResponse(id=_id(), created=_now(), model=PEERS, choices=(choice,), usage=_usage(told))

    async def frames(self, body: ChatRequest) -> Frames:
        """A chunk a stage."""
        id_, created = _id(), _now()

        def chunk(delta: Delta, reason: str | None = None) -> bytes:
            choice = ChunkChoice(index=0, delta=delta, finish_reason="stop" if reason else None)
            return frame(ChatChunk(id=id_, created=created, model=PEERS, choices=(choice,)))

        told: list[Stage] = []
        async with aclosing(self._asking.stages(_question(body), body)) as stages:
            async for stage in stages:
                # As OpenAI's: the role stands in the first chunk alone.
                role = None if told else "assistant"
                told.append(stage)
                yield chunk(Delta(role=role, content=_text(stage)))
        yield chunk(Delta(), "stop")
        if body.wants_usage:
            yield frame(ChatChunk(id=id_, created=created, model=PEERS, choices=(), usage=_usage(told)))
        yield DONE


def _question(body: ChatRequest) -> AskRequest:
    """Raises RequestError for a conversation: the flow knows one problem, put as in training."""
    unfit = {
        "messages": len(body.messages) != 1 or body.messages[0].role != "user" or not body.messages[0].text.strip(),
        "n": body.choices != 1,
        "logprobs": bool(body.logprobs),
        "response_format": body.response_format is not None and body.response_format.type != "text",
    }
    expected = {"messages": "one message, the user's problem", "n": "1"}
    for param, refused in unfit.items():
        if refused:
            raise RequestError(
                f"{param}: the model {PEERS!r} takes {expected.get(param, 'none')}; ask a student for more",
                code="unsupported_value",
                param=param,
            )
    return AskRequest(problem=body.messages[0].text, seed=body.seed)


def _text(stage: Stage) -> str:
    """A stage as a person reads it, in Markdown."""
    said = stage.raw if isinstance(stage, Advised) else stage.text
    break_ = "" if stage.stage == "answer" else "\n\n"
    return f"{break_}**{stage.heading}:**\n\n{said.strip() or '(nothing)'}"


def _usage(stages: Sequence[Stage]) -> Usage:
    return usage_of(
        sum(stage.usage.prompt_tokens for stage in stages), sum(stage.usage.completion_tokens for stage in stages)
    )


def _id() -> str:
    return f"chatcmpl-{request_id()}"


def _now() -> int:
    return int(SystemClock().wall_s())


def openai_routes(peers: Peers, peers_chat: PeersChat) -> APIRouter:
    router = APIRouter(prefix="/v1", route_class=OpenAIRoute)

    @router.post("/chat/completions", response_model=ChatResponse, dependencies=ASK, responses=EVENTS)
    async def chat(body: ChatRequest, request: Request) -> ChatResponse | Response:
        if body.model == PEERS:
            if body.stream:
                return await open_stream(request, peers_chat.frames(body))
            return await unless_gone(request, peers_chat.answer(body))
        student = _student(peers, body.model)
        if body.stream:
            return await open_stream(request, peers.stream(student, body))
        return await unless_gone(request, peers.chat(student, body))

    @router.post("/completions", dependencies=ASK)
    async def complete(body: CompletionRequest, request: Request) -> CompletionResponse:
        if body.model == PEERS:
            raise RequestError(
                f"model: expected a student or one of its versions, got {PEERS!r}, which answers chats alone",
                code="unsupported_value",
                param="model",
            )
        return await unless_gone(request, peers.complete(_student(peers, body.model), body))

    @router.get("/models", dependencies=READ)
    async def models() -> ModelList:
        return ModelList(data=(*(await peers.models()).data, CARD))

    @router.get("/models/{model}", dependencies=READ)
    async def show_model(model: str) -> ModelCard:
        # By the list that people see, so that no model is shown there and refused here.
        known = {card.id: card for card in (await models()).data}
        if model not in known:
            raise _unknown(f"expected a model of {', '.join(known)}, got {model!r}")
        return known[model]

    return router


def _student(peers: Peers, model: str) -> str:
    """The student that a model's name begins with."""
    try:
        return peers.require(model.partition("@")[0])
    except ConfigError as error:
        raise _unknown(f"{error}; or {PEERS!r}, for one and its tutor") from error


def _unknown(message: str) -> RequestError:
    return RequestError(message, status=404, code="model_not_found", param="model")
