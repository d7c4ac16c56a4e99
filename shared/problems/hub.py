"""The directory of a data set that is named by a local path or by a hub id.

What always holds: files that are in the hub client's cache are used without asking the hub, so that every process
of a run reads the same ones.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from shared.errors import ConfigError, ProblemSetError, UnavailableError
from shared.files.text import expanded

_HUB_ID = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


def dataset_directory(where: str, files: Sequence[str]) -> Path:
    """The directory below which `files` lie. where: a directory, or `owner/name[@revision]` of a hub data set.

    Raises ConfigError for another `where`, ProblemSetError if a file is missing, UnavailableError if the hub does
    not answer.
    """
    local = expanded(where)
    if where and local.is_dir():
        return _complete(local, files, where)
    match = _HUB_ID.fullmatch(where)
    if match is None:
        raise ConfigError(f"expected a directory or a hub data set (owner/name, owner/name@revision), got {where!r}")
    return _complete(_fetched(match["name"], match["revision"], files), files, where)


def _complete(directory: Path, files: Sequence[str], where: str) -> Path:
    missing = [name for name in files if not (directory / name).is_file()]
    if missing:
        present = sorted(path.parent.name for path in directory.glob(f"*/{Path(missing[0]).name}"))
        found = f"it has such files for {', '.join(present)}" if present else "it has no such files"
        raise ProblemSetError(f"{where}: expected the files {', '.join(missing)}; {found}")
    return directory


def _fetched(name: str, revision: str | None, files: Sequence[str]) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as missing:
        raise ConfigError(
            f"{name} is no directory here, and fetching it from the hub needs the package huggingface_hub: "
            "pip install huggingface_hub, or name a local directory"
        ) from missing

    def snapshot(*, cached: bool) -> Path:
        return Path(
            snapshot_download(
                name, repo_type="dataset", revision=revision, allow_patterns=list(files), local_files_only=cached
            )
        )

    try:
        kept = snapshot(cached=True)
        if all((kept / file).is_file() for file in files):
            return kept
    except LocalEntryNotFoundError:
        pass
    try:
        return snapshot(cached=False)
    except LocalEntryNotFoundError as offline:
        raise UnavailableError(
            f"the data set {name} is no directory here, nor in the local hub cache, and the hub does not answer "
            f"({offline}); connect once, or name a local directory"
        ) from offline
    except (HfHubHTTPError, OSError) as refused:
        raise ProblemSetError(f"expected a public data set {name} on the hub, cannot fetch it: {refused}") from refused
