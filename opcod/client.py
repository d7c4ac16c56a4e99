"""Talking to the services that are up, as any client would: over HTTP, with the run's key."""

from collections.abc import Iterator
from typing import Any, TypeVar

import httpx2
from pydantic import BaseModel

from opcod.deployment import Deployment
from shared.errors import NotFoundError, OpcodError, UnavailableError

TIMEOUT_S = 180.0

Answer = TypeVar("Answer", bound=BaseModel)


class Client:
    """Requests to the broker and the inspector of one deployment."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._http = httpx2.Client(
            headers={"Authorization": f"Bearer {deployment.key()}"}, timeout=TIMEOUT_S, trust_env=False
        )

    @property
    def run(self) -> str:
        return self._deployment.run

    def broker(self, method: str, path: str, answer: type[Answer], body: BaseModel | None = None) -> Answer:
        if self._deployment.broker is None:
            raise UnavailableError(f"run {self._deployment.run} has no broker up")
        return answer.model_validate(self._request(method, self._deployment.broker.url + path, body))

    def inspector(self, path: str, answer: type[Answer], params: dict[str, str]) -> Answer:
        return answer.model_validate(self._request("GET", self._inspector_url() + path, None, params))

    def inspector_bytes(self, path: str, params: dict[str, str]) -> Iterator[bytes]:
        """The body of an answer, piece by piece."""
        url = self._inspector_url() + path
        try:
            with self._http.stream("GET", url, params=params) as response:
                if response.status_code >= 400:
                    response.read()
                    _refuse(url, response)
                yield from response.iter_bytes()
        except httpx2.HTTPError as error:
            raise UnavailableError(f"{url} did not answer: {error!r}; look at `opcod status`") from error

    def close(self) -> None:
        self._http.close()

    def _inspector_url(self) -> str:
        if self._deployment.inspector is None:
            raise UnavailableError(f"run {self._deployment.run} has no inspector up")
        return self._deployment.inspector.url

    def _request(self, method: str, url: str, body: BaseModel | None, params: dict[str, str] | None = None) -> Any:
        json = body.model_dump(mode="json", exclude_none=True) if body is not None else None
        try:
            response = self._http.request(method, url, json=json, params=params)
        except httpx2.HTTPError as error:
            raise UnavailableError(f"{url} did not answer: {error!r}; look at `opcod status`") from error
        _refuse(url, response)
        return response.json()


def _refuse(url: str, response: httpx2.Response) -> None:
    """Raises for an answer that is an error."""
    if response.status_code in (429, 503):
        raise UnavailableError(f"{url} is not available now: {_message(response)}")
    if response.status_code == 404:
        raise NotFoundError(_message(response))
    if response.status_code >= 400:
        raise OpcodError(f"{url} answered {response.status_code}: {_message(response)}")


def _message(response: httpx2.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.text[:500]
