"""HTTP of a student: chat in OpenAI's shape, the models there are, and feedback on an answer.

What always holds: a request is bound to one exact version before it waits, and the answer names it; text of a
caller never becomes a chat control token.
"""

import secrets
import uuid

from fastapi import APIRouter, HTTPException

from services.student.board import Board
from services.student.config import StudentConfig
from services.student.engines.port import Generation, GenerationRequest, PromptTooLongError, UnknownVersionError
from services.student.interactive import InteractiveQueue
from shared.clock import Clock
from shared.contracts.http import (
    ChatRequest,
    ChatResponse,
    Choice,
    ChoiceLogprobs,
    FeedbackRequest,
    FeedbackResponse,
    ModelCard,
    ModelList,
    TokenLogprob,
    Usage,
)
from shared.contracts.ids import seed_of
from shared.contracts.messages import ChatMessage, Sampling
from shared.errors import UnavailableError
from shared.http import ASK, READ
from shared.method.anchoring import concept
from shared.method.sanitizing import neutralise_control_tokens
from shared.problems.formats import format_named
from shared.problems.problem import Problem

MAX_STOPS = 4


class StudentApi:
    """What the routes do; called from HTTP threads."""

    def __init__(self, config: StudentConfig, board: Board, interactive: InteractiveQueue, clock: Clock) -> None:
        self._config = config
        self._board = board
        self._interactive = interactive
        self._clock = clock

    def chat(self, body: ChatRequest) -> ChatResponse:
        version = self._version(body.model)
        messages = [ChatMessage(role=m.role, content=neutralise_control_tokens(m.content)) for m in body.messages]
        generations = self._ask(
            version, messages, self._sampling(body), seed=body.seed, n=body.n, stop=_stops(body.stop)
        )
        return ChatResponse(
            id=f"chatcmpl-{uuid.uuid4().hex}",
            created=int(self._clock.wall_s()),
            model=version,
            choices=tuple(_choice(i, generation, body.logprobs) for i, generation in enumerate(generations)),
            usage=_usage(generations),
        )

    def feedback(self, body: FeedbackRequest) -> FeedbackResponse:
        version = self._version(self._config.student)
        peer, agent = body.peer_domain or self._config.domain, body.agent_domain or self._config.peer_domain
        problem = Problem(
            id="asked", domain=agent, kind="asked", question=neutralise_control_tokens(body.problem), answer=""
        )
        settings = self._config.settings
        messages = format_named(settings.problems.format, settings.feedback.prompt).feedback_messages(
            problem, neutralise_control_tokens(body.response), peer_domain=peer, agent_domain=agent
        )
        raw = self._ask(version, messages, self._config.feedback_sampling, seed=body.seed)[0].text
        return FeedbackResponse(raw=raw, concept=concept(raw), version=version)

    def models(self) -> ModelList:
        """The student's name, which the live version answers to, then every version that is loaded."""
        serving = self._board.serving
        live = [ModelCard(id=self._config.student, checksum=serving.versions[serving.live])] if serving.live else []
        loaded = [ModelCard(id=version, checksum=checksum) for version, checksum in serving.versions.items()]
        return ModelList(data=(*live, *loaded))

    def _version(self, model: str) -> str:
        serving = self._board.serving
        if serving.live is None:
            raise UnavailableError(f"student {self._config.student} is not ready: {self._board.not_ready()}")
        if model == self._config.student:
            return serving.live
        if model not in serving.versions:
            raise HTTPException(404, self._no_model(model))
        return model

    def _no_model(self, model: str) -> str:
        known = ", ".join((self._config.student, *self._board.serving.versions))
        return f"expected a model of {known}, got {model!r}"

    def _sampling(self, body: ChatRequest) -> Sampling:
        default, limit = self._config.chat_sampling, self._config.max_tokens
        if body.max_tokens is not None and body.max_tokens > limit:
            raise HTTPException(422, f"max_tokens: at most {limit} in this run, got {body.max_tokens}")
        return Sampling(
            temperature=default.temperature if body.temperature is None else body.temperature,
            top_p=body.top_p or default.top_p,
            max_tokens=body.max_tokens or default.max_tokens,
        )

    def _ask(
        self,
        version: str,
        messages: list[ChatMessage],
        sampling: Sampling,
        *,
        seed: int | None,
        n: int = 1,
        stop: tuple[str, ...] = (),
    ) -> list[Generation]:
        drawn = secrets.randbits(62) if seed is None else seed
        requests = [GenerationRequest(version, tuple(messages), sampling, seed_of(drawn, 0, j), stop) for j in range(n)]
        try:
            timeout_s = self._config.settings.serving.request_timeout_s
            return self._interactive.ask(version, requests, timeout_s=timeout_s)
        except UnknownVersionError as error:
            raise HTTPException(404, self._no_model(version)) from error
        except PromptTooLongError as error:
            raise HTTPException(400, str(error)) from error


def student_routes(api: StudentApi) -> APIRouter:
    router = APIRouter(prefix="/v1")
    router.add_api_route("/chat/completions", api.chat, methods=["POST"], dependencies=ASK)
    router.add_api_route("/feedback", api.feedback, methods=["POST"], dependencies=ASK)
    router.add_api_route("/models", api.models, methods=["GET"], dependencies=READ)
    return router


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > MAX_STOPS or not all(stops):
        raise HTTPException(422, f"stop: at most {MAX_STOPS} strings, none of them empty, got {list(stops)}")
    return stops


def _choice(index: int, generation: Generation, logprobs: bool) -> Choice:
    return Choice(
        index=index,
        message=ChatMessage(role="assistant", content=generation.text),
        finish_reason=generation.finish_reason,
        logprobs=_logprobs(generation) if logprobs else None,
    )


def _logprobs(generation: Generation) -> ChoiceLogprobs:
    """Tokens by id (`token_id:123`): a token need not be whole characters, so its text could not be told."""
    pairs = zip(generation.token_ids, generation.logprobs, strict=True)
    return ChoiceLogprobs(content=tuple(TokenLogprob(token=f"token_id:{i}", logprob=p) for i, p in pairs))


def _usage(generations: list[Generation]) -> Usage:
    """The prompt counts once, however many answers it got."""
    prompt = len(generations[0].prompt_token_ids)
    completion = sum(len(generation.token_ids) for generation in generations)
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)
