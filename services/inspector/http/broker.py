"""Asking the run's broker in a reader's name: with the reader's own authority, at the address that it beats from."""

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Annotated, TypeVar

import httpx2
from fastapi import HTTPException
from pydantic import Field, TypeAdapter, ValidationError

from shared.contracts.acting import Accepted, ReasonRequest
from shared.contracts.heartbeats import Heartbeat
from shared.contracts.http import AskRequest, ErrorResponse, Stage
from shared.contracts.messages import Contract
from shared.errors import ConfigError, OpcodError, UnavailableError
from shared.http.access import AccessKeys, Scope
from shared.http.client import answering, async_client, bearer, client, reason, refusal
from shared.http.remote import RemoteCalls

Answer = TypeVar("Answer")
Stages = AsyncGenerator[Stage, None]

ASK = "/v1/peers/ask"
ACT_TIMEOUT_S = 10.0
ASK_MARGIN_S = 30.0
"""On top of what a student takes for one answer: the broker waits somewhat longer (10 s), and its refusal arrives."""
STAGE: TypeAdapter[Stage] = TypeAdapter(Annotated[Stage, Field(discriminator="stage")])
STAGES = ("answer", "feedback", "revised")


class BrokerClient:
    """answer_timeout_s: what a student takes for one answer at most.

    Every request raises UnavailableError, ConfigError without a key for the reader's scope, OpcodError where the
    broker answers something else than was asked for, and HTTPException with its status and words where it refuses.
    """

    def __init__(
        self,
        heartbeats: Callable[[], Sequence[Heartbeat]],
        keys: AccessKeys | None,
        calls: RemoteCalls,
        *,
        answer_timeout_s: float,
    ) -> None:
        self._heartbeats = heartbeats
        self._keys = keys
        self._calls = calls
        self._ask_timeout_s = answer_timeout_s + ASK_MARGIN_S

    async def stages(self, request: AskRequest, scope: Scope) -> Stages:
        """Put a question to the peers; each stage as soon as it is there. Closed early, the question is called off."""
        url = await self._calls.make(self._url)
        headers = self._authorization(scope) | {"Accept": "text/event-stream"}
        body = request.model_dump(mode="json", exclude_none=True)
        with answering("the broker"):
            async with (
                async_client(self._ask_timeout_s) as http,
                http.stream("POST", url + ASK, json=body, headers=headers) as answer,
            ):
                if answer.status_code >= 400:
                    await answer.aread()
                    raise _refusal(answer)
                async for event in httpx2.EventSource(answer):
                    if event.event == "error":
                        raise UnavailableError(_read(ErrorResponse.model_validate_json, event.data).error.message)
                    if event.event in STAGES:
                        yield _read(STAGE.validate_json, event.data)

    def act(self, path: str, body: ReasonRequest, scope: Scope, authorization: str | None = None) -> Accepted:
        """POST what a person does about an exchange or a tutor; path as the broker has it.

        authorization: the header that the reader sent; who has a session instead goes with a key of its scope. Blocks:
        for a route of RemoteCalls.
        """
        headers = {"Authorization": authorization} if authorization else self._authorization(scope)
        return _read(Accepted.model_validate_json, self._post(path, body, headers, ACT_TIMEOUT_S))

    def _post(self, path: str, body: Contract, headers: dict[str, str], timeout_s: float) -> bytes:
        url, json = self._url() + path, body.model_dump(mode="json", exclude_none=True)
        with answering("the broker"), client(timeout_s, headers) as http:
            answer = http.post(url, json=json)
        if answer.status_code >= 400:
            raise _refusal(answer)
        return answer.content

    def _url(self) -> str:
        for beat in self._heartbeats():
            if beat.service == "broker" and beat.url is not None:
                return beat.url
        raise UnavailableError("no broker is up; start one with `opcod run` or `opcod up`")

    def _authorization(self, scope: Scope) -> dict[str, str]:
        if self._keys is None:
            return {}
        key = self._keys.of_scope(scope)
        if key is None:
            raise ConfigError(f"the key file has no key of the scope {scope.word} to ask the broker with")
        return bearer(key)


def _read(parse: Callable[[str | bytes], Answer], data: str | bytes) -> Answer:
    try:
        return parse(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole of it"
        raise OpcodError(
            f"the broker answered something else than was asked for ({place}: {first['msg']}); run the broker and the "
            f"inspector from the same version of opcod"
        ) from error


def _refusal(answer: httpx2.Response) -> UnavailableError | HTTPException:
    """With its status and words, as it is the reader who is refused; asking again is for whoever is asked here."""
    # The words are the broker's alone: it may be a student behind it that is not up, and the reader should read that.
    unavailable = isinstance(refusal("the broker", answer), UnavailableError)
    return UnavailableError(reason(answer)) if unavailable else HTTPException(answer.status_code, reason(answer))
