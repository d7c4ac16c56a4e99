"""OpenAI's chat and models on the broker: a student's chat is passed through, `peers` runs the ask flow."""

from fastapi import APIRouter, Request, Response

from services.broker.http.peers import Peers
from services.broker.peers_chat import CARD, PEERS, PeersChat
from shared.contracts.openai import ChatRequest, ChatResponse, ModelCard, ModelList
from shared.errors import ConfigError, RequestError
from shared.http.app import ASK, READ
from shared.http.bodies import OpenAIRoute
from shared.http.sse import EVENTS, open_stream, unless_gone


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

    @router.get("/models", dependencies=READ)
    async def models() -> ModelList:
        return ModelList(data=(*(await peers.models()).data, CARD))

    @router.get("/models/{model}", dependencies=READ)
    async def show_model(model: str) -> ModelCard:
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
        raise _unknown(f"{error}; or {PEERS!r}, for both") from error


def _unknown(message: str) -> RequestError:
    return RequestError(message, status=404, code="model_not_found", param="model")
