"""Which files a manifest lists, and with which sha256."""

import json

from shared.contracts.weights import FileEntry
from shared.errors import StorageError

MANIFEST = "manifest.json"
GROUPS = "groups.jsonl"
"""The one file of a sealed batch; its manifest has the sha256 under `groups_sha256`."""


def listed_files(manifest: bytes) -> dict[str, str]:
    """sha256 by file name: from `files` (weights, checkpoints) or `groups_sha256` (batches).

    Raises StorageError if the manifest lists nothing, in neither way.
    """
    try:
        found = json.loads(manifest)
        if "files" in found:
            entries = [FileEntry.model_validate(entry) for entry in found["files"]]
            return {entry.name: entry.sha256 for entry in entries}
        return {GROUPS: str(found["groups_sha256"])}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise StorageError(
            f"expected a manifest in JSON with `files` (name, sha256, bytes) or `groups_sha256`, got "
            f"{manifest[:80]!r}: {type(error).__name__} {error}"
        ) from error
