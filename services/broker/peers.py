"""The students as the outside world sees them, and talking to them over HTTP.

Addresses come from the students' own heartbeats on the run's Redis, never from a client.
"""

from collections.abc import Callable
from typing import TypeVar

import httpx2
import stamina
from pydantic import BaseModel, ValidationError

from shared.bus.port import Bus
from shared.config.settings import RunSettings
from shared.contracts.heartbeats import Heartbeat
from shared.contracts.http import (
    ChatRequest,
    ChatResponse,
    FeedbackRequest,
    FeedbackResponse,
    PeersResponse,
    PeerView,
)
from shared.contracts.run import RunState, Split
from shared.errors import ConfigError, OpcodError, UnavailableError

Answer = TypeVar("Answer", bound=BaseModel)


class Peers:
    """Asks students; raises UnavailableError naming the student when it does not answer in time."""

    def __init__(self, settings: RunSettings, bus: Bus, state: Callable[[], RunState], *, key: str | None) -> None:
        self._settings = settings
        self._bus = bus
        self._state = state
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx2.Client(
            headers=headers,
            timeout=settings.serving.request_timeout_s,
            follow_redirects=False,
            trust_env=False,
        )

    def chat(self, student: str, request: ChatRequest) -> ChatResponse:
        return self._post(student, "/v1/chat/completions", request, ChatResponse)

    def feedback(self, student: str, request: FeedbackRequest) -> FeedbackResponse:
        return self._post(student, "/v1/feedback", request, FeedbackResponse)

    def require(self, student: str) -> str:
        """The student's name, if there is one. Raises ConfigError naming those there are."""
        if student not in self._settings.students:
            raise ConfigError(f"expected a student of {', '.join(self._settings.students)}, got {student!r}")
        return student

    def view(self) -> PeersResponse:
        """Both students with versions, newest scores, gap and who is up."""
        state = self._state()
        beats = self._bus.heartbeats()
        peers = tuple(self._peer(state, name, beats) for name in sorted(self._settings.students))
        return PeersResponse(run=state.run, status=state.status.value, round=state.round, peers=peers)

    def close(self) -> None:
        self._client.close()

    def _peer(self, state: RunState, name: str, beats: list[Heartbeat]) -> PeerView:
        alive = _replicas(name, beats)
        scores = [s for s in state.scores if s.student == name and s.split is Split.VALIDATION]
        gate = state.gate
        return PeerView(
            name=name,
            strong_domain=self._settings.students[name].domain,
            version=state.version[name],
            scores={domain: scores[-1].mean(domain) for domain in scores[-1].correct} if scores else {},
            gap=gate.gaps[name] if gate else None,
            cognizant=gate.cognizant[name] if gate else None,
            replicas=len(alive),
            url=alive[0].url if alive else None,
        )

    def _post(self, student: str, path: str, body: BaseModel, answer: type[Answer]) -> Answer:
        url = self._url(student)
        try:
            response = self._client.post(url + path, json=body.model_dump(mode="json", exclude_none=True))
        except httpx2.HTTPError as error:
            raise UnavailableError(f"student {student} did not answer {path}: {error!r}; try again") from error
        if response.status_code in (429, 503):
            raise UnavailableError(f"student {student} is busy: {response.text[:500]}")
        if 400 <= response.status_code < 500:
            raise ConfigError(f"student {student} refused this: {response.text[:500]}")
        if response.status_code != 200:
            raise OpcodError(f"student {student} refused {path} ({response.status_code}): {response.text[:500]}")
        try:
            return answer.model_validate_json(response.content)
        except ValidationError as error:
            raise OpcodError(f"student {student} answered {path} with something else: {error}") from error

    def _url(self, student: str) -> str:
        """A student that has just become ready says so with its next heartbeat: wait for that one."""
        patience_s = 2 * self._settings.bus.heartbeat_s
        for attempt in stamina.retry_context(
            on=UnavailableError, attempts=None, timeout=patience_s, wait_initial=0.1, wait_max=0.5
        ):
            with attempt:
                return self._replica_url(student)
        raise AssertionError("retry_context ends with a return or an error")

    def _replica_url(self, student: str) -> str:
        for beat in _replicas(self.require(student), self._bus.heartbeats()):
            if beat.url is not None:
                return beat.url
        raise UnavailableError(f"student {student} is not up; look at `opcod status`")


def _replicas(student: str, beats: list[Heartbeat]) -> list[Heartbeat]:
    alive = [beat for beat in beats if beat.service == f"student-{student}" and beat.state == "ready"]
    return sorted(alive, key=lambda beat: beat.replica)
