"""Asking the run's broker in a reader's name: with a key of the reader's scope, at the address that it beats from."""

from collections.abc import Callable, Sequence

import httpx2

from shared.access import Keys, Scope
from shared.contracts.heartbeats import Heartbeat
from shared.contracts.http import AskRequest, AskResponse
from shared.errors import ConfigError, UnavailableError


class BrokerClient:
    """timeout_s: a question takes as long as its answers, so that of the run's requests. Used from worker threads."""

    def __init__(self, heartbeats: Callable[[], Sequence[Heartbeat]], keys: Keys | None, *, timeout_s: float) -> None:
        self._heartbeats = heartbeats
        self._keys = keys
        self._timeout_s = timeout_s

    def ask(self, request: AskRequest, scope: Scope) -> AskResponse:
        """Raises UnavailableError, and ConfigError with the broker's words where it refuses the question."""
        try:
            answer = httpx2.post(
                f"{self._url()}/v1/peers/ask",
                json=request.model_dump(mode="json", exclude_none=True),
                headers=self._authorization(scope),
                timeout=self._timeout_s,
                trust_env=False,
            )
        except httpx2.HTTPError as error:
            raise UnavailableError(f"the broker did not answer: {error!r}; look at `opcod status`") from error
        if answer.status_code >= 400:
            said = _said(answer)
            if answer.status_code in (429, 503):
                raise UnavailableError(said)
            raise ConfigError(said)
        return AskResponse.model_validate_json(answer.content)

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
        return {"Authorization": f"Bearer {key}"}


def _said(answer: httpx2.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the broker answered {answer.status_code}: {answer.text[:300]}"
