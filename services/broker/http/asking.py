"""Asking the peers: one answers, the other gives feedback, the first answers again with what was let through.

What always holds: prompts, verdicts and sanitizing are those of training; each stage is told as soon as it is there.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from services.broker.exchange.judging import judge
from services.broker.http.peers import Peers
from shared.config.settings import RunSettings
from shared.contracts.http import (
    Advised,
    Answered,
    AnsweredAgain,
    AskRequest,
    AskResponse,
    Exchange,
    FeedbackRequest,
    Stage,
)
from shared.contracts.ids import seed_of
from shared.contracts.messages import ChatMessage
from shared.contracts.openai import ChatRequest, ChatResponse, IncomingMessage
from shared.errors import ConfigError, RequestError
from shared.http.sse import Frames, frame
from shared.problems.problem import Problem, ProblemFormat

Stages = AsyncGenerator[Stage, None]
WISHES = {"temperature", "top_p", "max_completion_tokens", "max_tokens", "stop"}
"""Of a chat with the peers: what holds for every answer in it."""


class Asking:
    """The flow, over HTTP to two students. Raises UnavailableError if one is down, ConfigError for an unknown one."""

    def __init__(self, peers: Peers, settings: RunSettings, format_: ProblemFormat) -> None:
        self._peers = peers
        self._settings = settings
        self._format = format_

    async def stages(self, request: AskRequest, wishes: ChatRequest | None = None) -> Stages:
        """The answer, then of each exchange the feedback and, if it was passed on, the revised answer.

        wishes: how answers are sampled and where they stop; else a student's defaults, which are the evaluation's.
        """
        first = self._peers.require(request.first or self._settings.names[0])
        tutor = self._peers.require(request.tutor) if request.tutor else self._peers.best_peer(first)
        if tutor == first:
            raise ConfigError(f"tutor: expected another student than {first}, which answers")
        # Without an answer: nobody here knows it, and nothing is graded.
        problem = Problem(id="asked", domain="", kind="", question=request.problem, answer="")
        chat = await self._chat(first, self._format.messages(problem), wishes, request.seed)
        answer = chat.choices[0].message.content
        yield Answered(student=first, version=chat.model, text=answer, usage=chat.usage)
        for exchange in range(1, (request.exchanges or 1) + 1):
            seed = _seed(request.seed, exchange)
            advised = await self._advised(tutor, first, problem, answer, exchange, seed)
            yield advised
            # Its verdict let nothing through, so the answer stands; the next exchange draws another feedback.
            if advised.delivered is None:
                continue
            messages = self._format.teacher_messages(problem, solution=None, feedback=advised.delivered)
            chat = await self._chat(first, messages, wishes, seed)
            answer = chat.choices[0].message.content
            yield AnsweredAgain(exchange=exchange, student=first, version=chat.model, text=answer, usage=chat.usage)

    async def ask(self, request: AskRequest) -> AskResponse:
        """The whole, once it is there."""
        async with aclosing(self.stages(request)) as stages:
            return whole(request, [stage async for stage in stages])

    async def frames(self, request: AskRequest) -> Frames:
        """An event a stage, named as it, and `done` with the whole."""
        told: list[Stage] = []
        async with aclosing(self.stages(request)) as stages:
            async for stage in stages:
                told.append(stage)
                yield frame(stage, event=stage.stage)
        yield frame(whole(request, told), event="done")

    async def _advised(
        self, tutor: str, tutee: str, problem: Problem, answer: str, exchange: int, seed: int | None
    ) -> Advised:
        domain = self._settings.students[tutee].domain
        request = FeedbackRequest(problem=problem.question, response=answer, seed=seed, agent_domain=domain)
        told = await self._peers.feedback(tutor, request)
        judged = judge(told.raw, problem, self._format)
        return Advised(
            exchange=exchange,
            student=tutor,
            version=told.version,
            raw=told.raw,
            concept=told.concept,
            verdict=judged.verdict,
            delivered=judged.delivered,
            usage=told.usage,
        )

    async def _chat(
        self, student: str, messages: Sequence[ChatMessage], wishes: ChatRequest | None, seed: int | None
    ) -> ChatResponse:
        request = ChatRequest(
            model=student,
            messages=tuple(IncomingMessage(role=each.role, content=each.content) for each in messages),
            seed=seed,
            **({} if wishes is None else wishes.model_dump(include=WISHES)),
        )
        try:
            return await self._peers.chat(student, request)
        except RequestError as error:
            if wishes is None and error.param == "messages":  # which whoever asks has as `problem`
                raise RequestError(str(error), status=error.status, code=error.code, param="problem") from error
            raise


def whole(request: AskRequest, stages: Sequence[Stage]) -> AskResponse:
    """All stages of a question as one answer."""
    answer = stages[0]
    assert isinstance(answer, Answered)
    revised = {stage.exchange: stage for stage in stages if isinstance(stage, AnsweredAgain)}
    advised = [stage for stage in stages if isinstance(stage, Advised)]
    final = max(revised.values(), key=lambda stage: stage.exchange).text if revised else answer.text
    return AskResponse(
        problem=request.problem,
        answer=answer,
        exchanges=tuple(Exchange(feedback=each, revised=revised.get(each.exchange)) for each in advised),
        final=final,
    )


def _seed(seed: int | None, exchange: int) -> int | None:
    """Another draw each exchange: with the same one a feedback that was not passed on would come again."""
    return seed if seed is None or exchange == 1 else seed_of(seed, exchange)
