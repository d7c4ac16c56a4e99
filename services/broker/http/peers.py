"""The students as the outside world sees them, and talking to them over HTTP.

Addresses come from the students' own heartbeats on the run's Redis, never from a client. Every call carries the id of
the request that it is made for; when that request's client goes away, the call is cancelled and its connection closed.
Replicas of a student share the calls by the slots that they have free.
"""

import itertools
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import httpx2
import stamina
from pydantic import BaseModel

from shared.bus.port import Bus
from shared.config.settings import RunSettings
from shared.contracts.completions import CompletionRequest, CompletionResponse
from shared.contracts.heartbeats import Heartbeat
from shared.contracts.http import FeedbackRequest, FeedbackResponse, PeersResponse, PeerView
from shared.contracts.openai import ChatRequest, ChatResponse, ModelCard, ModelList
from shared.contracts.run import RunState
from shared.errors import ConfigError, UnavailableError
from shared.http.client import answering, async_client, bearer, parsed, refusal
from shared.http.guard import request_id
from shared.http.remote import RemoteCalls
from shared.http.sse import Frames
from shared.results.figures import live_validated

Answer = TypeVar("Answer", bound=BaseModel)

CHAT = "/v1/chat/completions"
STUDENT_MARGIN_S = 10.0
"""On top of what a student takes for one answer, so that its own refusal arrives."""


