"""A student's HTTP side in a thread: answers chats and feedback with fixed words, and notes what it was asked."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from shared.contracts.http import ChatRequest, ChatResponse, Choice, FeedbackRequest, FeedbackResponse, Usage
from shared.contracts.messages import ChatMessage
from tests.fakes.serving import serving_app


@dataclass
class StudentServer:
    """status: set it to refuse everything with it; location: where it sends callers then. feedback: what it says."""

    name: str
    url: str = ""
    status: int = 200
    location: str = ""
    answer: str = " u = 9 * 2 = 18"
    feedback: str = "<concept>voltage</concept> Multiply the current with the resistance."
    chats: list[ChatRequest] = field(default_factory=list)
    asked: list[FeedbackRequest] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)

    def reset(self) -> None:
        """As new, at the same address."""
        fresh = vars(StudentServer(self.name, self.url))
        vars(self).update(fresh)

    def _refusal(self) -> JSONResponse:
        headers = {"Location": self.location} if self.location else {}
        return JSONResponse({"error": "told to refuse"}, status_code=self.status, headers=headers)

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/v1/chat/completions", response_model=None)
        def chat(request: Request, body: ChatRequest) -> ChatResponse | JSONResponse:
            self.keys.append(request.headers.get("authorization"))
            if self.status != 200:
                return self._refusal()
            self.chats.append(body)
            message = ChatMessage(role="assistant", content=self.answer)
            choice = Choice(index=0, message=message, finish_reason="stop")
            usage = Usage(prompt_tokens=1, completion_tokens=1, total_tokens=2)
            return ChatResponse(id="c", created=0, model=f"{self.name}@v7", choices=(choice,), usage=usage)

        @app.post("/v1/feedback", response_model=None)
        def feedback(body: FeedbackRequest) -> FeedbackResponse | JSONResponse:
            if self.status != 200:
                return self._refusal()
            self.asked.append(body)
            return FeedbackResponse(raw=self.feedback, concept="voltage", version=f"{self.name}@v7")

        return app


@contextmanager
def serving(name: str) -> Iterator[StudentServer]:
    """The server, listening on a free port."""
    student = StudentServer(name)
    with serving_app(student.app()) as student.url:
        yield student
