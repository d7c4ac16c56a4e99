"""Rotary angles that hang on more than a token's position, as a model's configuration has them. Needs no torch."""

from collections.abc import Collection, Mapping
from typing import Any

LONGROPE = frozenset({"longrope", "su"})
"""Two sets of angles, one for short sequences; `su` is what the first models of that kind call it."""

_DYNAMIC = frozenset({"dynamic"})

WITH_LENGTH = LONGROPE | _DYNAMIC
"""All that change with the longest sequence of a pass."""

_SETTINGS = ("rope_parameters", "rope_scaling")
_ORIGINAL = "original_max_position_embeddings"
_MOST = "max_position_embeddings"


def unchanged_tokens(config: Mapping[str, Any], kinds: Collection[str]) -> int | None:
    """Up to how many tokens the angles are those of short sequences; None where they are of none of these kinds.

    config: as config.json has it, or as transformers completes it; a layer of each type may have settings of its own.
    """
    lengths = (one.get(_ORIGINAL) or config.get(_ORIGINAL) or config.get(_MOST) for one in _of_kinds(config, kinds))
    return min((int(length or 0) for length in lengths), default=None)


def vllm_tokens(config: Mapping[str, Any]) -> int | None:
    """Up to how many tokens vLLM has the angles that transformers has; None where it takes no longer sequences.

    - Two sets: a server that takes longer sequences has the long ones for all of them.
    - `dynamic`: up to `max_position_embeddings` both have the same. Beyond, transformers stretches them, and vLLM has
      none: it takes `factor` times as many tokens, and reads past the end of its table.
    """
    stretched = [
        one for one in _of_kinds(config, _DYNAMIC) if isinstance(f := one.get("factor"), int | float) and f > 1
    ]
    lengths = [unchanged_tokens(config, LONGROPE), int(config.get(_MOST) or 0) if stretched else None]
    return min((length for length in lengths if length is not None), default=None)


def _of_kinds(config: Mapping[str, Any], kinds: Collection[str]) -> list[Mapping[str, Any]]:
    """The settings of angles of these kinds."""
    named = [settings for name in _SETTINGS if isinstance(settings := config.get(name), Mapping)]
    each = [one for settings in named for one in (settings, *settings.values()) if isinstance(one, Mapping)]
    return [one for one in each if (one.get("rope_type") or one.get("type")) in kinds]
