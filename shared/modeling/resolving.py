"""From a model's name in the configuration to a directory with all of its weights.

Only safetensors and JSON are ever fetched. A LoRA adapter is a name too: it stands for its base model with the
adapter merged into the weights, since a run's own adapter, and the average that teaches, start at zero on them.
"""

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from shared.errors import ModelError, UnavailableError, shown
from shared.modeling.directory import checked_directory
from shared.modeling.embedded import embedded_directory, ensure_embedded_model
from shared.modeling.merging import base_name, ensure_merged, is_adapter, merged_directory

EMBEDDED = "embedded"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "merges.txt"]


def resolve_model(name: str, cache_dir: Path) -> Path:
    """Return the directory of the model `name`: "embedded", a local directory, or a hub id ("owner/name").

    The embedded model is converted and adapters are merged below `cache_dir` on first use; a hub model goes to the
    hub client's own cache. Raises ModelError where there is no usable model, UnavailableError where the hub does not
    answer.
    """
    if name == EMBEDDED:
        return ensure_embedded_model(cache_dir)
    found = _local(name)
    if found is None:
        _require_hub_id(name)
        found = _download(name)
    if is_adapter(found):
        return ensure_merged(found, _base_of(found, cache_dir), cache_dir)
    return checked_directory(found)


def find_model(name: str, cache_dir: Path) -> Path | None:
    """As `resolve_model`, but of what is on this machine already: nothing is made or fetched; None if it is not.

    Raises ModelError where there is no usable model by that name.
    """
    if name == EMBEDDED:
        found = embedded_directory(cache_dir)
        return found if found.is_dir() else None
    local = _local(name)
    if local is None:
        _require_hub_id(name)
        try:
            local = Path(snapshot_download(name, allow_patterns=_HUB_FILES, local_files_only=True))
        except LocalEntryNotFoundError:
            return None
    if not is_adapter(local):
        return checked_directory(local)
    base = find_model(_named_base(local), cache_dir)
    merged = None if base is None else merged_directory(local, base, cache_dir)
    return merged if merged is not None and merged.is_dir() else None


def _local(name: str) -> Path | None:
    """What lies on this machine under a name; None if nothing does, or can."""
    try:
        found = Path(name).expanduser().resolve()
        return found if found.exists() else None
    except (OSError, ValueError, RuntimeError):  # too long; with NUL; in the home of a user that is none
        return None


def _require_hub_id(name: str) -> None:
    if not _HUB_ID.fullmatch(name):
        raise ModelError(f'expected "{EMBEDDED}", a model directory or a hub id (owner/name), got {shown(name)}')


def _named_base(adapter: Path) -> str:
    name = base_name(adapter)
    if _local(name) == adapter:
        raise ModelError(f"the adapter in {adapter} names itself as its base model")
    return name


def _base_of(adapter: Path, cache_dir: Path) -> Path:
    name = _named_base(adapter)
    try:
        return resolve_model(name, cache_dir)
    except ModelError as error:
        raise ModelError(f"the adapter in {adapter} needs its base model, {shown(name)}: {error}") from error


def _download(name: str) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except LocalEntryNotFoundError as offline:
        raise UnavailableError(
            f"the model {name} is not in the local hub cache and the hub does not answer: {offline}; "
            f'connect once, give a local directory, or use "{EMBEDDED}"'
        ) from offline
    except (HfHubHTTPError, OSError) as refused:
        raise ModelError(f"expected a public model {name} on the hub, could not fetch it: {refused}") from refused
