"""HTTP of a student: OpenAI's chat, completions and models, and feedback on an answer.

What always holds: a request is bound to one exact version before it waits, and the answer names it; text of a
caller never becomes a chat control token; when a caller goes away, its generation ends.
"""

import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar

from fastapi import APIRouter, Request, Response

from services.student.board import Board
from services.student.config import StudentConfig
from services.student.engines.port import (
    Generation,
    GenerationRequest,
    PromptTooLongError,
    RefusedError,
    UnknownVersionError,
)
from services.student.http.chat import (
    TOO_LONG,
    Answering,
    chosen_sampling,
    chunk_frames,
    generation_requests,
    response,
    usage,
)
from services.student.http.completions import completion_requests, completion_response
from services.student.http.interactive import InteractiveQueue
from shared.clock import Clock
from shared.contracts.completions import CompletionRequest, CompletionResponse
from shared.contracts.http import FeedbackRequest, FeedbackResponse
from shared.contracts.ids import seed_of
from shared.contracts.openai import ChatRequest, ChatResponse, ModelCard, ModelList
from shared.errors import OpcodError, PromptError, RequestError, UnavailableError
from shared.http.app import ASK, READ, JsonRoute, OpenAIRoute
from shared.http.guard import request_id
from shared.http.sse import EVENTS, Frames, open_stream, unless_gone
from shared.method.anchoring import concept
from shared.method.sanitizing import neutralise_control_tokens
from shared.problems.formats import format_named
from shared.problems.problem import Problem

NO_MODEL = "model_not_found"
NOT_AS_ASKED = (UnknownVersionError, PromptTooLongError, PromptError, RefusedError)
"""Of what an engine raises: the request is at fault."""

SWAPS = 3
"""How often in a row the live version may go away under one request."""

Answer = TypeVar("Answer")


