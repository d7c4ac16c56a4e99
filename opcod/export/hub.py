"""The way of an exported directory to the Hugging Face hub, through the hub's own library."""

from http import HTTPStatus
from pathlib import Path
from typing import Protocol

import httpx2
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError

from shared.errors import ConfigError, UnavailableError, reason, shown
from shared.hub import fault_in_name, told_by_hub
from shared.modeling.resolving import HUB_ID


class Hub(Protocol):
    """What is used of the hub's client."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> object: ...

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> object: ...


def open_hub(repository: str) -> Hub:
    """Ready to push to `owner/name`. Raises ConfigError for another name, or where nobody is logged in."""
    if not HUB_ID.fullmatch(repository):
        raise ConfigError(f"--push: expected owner/name, got {shown(repository)}")
    fault = fault_in_name(repository)
    if fault is not None:
        raise ConfigError(f"--push: expected owner/name as the hub has them, got {shown(repository)}: {fault}")
    if get_token() is None:
        raise ConfigError("--push: expected a token of the hub, found none; `hf auth login` keeps one, or set HF_TOKEN")
    return HfApi()


def push(hub: Hub, repository: str, directory: Path, message: str) -> None:
    """Every file of the directory into the repository, which is made, private, where there is none.

    Raises UnavailableError if the hub does not take it.
    """
    try:
        # Private: its texts and settings are the run's own, and are to be read before they are everybody's.
        hub.create_repo(repository, private=True, exist_ok=True)
        hub.upload_folder(repo_id=repository, folder_path=directory, commit_message=message)
    except (httpx2.HTTPError, OSError, ValueError) as error:
        raise UnavailableError(
            f"--push {repository}: {_why(error, repository)}. The export in {directory} is whole; "
            f"`hf upload {repository} {directory}` sends it without making it again"
        ) from error


def _why(error: Exception, repository: str) -> str:
    """What was expected of the hub, what came, and what to do."""
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        expected, remedy = _ANSWERS.get(status, _BROKEN if status >= HTTPStatus.INTERNAL_SERVER_ERROR else _REFUSED)
        came = f"its answer was {status}" + (f" (request {error.request_id})" if error.request_id else "")
        return f"expected {expected.format(repository)}; {came}; {remedy}"
    if isinstance(error, httpx2.TimeoutException):
        return "expected an answer of the hub, none came in time; try again later"
    if isinstance(error, httpx2.TransportError):
        # Its words name no more than the address and the system's reason.
        return f"expected to reach the hub, got {shown(reason(error))}; see to the network, a proxy, or HF_ENDPOINT"
    return f"expected the hub's client to read and send all files, got {shown(told_by_hub(error))}"


_REFUSED = ("the hub to take it", "the request's number is what the hub's support asks for")
_BROKEN = ("the hub to be well", "try again later")
_ANSWERS: dict[int, tuple[str, str]] = {
    HTTPStatus.UNAUTHORIZED: ("a token that the hub knows", "`hf auth login` keeps a new one, or set HF_TOKEN"),
    HTTPStatus.FORBIDDEN: (
        "a token that may write to {}",
        "give it that permission in the hub's settings, or push to an owner that it may write to",
    ),
    HTTPStatus.NOT_FOUND: ("{} to be there for this token", "look at its owner's name and at what the token may see"),
    HTTPStatus.CONFLICT: ("{} to stand still meanwhile", "somebody else writes to it; try again"),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: ("room for these files", "free some of the owner's storage on the hub"),
    HTTPStatus.TOO_MANY_REQUESTS: ("fewer requests of this token", "try again in some minutes"),
}
"""By what the hub answers: what was expected, {} being the repository, and what to do."""
