"""The way of an exported directory to the Hugging Face hub, through the hub's own library."""

from pathlib import Path
from typing import Protocol

import httpx2
from huggingface_hub import HfApi, get_token

from shared.errors import ConfigError, UnavailableError, reason, shown
from shared.modeling.resolving import HUB_ID


class Hub(Protocol):
    """What is used of the hub's client."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> object: ...

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> object: ...


def open_hub(repository: str) -> Hub:
    """Ready to push to `owner/name`. Raises ConfigError for another name, or where nobody is logged in."""
    if not HUB_ID.fullmatch(repository):
        raise ConfigError(f"--push: expected owner/name, got {shown(repository)}")
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
            f"the hub did not take {directory}: {reason(error)}; the export is whole, and `hf upload {repository} "
            f"{directory}` tries again"
        ) from error
