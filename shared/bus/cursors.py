"""Stream ids as numbers: `1718000000000-3` is (1718000000000, 3); `0` is before everything."""

import re

from shared.errors import ConfigError

_ID = re.compile(r"(\d{1,20})(?:-(\d{1,20}))?")


def cursor(text: str) -> tuple[int, int]:
    """Milliseconds and sequence of an id. Raises ConfigError if it is not one."""
    match = _ID.fullmatch(text)
    if match is None:
        raise ConfigError(f"expected an event id such as 1718000000000-3, or 0 for the start, got {text!r}")
    return int(match[1]), int(match[2] or 0)
