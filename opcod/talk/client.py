"""Talking to the services that are up, as any client would: over HTTP, with the run's key.

The inspector's page of a deployment: its address, with a link that logs a browser in, once.

Going on with a run that stood: who resumes a paused run has dealt with the reason.
"""

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import httpx2
from httpx2 import EventSource
from pydantic import BaseModel, ValidationError

from opcod.local.deployment import Deployment
from shared.contracts.acting import Accepted
from shared.contracts.http import ErrorResponse, LoginLink
from shared.contracts.run import RunState
from shared.errors import ConfigError, OpcodError, UnavailableError
from shared.http.client import answering, bearer, client, parsed, refusal

# On top of what a service takes for one answer, so that its own refusal arrives.
MARGIN_S = 60.0

# Of a value that a message repeats.
MAX_SHOWN_CHARS = 60

Answer = TypeVar("Answer", bound=BaseModel)
Body = TypeVar("Body", bound=BaseModel)


class Client:
    """Requests to the broker and the inspector of one deployment. timeout_s: without a sign of life from them; by
    default longer than they take for any answer."""

    def __init__(self, deployment: Deployment, timeout_s: float | None = None) -> None:
        self._deployment = deployment
        self.timeout_s = timeout_s or deployment.settings().serving.request_timeout_s + MARGIN_S
        self._http = client(self.timeout_s, bearer(deployment.key()))

    @property
    def run(self) -> str:
        return self._deployment.run

    def broker(self, method: str, path: str, answer: type[Answer], body: BaseModel | None = None) -> Answer:
        return self._request(method, self._broker_url() + path, answer, body)

    def broker_events(self, path: str, body: BaseModel) -> Iterator[httpx2.ServerSentEvent]:
        """Post to the broker and get its answer event by event, as they come."""
        url = self._broker_url() + path
        json, accept = body.model_dump(mode="json", exclude_none=True), {"Accept": "text/event-stream"}
        with answering(url), self._http.stream("POST", url, json=json, headers=accept) as response:
            # A streamed answer has no body yet; the refusal's text is in it.
            if response.status_code != 200:
                response.read()
                raise refusal(url, response)
            for event in EventSource(response):
                # The status was sent before the first event, so a failure after it can come as an event only.
                if event.event == "error":
                    broken = parsed(url, ErrorResponse.model_validate_json, event.data)
                    raise OpcodError(f"{url} broke off: {broken.error.message}")
                yield event

    def inspector(self, path: str, answer: type[Answer], params: dict[str, str]) -> Answer:
        return self._request("GET", self._inspector_url() + path, answer, None, params)

    def inspector_bytes(self, path: str, params: dict[str, str]) -> Iterator[bytes]:
        """The body of an answer, piece by piece."""
        url = self._inspector_url() + path
        with answering(url), self._http.stream("GET", url, params=params) as response:
            if response.status_code >= 400:
                response.read()
                raise refusal(url, response)
            yield from response.iter_bytes()

    def close(self) -> None:
        self._http.close()

    def _broker_url(self) -> str:
        if self._deployment.broker is None:
            raise UnavailableError(f"run {self._deployment.run} has no broker up")
        return self._deployment.broker.url

    def _inspector_url(self) -> str:
        if self._deployment.inspector is None:
            raise UnavailableError(f"run {self._deployment.run} has no inspector up")
        return self._deployment.inspector.url

    def _request(
        self, method: str, url: str, answer: type[Answer], body: BaseModel | None, params: dict[str, str] | None = None
    ) -> Answer:
        json = body.model_dump(mode="json", exclude_none=True) if body is not None else None
        with answering(url):
            response = self._http.request(method, url, json=json, params=params)
        if response.status_code >= 400:
            raise refusal(url, response)
        return parsed(url, answer.model_validate_json, response.content)


def body_of(kind: type[Body], arguments: Sequence[str], /, **given: object) -> Body:
    """A request's body out of what was given on the command line; `arguments` are the fields that are no options.

    Raises ConfigError naming the first that cannot be sent: bytes of a shell that are no UTF-8 come as lone surrogates.
    """
    # As the user wrote it: arguments in capitals, options with dashes.
    names = {field: field.upper() if field in arguments else f"--{field}" for field in given}
    for field, value in given.items():
        # Looked for before the model sees the value. It is shown as ASCII, since a terminal in UTF-8 cannot print a
        # lone surrogate either.
        if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            raise ConfigError(f"{names[field]}: expected text in UTF-8, got {value[:MAX_SHOWN_CHARS]!a}")
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        came = repr(first["input"])[:MAX_SHOWN_CHARS]
        raise ConfigError(f"{names[str(first['loc'][0])]}: {first['msg']}, got {came}") from error


TIMEOUT_S = 5.0


class Page(NamedTuple):
    """The inspector's page. logs_in: whether its address is a link that logs a browser in, once."""

    address: str
    logs_in: bool

    def __str__(self) -> str:
        return self.address if self.logs_in else f"{self.address} (it asks for a key: `opcod status --json` shows one)"


def page_of(deployment: Deployment, timeout_s: float = TIMEOUT_S) -> Page | None:
    """With a login link while the inspector answers, plain otherwise: nobody should wait or fail for it. None while no
    inspector is up.

    The link does what the deployment's strongest key may, works once and for ten minutes.
    """
    if deployment.inspector is None:
        return None
    url = deployment.inspector.url
    try:
        with client(timeout_s, bearer(deployment.key())) as http:
            answer = http.post(f"{url}/v1/login-link")
        link = LoginLink.model_validate_json(answer.content)
        return Page((link.public_url or url) + link.path, logs_in=True)
    except (httpx2.HTTPError, ValidationError):
        return Page(url, logs_in=False)


DEADLINE_S = 30.0
POLL_S = 0.1


def end_pause(deployment: Deployment) -> str | None:
    """Resume the run if it is paused, and wait until it is not; returns the reason it was paused for.

    Raises UnavailableError if the broker does not take it up in time.
    """
    broker = Client(deployment)
    try:
        # Read before the resume: afterwards it tells this pause from a new one.
        reason = _state(broker, deployment).paused
        if reason is None:
            return None
        broker.broker("POST", f"/v1/runs/{deployment.run}/resume", Accepted)
        deadline = time.monotonic() + DEADLINE_S
        # With another reason it was paused anew, and that is not ours to end.
        while _state(broker, deployment).paused == reason:
            if time.monotonic() > deadline:
                raise UnavailableError(f"run {deployment.run} is still paused after {DEADLINE_S:.0f} s: {reason}")
            time.sleep(POLL_S)
        return reason
    finally:
        broker.close()


def _state(client: Client, deployment: Deployment) -> RunState:
    return client.broker("GET", f"/v1/runs/{deployment.run}", RunState)
