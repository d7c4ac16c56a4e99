"""Asking the run's broker in a reader's name: with the reader's own authority, at the address that it beats from."""

from collections.abc import AsyncGenerator, Callable, Sequence

import httpx2
from fastapi import HTTPException

from shared.contracts.acting import Accepted, ReasonRequest
from shared.contracts.heartbeats import Heartbeat
from shared.contracts.http import STAGE, STAGES, AskRequest, ErrorResponse, Stage
from shared.contracts.messages import Contract
from shared.errors import ConfigError, OpcodError, UnavailableError
from shared.http.access import AccessKeys, Scope
from shared.http.client import answering, async_client, bearer, client, parsed, refusal, words_of
from shared.http.remote import RemoteCalls

Stages = AsyncGenerator[Stage, None]

ASK = "/v1/peers/ask"
ACT_TIMEOUT_S = 10.0
ASK_MARGIN_S = 30.0
"""On top of what a student takes for one answer: the broker waits somewhat longer (10 s), and its refusal arrives."""


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
                        broken = parsed("the broker", ErrorResponse.model_validate_json, event.data)
                        raise UnavailableError(broken.error.message)
                    if event.event in STAGES:
                        yield parsed("the broker", STAGE.validate_json, event.data)

    def act(self, path: str, body: ReasonRequest, scope: Scope, authorization: str | None = None) -> Accepted:
        """POST what a person does about an exchange or a tutor; path as the broker has it.

        authorization: the header that the reader sent; who has a session instead goes with a key of its scope. Blocks:
        for a route of RemoteCalls.
        """
        headers = {"Authorization": authorization} if authorization else self._authorization(scope)
        return parsed("the broker", Accepted.model_validate_json, self._post(path, body, headers, ACT_TIMEOUT_S))

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


def _refusal(answer: httpx2.Response) -> OpcodError | HTTPException:
    """With its status and words, as it is the reader who is refused; asking again is for whoever is asked here."""
    error = refusal("the broker", answer)
    return error if isinstance(error, UnavailableError) else HTTPException(answer.status_code, words_of(answer))
