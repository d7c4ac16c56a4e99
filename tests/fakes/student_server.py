"""A student's HTTP side in a thread: answers chats and feedback with fixed words, and notes what it was asked."""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from shared.contracts.http import FeedbackRequest, FeedbackResponse
from shared.contracts.messages import ChatMessage
from shared.contracts.openai import ChatRequest, ChatResponse, Choice, Usage
from tests.fakes.listening import listening

USAGE = Usage(prompt_tokens=1, completion_tokens=1, total_tokens=2)


@dataclass
class StudentServer:
    """status: set it to refuse everything with it; location: where it sends callers then, error: what it says then.
    feedback: what it says.

    answers: what it says first, before it says `answer`. holds: it answers no chat; `asking` is set when it is asked,
    `left` when the caller is gone.
    """

    name: str
    url: str = ""
    status: int = 200
    location: str = ""
    error: Mapping[str, str | None] | None = None
    answer: str = " u = 9 * 2 = 18"
    answers: list[str] = field(default_factory=list)
    holds: bool = False
    asking: threading.Event = field(default_factory=threading.Event)
    left: threading.Event = field(default_factory=threading.Event)
    feedback: str = "<concept>voltage</concept> Multiply the current with the resistance."
    chats: list[ChatRequest] = field(default_factory=list)
    asked: list[FeedbackRequest] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)

    def reset(self) -> None:
        """As new, at the same address."""
        fresh = vars(StudentServer(self.name, self.url))
        vars(self).update(fresh)

    async def _hold(self, request: Request) -> None:
        self.asking.set()
        while not await request.is_disconnected():
            await asyncio.sleep(0.01)
        self.left.set()

    def _refusal(self) -> JSONResponse:
        headers = {"Location": self.location} if self.location else {}
        return JSONResponse({"error": self.error or "told to refuse"}, status_code=self.status, headers=headers)

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/v1/chat/completions", response_model=None)
        async def chat(request: Request, body: ChatRequest) -> ChatResponse | JSONResponse:
            self.keys.append(request.headers.get("authorization"))
            if self.holds:
                await self._hold(request)
            if self.status != 200:
                return self._refusal()
            self.chats.append(body)
            message = ChatMessage(role="assistant", content=self.answers.pop(0) if self.answers else self.answer)
            choice = Choice(index=0, message=message, finish_reason="stop")
            return ChatResponse(id="c", created=0, model=f"{self.name}@v7", choices=(choice,), usage=USAGE)

        @app.post("/v1/feedback", response_model=None)
        def feedback(body: FeedbackRequest) -> FeedbackResponse | JSONResponse:
            if self.status != 200:
                return self._refusal()
            self.asked.append(body)
            return FeedbackResponse(raw=self.feedback, concept="voltage", version=f"{self.name}@v7", usage=USAGE)

        return app


@contextmanager
def serving(name: str) -> Iterator[StudentServer]:
    """The server, listening on a free port."""
    student = StudentServer(name)
    with listening(student.app()) as student.url:
        yield student
