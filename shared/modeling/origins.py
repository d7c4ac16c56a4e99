"""Where a base model is from, and under which licence it is given on: of what lies on this machine alone."""

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub.repocard import metadata_load

from shared.errors import ModelError
from shared.modeling.directory import reading
from shared.modeling.embedded import EMBEDDED, EMBEDDED_HUB_ID, EMBEDDED_LICENCE, EMBEDDED_NOTE
from shared.modeling.resolving import directory_of, is_adapter, is_on_the_hub, named_base

CARD = "README.md"
_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,60}")


@dataclass(frozen=True)
class Origin:
    """hub_id: its name on the hub, if it is from there; note: in which way it is not as it lies there. licence: as its
    model card names it (`apache-2.0`), None where none says so. files: the licence's own text."""

    hub_id: str | None = None
    licence: str | None = None
    files: tuple[Path, ...] = ()
    note: str = ""


def origin_of(name: str) -> Origin:
    """Of a model by its name in the settings; an adapter's is its base's, with a licence of its own where it has one.
    Nothing is said of one that is not on this machine any more.

    Raises ModelError where there is no usable model by that name.
    """
    if name == EMBEDDED:
        return Origin(EMBEDDED_HUB_ID, EMBEDDED_LICENCE, note=EMBEDDED_NOTE)
    found = directory_of(name)
    if found is None:
        # Also a directory's name, read from another one: it looks like that of a stranger's repository.
        return Origin()
    licence, files = _licence(found), tuple(sorted(found.glob("LICEN[CS]E*")))
    if not is_adapter(found):
        return Origin(name if is_on_the_hub(name) else None, licence, files)
    base = origin_of(named_base(found))
    return replace(base, licence=licence or base.licence, files=files or base.files)


def _licence(directory: Path) -> str | None:
    """None where there is no model card, or none that can be read: it is somebody's text."""
    with suppress(ModelError), reading("a model card", directory):
        said = (metadata_load(directory / CARD) or {}).get("license") if (directory / CARD).is_file() else None
        return said if isinstance(said, str) and _LICENCE.fullmatch(said) else None
    return None
