"""Ids of the event stream, as Redis gives them (`<milliseconds>-<number>`), and of the gaps found in it.

A gap is named after the event it was noticed in front of, `<id>.gap`, and sorts right before that event.
"""

import re

GAP_SUFFIX = ".gap"
START = "0"

_STREAM_ID = re.compile(r"([0-9]{1,20})(?:-([0-9]{1,20}))?(?:\.gap)?")
_MAX_INTEGER = 2**63 - 1
_LAST_NUMBER = 2**64 - 1


def order_of(stream_id: str) -> tuple[int, int]:
    """(milliseconds, number) of an id; a gap has those of the event it is in front of.

    Raises ValueError if it is not an id, or is larger than the store can hold.
    """
    match = _STREAM_ID.fullmatch(stream_id)
    if match is None:
        raise ValueError(f"expected a stream id such as 1764000000000-0, got {stream_id[:80]!r}")
    milliseconds, number = int(match[1]), int(match[2] or 0)
    if max(milliseconds, number) > _MAX_INTEGER:
        raise ValueError(f"expected a stream id with numbers of at most {_MAX_INTEGER}, got {stream_id!r}")
    return milliseconds, number


def just_before(stream_id: str) -> str:
    """The id that a read must start after to get `stream_id` itself first."""
    milliseconds, number = order_of(stream_id)
    if number > 0:
        return f"{milliseconds}-{number - 1}"
    return f"{milliseconds - 1}-{_LAST_NUMBER}" if milliseconds > 0 else START


def gap_id(before: str) -> str:
    """Id of the gap noticed in front of event `before`."""
    return before + GAP_SUFFIX
