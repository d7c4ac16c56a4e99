"""The one door to the hub's client: what is fetched from the hub, and in words whatever keeps it from being fetched.

What always holds: nothing but an OpcodError leaves here, and no message holds the token that the hub was shown.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import httpx2

from shared.errors import ConfigError, ModelError, OpcodError, ProblemSetError, UnavailableError, reason, shown


@dataclass(frozen=True)
class HubKind:
    """What is kept in a repository of the hub. words, instead: for messages; refusal: raised where there is none."""

    repo_type: str
    words: str
    instead: str
    refusal: type[ConfigError]


MODEL = HubKind("model", "model", 'give a local directory, or use "embedded"', ModelError)
DATA_SET = HubKind("dataset", "data set", "name a local directory", ProblemSetError)

_NOT_SO = (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError, httpx2.InvalidURL, ImportError, UnicodeEncodeError)
"""What the client raises before it has sent anything: an address, a token or a proxy that cannot be used."""

_REFUSED = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


def fetch(kind: HubKind, name: str, patterns: Sequence[str], revision: str | None = None) -> Path:
    """The directory of the repository `owner/name` as it is now, with the files that match; what is cached already is
    not sent again. Where the hub cannot be reached, that of the client's cache, which may be only a part.

    Raises ConfigError where the client cannot ask, `kind.refusal` if the hub has no such one for us, UnavailableError
    if it does not answer, or with something else.
    """
    with _told(kind, name):
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, repo_type=kind.repo_type, revision=revision, allow_patterns=list(patterns)))


def kept(kind: HubKind, name: str, patterns: Sequence[str], revision: str | None = None) -> Path | None:
    """As `fetch`, but from the client's cache alone, where the last revision that was fetched lies; None without one,
    or if the cache knows that files are missing. It knows of no file where another program filled it.
    """
    with _told(kind, name):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            return Path(
                snapshot_download(
                    name,
                    repo_type=kind.repo_type,
                    revision=revision,
                    allow_patterns=list(patterns),
                    local_files_only=True,
                )
            )
        except LocalEntryNotFoundError:
            return None


def cache_directory() -> Path:
    """Where the client keeps what it fetches, on this machine."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def knows_all_files(snapshot: Path) -> bool:
    """Whether the client's cache holds the list of all files that the repository has in this snapshot: what is not
    there then is not on the hub either."""
    return (snapshot.parents[1] / "trees" / f"{snapshot.name}.json").is_file()


def fault_in_name(name: str) -> str | None:
    """Why the hub can have nothing by the name `owner/name`; None if it can."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError as fault:
        # The client repeats the name at the end, which may be long.
        return reason(fault).split(": '")[0].removesuffix(".")
    return None


def told_by_hub(error: Exception) -> str:
    """The message of an error of huggingface_hub, for messages of ours, which are printed and kept in a run's files.

    It holds what the hub answered, and a hub, or a proxy before it, may answer with what it was sent.
    """
    # Here, as not everything that reads problems has the client installed.
    from huggingface_hub import get_token

    token = get_token()
    return str(error).replace(token, "[token]") if token else str(error)


@contextmanager
def _told(kind: HubKind, name: str) -> Iterator[None]:
    try:
        fault = fault_in_name(name)
        if fault is not None:
            raise kind.refusal(
                f"expected a directory or a {kind.words} of the hub (owner/name), got {shown(name)}: {fault}"
            )
        yield
    except OpcodError:
        raise
    except Exception as error:  # noqa: BLE001 - mirrors and proxies answer with anything, and it fails as variously
        broken = error
    else:
        return
    raise _in_words(kind, name, broken) from broken


def _in_words(kind: HubKind, name: str, error: Exception) -> OpcodError:
    if isinstance(error, ModuleNotFoundError) and error.name == "huggingface_hub":
        return ConfigError(
            f"{name} is no directory here, and fetching it from the hub needs the package huggingface_hub: "
            "pip install huggingface_hub, or name a local directory"
        )
    from huggingface_hub.errors import HfHubHTTPError, IncompleteSnapshotError, LocalEntryNotFoundError

    what, said = f"the {kind.words} {name}", told_by_hub(error) or type(error).__name__
    if isinstance(error, IncompleteSnapshotError):
        return only_a_part(kind, name)
    if isinstance(error, LocalEntryNotFoundError):
        return UnavailableError(
            f"{what} is no directory here, nor in the local hub cache, and the hub does not answer "
            f"({said}); connect once, or {kind.instead}"
        )
    if isinstance(error, HfHubHTTPError):
        return _answered(kind, name, error.response.status_code, said)
    if isinstance(error, _NOT_SO):
        return ConfigError(
            f"cannot ask the hub for {what}: {said}; see to HF_ENDPOINT, HF_TOKEN and the proxy of this environment"
        )
    if isinstance(error, httpx2.TransportError):
        return UnavailableError(f"expected the hub to send {what}, got {said}; try again, or {kind.instead}")
    if isinstance(error, OSError):
        return kind.refusal(f"expected a public {kind.words} {name} on the hub, could not fetch it: {said}")
    return UnavailableError(
        f"expected the hub to tell of {what}, got what its client cannot read ({type(error).__name__}: {said[:200]}); "
        f"see whether a login page or a proxy answers in its place, and to HF_ENDPOINT, or {kind.instead}"
    )


def only_a_part(kind: HubKind, name: str) -> UnavailableError:
    """Of what an earlier download left, while the hub does not answer."""
    return UnavailableError(
        f"only a part of the {kind.words} {name} is in the local hub cache, and the hub does not answer; "
        f"connect once more, or {kind.instead}"
    )


def _answered(kind: HubKind, name: str, status: int, said: str) -> OpcodError:
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS:
        return UnavailableError(f"expected the hub to send the {kind.words} {name}, its answer was {status}: {said}")
    # A name that does not exist is answered with 401 to whoever shows no token, as a private one is.
    gated = "; if it is gated or private, accept its terms on its page, and set HF_TOKEN" if status in _REFUSED else ""
    return kind.refusal(f"expected a public {kind.words} {name} on the hub, could not fetch it: {said}{gated}")