class StudentApi:
    """What the routes do, on the event loop."""

    def __init__(self, config: StudentConfig, board: Board, interactive: InteractiveQueue, clock: Clock) -> None:
        self._config = config
        self._board = board
        self._interactive = interactive
        self._clock = clock
        self._timeout_s = config.settings.serving.request_timeout_s

    async def chat(self, body: ChatRequest, request: Request) -> ChatResponse | Response:
        return await self._with_version(body.model, lambda version: self._chat(body, request, version))

    async def _chat(self, body: ChatRequest, request: Request, version: str) -> ChatResponse | Response:
        self._require_guidance(body)
        sampling = chosen_sampling(body, self._config.chat_sampling, self._board.context)
        requests = generation_requests(body, version, sampling, _drawn(body.seed))
        # Read before the wait: by the time of the answer the version may have been unloaded.
        checksum = self._board.serving.versions.get(version)
        answering = Answering(f"chatcmpl-{request_id()}", int(self._clock.wall_s()), version, checksum)
        if body.stream:
            return await open_stream(request, self._streamed(answering, body, requests))
        generations = await unless_gone(request, self._ask(version, requests, "messages"))
        return response(answering, generations, logprobs=bool(body.logprobs))

    async def complete(self, body: CompletionRequest, request: Request) -> CompletionResponse:
        return await self._with_version(body.model, lambda version: self._complete(body, request, version))

    async def _complete(self, body: CompletionRequest, request: Request, version: str) -> CompletionResponse:
        sampling = chosen_sampling(body, self._config.chat_sampling, self._board.context)
        requests = completion_requests(body, version, sampling, _drawn(body.seed))
        checksum = self._board.serving.versions.get(version)
        answering = Answering(f"cmpl-{request_id()}", int(self._clock.wall_s()), version, checksum)
        generations = await unless_gone(request, self._ask(version, requests, "prompt"))
        return completion_response(answering, body, generations)

    async def feedback(self, body: FeedbackRequest, request: Request) -> FeedbackResponse:
        return await self._with_version(self._config.student, lambda version: self._feedback(body, request, version))

    async def _feedback(self, body: FeedbackRequest, request: Request, version: str) -> FeedbackResponse:
        peer, agent = body.peer_domain or self._config.domain, body.agent_domain or self._config.peer_domain
        problem = Problem(
            id="asked", domain=agent, kind="asked", question=neutralise_control_tokens(body.problem), answer=""
        )
        settings = self._config.settings
        messages = format_named(settings.problems.format, settings.feedback.prompt).feedback_messages(
            problem, neutralise_control_tokens(body.response), peer_domain=peer, agent_domain=agent
        )
        seed = seed_of(_drawn(body.seed), 0, 0)
        sampling = self._config.feedback_sampling
        asked = GenerationRequest(version, tuple(messages), sampling, seed, fills_context=True)
        (generation,) = await unless_gone(request, self._ask(version, [asked], None))
        raw = generation.judged
        return FeedbackResponse(raw=raw, concept=concept(raw), version=version, usage=usage([generation]))

    def models(self) -> ModelList:
        """The student's name, which the live version answers to, then every version that is loaded."""
        serving = self._board.serving
        live = [ModelCard(id=self._config.student, checksum=serving.versions[serving.live])] if serving.live else []
        loaded = [ModelCard(id=version, checksum=checksum) for version, checksum in serving.versions.items()]
        return ModelList(data=(*live, *loaded))

    def model(self, model: str) -> ModelCard:
        return ModelCard(id=model, checksum=self._board.serving.versions[self._version(model)])

    async def _streamed(self, answering: Answering, body: ChatRequest, requests: Sequence[GenerationRequest]) -> Frames:
        heard = self._interactive.stream(answering.version, requests, timeout_s=self._timeout_s)
        async with aclosing(heard):
            try:
                async for frame in chunk_frames(heard, answering, body):
                    yield frame
            except NOT_AS_ASKED as error:
                raise self._refusal(requests[0], error, "messages") from error

    async def _ask(self, version: str, requests: Sequence[GenerationRequest], prompt: str | None) -> list[Generation]:
        """prompt: the field that the prompt is made of, if it is one."""
        try:
            return await self._interactive.ask(version, requests, timeout_s=self._timeout_s)
        except NOT_AS_ASKED as error:
            raise self._refusal(requests[0], error, prompt) from error

    def _refusal(self, asked: GenerationRequest, error: OpcodError, prompt: str | None) -> OpcodError:
        if isinstance(error, UnknownVersionError):
            return self._no_model(asked.version)
        if isinstance(error, RefusedError):  # of what a caller says, only these two reach an engine unchecked
            if asked.echo:
                return RequestError(str(error), code="unsupported_value", param="echo")
            of_schema = RequestError(str(error), code="invalid_value", param="response_format")
            return error if asked.json_schema is None else of_schema
        return RequestError(str(error), code=TOO_LONG if isinstance(error, PromptTooLongError) else None, param=prompt)

    def _require_guidance(self, body: ChatRequest) -> None:
        wanted = body.response_format
        if wanted is not None and wanted.type != "text" and not self._board.guides:
            raise RequestError(
                f"response_format: the engine of student {self._config.student} cannot keep to a schema, so only "
                f"'text' is served, got {wanted.type!r}; say in the messages what the answer must look like",
                code="unsupported_value",
                param="response_format",
            )

    async def _with_version(self, model: str, answer: Callable[[str], Awaitable[Answer]]) -> Answer:
        """`answer` by the version that `model` stands for; a swap between reading its name and waiting for it takes
        the live version away, and then the one that is live now answers."""
        # Only the student's own name may be tried again: who names a version wants that one.
        for _ in range(SWAPS):
            try:
                return await answer(self._version(model))
            except RequestError as error:
                if model != self._config.student or error.code != NO_MODEL:
                    raise
        return await answer(self._version(model))

    def _version(self, model: str) -> str:
        serving = self._board.serving
        if serving.live is None:
            raise UnavailableError(f"student {self._config.student} is not ready: {self._board.not_ready()}")
        if model == self._config.student:
            return serving.live
        if model not in serving.versions:
            raise self._no_model(model)
        return model

    def _no_model(self, model: str) -> RequestError:
        known = ", ".join((self._config.student, *self._board.serving.versions))
        message = f"expected a model of {known}, got {model!r}"
        return RequestError(message, status=404, code=NO_MODEL, param="model")


def student_routes(api: StudentApi) -> APIRouter:
    router = APIRouter(prefix="/v1", route_class=JsonRoute)
    openai = APIRouter(route_class=OpenAIRoute)
    openai.add_api_route(
        "/chat/completions",
        api.chat,
        methods=["POST"],
        dependencies=ASK,
        response_model=ChatResponse,
        responses=EVENTS,
    )
    openai.add_api_route("/completions", api.complete, methods=["POST"], dependencies=ASK)
    openai.add_api_route("/models", api.models, methods=["GET"], dependencies=READ)
    openai.add_api_route("/models/{model}", api.model, methods=["GET"], dependencies=READ)
    router.include_router(openai)
    router.add_api_route("/feedback", api.feedback, methods=["POST"], dependencies=ASK)
    return router


def _drawn(seed: int | None) -> int:
    return secrets.randbits(62) if seed is None else seed
