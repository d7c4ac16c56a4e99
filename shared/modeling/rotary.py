"""Rotary angles that hang on more than a token's position, as a model's configuration has them. Needs no torch."""

from collections.abc import Collection, Mapping
from typing import Any

LONGROPE = frozenset({"longrope", "su"})
"""Two sets of angles, one for short sequences; `su` is what the first models of that kind call it."""

WITH_LENGTH = LONGROPE | {"dynamic"}
"""All that change with the longest sequence of a pass."""

_SETTINGS = ("rope_parameters", "rope_scaling")
_ORIGINAL = "original_max_position_embeddings"


def unchanged_tokens(config: Mapping[str, Any], kinds: Collection[str]) -> int | None:
    """Up to how many tokens the angles are those of short sequences; None where they are of none of these kinds.

    config: as config.json has it, or as transformers completes it; a layer of each type may have settings of its own.
    """
    named = [settings for name in _SETTINGS if isinstance(settings := config.get(name), Mapping)]
    each = [one for settings in named for one in (settings, *settings.values()) if isinstance(one, Mapping)]
    changing = [one for one in each if (one.get("rope_type") or one.get("type")) in kinds]
    lengths = (one.get(_ORIGINAL) or config.get(_ORIGINAL) or config.get("max_position_embeddings") for one in changing)
    return min((int(length or 0) for length in lengths), default=None)