class Peers:
    """Asks students; raises UnavailableError naming the student when it does not answer in time, RequestError with
    what it says when it refuses."""

    def __init__(
        self,
        settings: RunSettings,
        bus: Bus,
        state: Callable[[], RunState],
        calls: RemoteCalls,
        *,
        key: str | None,
    ) -> None:
        self._settings = settings
        self._bus = bus
        self._state = state
        self._calls = calls
        self._headers = bearer(key)

    async def chat(self, student: str, request: ChatRequest) -> ChatResponse:
        return await self._post(student, CHAT, request, ChatResponse)

    async def complete(self, student: str, request: CompletionRequest) -> CompletionResponse:
        return await self._post(student, "/v1/completions", request, CompletionResponse)

    async def feedback(self, student: str, request: FeedbackRequest) -> FeedbackResponse:
        return await self._post(student, "/v1/feedback", request, FeedbackResponse)

    async def stream(self, student: str, request: ChatRequest) -> Frames:
        """A streamed chat, byte for byte as the student sends it."""
        async with self._sent(student, CHAT, request) as response:
            with answering(f"student {student}"):
                async for part in response.aiter_raw():
                    yield part

    def require(self, student: str) -> str:
        """The student's name, if there is one. Raises ConfigError naming those there are."""
        if student not in self._settings.students:
            raise ConfigError(f"expected a student of {', '.join(self._settings.students)}, got {student!r}")
        return student

    async def view(self) -> PeersResponse:
        """All students with versions, their scores, gap and who is up."""
        state = self._state()
        beats = await self._calls.make(self._bus.heartbeats)
        peers = tuple(self._peer(state, name, beats) for name in sorted(self._settings.students))
        return PeersResponse(run=state.run, status=state.status.value, round=state.round, peers=peers)

    def best_peer(self, student: str) -> str:
        """Of the others the one whose live version validates best, or the next one before any does. Raises ConfigError
        for one that is alone."""
        others = self._settings.peers_of(student)
        if not others:
            raise ConfigError(f"student {student} has no peer that could tutor it; ask it alone, by its name")
        state = self._state()
        # Not the best score it ever had: who speaks is the live version.
        found = {name: live_validated(state.scores, name, state.version[name]) for name in others}
        # `max` takes the first of equals, and so the next one.
        return max(others, key=lambda name: each.mean_over_domains if (each := found[name]) else 0.0)

    async def models(self) -> ModelList:
        """Of each student that is up its name, for the live version, and every version it holds."""
        beats = await self._calls.make(self._bus.heartbeats)
        cards: dict[str, ModelCard] = {}
        for name in sorted(self._settings.students):
            for beat in _replicas(name, beats):
                # Its bare name stands for the live version, and has that one's checksum.
                held = {name: beat.versions.get(beat.version)} if beat.version else {}
                for model, checksum in {**held, **beat.versions}.items():
                    cards.setdefault(model, ModelCard(id=model, checksum=checksum))
        return ModelList(data=tuple(cards.values()))

    def _peer(self, state: RunState, name: str, beats: list[Heartbeat]) -> PeerView:
        alive = _replicas(name, beats)
        score = live_validated(state.scores, name, state.version[name])
        gate = state.gate
        return PeerView(
            name=name,
            strong_domain=self._settings.students[name].domain,
            version=state.version[name],
            scores={domain: score.mean(domain) for domain in score.correct} if score else {},
            gap=gate.gaps[name] if gate else None,
            cognizant=gate.cognizant[name] if gate else None,
            tutees=tuple(pair.student for pair in gate.pairs if pair.tutor == name and pair.cognizant) if gate else (),
            replicas=len(alive),
            url=alive[0].url if alive else None,
        )

    async def _post(self, student: str, path: str, body: BaseModel, answer: type[Answer]) -> Answer:
        async with self._sent(student, path, body) as response:
            with answering(f"student {student}"):
                content = await response.aread()
            return parsed(f"student {student}", answer.model_validate_json, content)

    @asynccontextmanager
    async def _sent(self, student: str, path: str, body: BaseModel) -> AsyncIterator[httpx2.Response]:
        """The head of its answer, which is a 200; the body is still to be read."""
        # Feedback names no model: any replica of the tutor gives it.
        url = await self._url(student, body.model if isinstance(body, ChatRequest | CompletionRequest) else student)
        json = body.model_dump(mode="json", by_alias=True, exclude_none=True)
        who, timeout_s = f"student {student}", self._settings.serving.request_timeout_s + STUDENT_MARGIN_S
        async with async_client(timeout_s, self._headers | {"x-request-id": request_id()}) as client:
            with answering(who):
                response = await client.send(client.build_request("POST", url + path, json=json), stream=True)
            try:
                if response.status_code != 200:
                    with answering(who):
                        await response.aread()
                    raise refusal(who, response, passed_on=True)
                yield response
            finally:
                await response.aclose()

    async def _url(self, student: str, model: str) -> str:
        """A student that has just become ready says so with its next heartbeat: wait for that one."""
        self.require(student)
        # By its name the student in training is meant, and not every replica has that one at hand.
        apart = model == student and self._settings.keeps_apart(student)
        wanted = self._state().version[student] if apart else model
        # Two beats, as the next one may have been sent a moment before the student was ready.
        patience_s = 2 * self._settings.bus.heartbeat_s
        async for attempt in stamina.retry_context(
            on=UnavailableError, attempts=None, timeout=patience_s, wait_initial=0.1, wait_max=0.5
        ):
            with attempt:
                beats = await self._calls.make(self._bus.heartbeats)
                chosen = choose_replica(_replicas(student, beats), wanted, random.random())
                if chosen is None or chosen.url is None:
                    raise UnavailableError(f"student {student} is not up; look at `opcod status`")
                return chosen.url
        raise AssertionError("retry_context ends with a return or an error")


def _replicas(student: str, beats: list[Heartbeat]) -> list[Heartbeat]:
    alive = [beat for beat in beats if beat.service == f"student-{student}" and beat.state == "ready"]
    return sorted(alive, key=lambda beat: beat.replica)


def choose_replica(replicas: Sequence[Heartbeat], model: str, draw: float) -> Heartbeat | None:
    """The replica that is asked, None if none can be. draw: uniform in [0, 1).

    Of those that hold the model, if it is a version; each as often as it has slots free. Not simply the one with the
    most: its next heartbeat is seconds away, and until then it would get every call.
    """
    reached = [beat for beat in replicas if beat.url is not None]
    able = [beat for beat in reached if model in beat.versions] or reached
    # None free, or none that says so: each is as good as the other.
    free = [max(beat.free_slots or 0, 0) for beat in able]
    weights = free if any(free) else [1] * len(able)
    mark = draw * sum(weights)
    return next((beat for beat, upto in zip(able, itertools.accumulate(weights), strict=True) if mark < upto), None)
