"""How messages, dead letters, stream ids and a script's answers look on Redis, and back."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from shared.bus.keys import Keys
from shared.bus.payloads import check
from shared.bus.port import DeadLetter
from shared.bus.redis_link import Argument
from shared.contracts.envelope import Message, unwrap, wrap
from shared.contracts.jobs import PayloadRef
from shared.errors import ConfigError, MalformedMessageError, StorageError

ENVELOPE = b"m"
EVENT_JSON = b"e"
LETTER_FIELD = "field:"


@dataclass(frozen=True)
class Writes:
    """Messages and payloads as a script's last keys and arguments (see lua/rules.lua)."""

    keys: tuple[str, ...]
    arguments: tuple[Argument, ...]
    queues: tuple[str, ...]


def writes(
    keys: Keys,
    messages: Iterable[tuple[str, Message] | None],
    payloads: Iterable[tuple[PayloadRef, bytes] | None] = (),
) -> Writes:
    """Raises MalformedMessageError or StorageError if one of them could not be read again."""
    sent = [message for message in messages if message is not None]
    stored = [payload for payload in payloads if payload is not None]
    for ref, data in stored:
        # Here, where who writes it is told; a reader could do nothing about it.
        check(ref, data)
    pairs = [part for ref, data in stored for part in (ref.field, data)]
    return Writes(
        (*(keys.queue(queue) for queue, _ in sent), *(keys.payload(ref.key) for ref, _ in stored)),
        (len(sent), len(stored), *(wrap(message) for _, message in sent), *pairs),
        tuple(queue for queue, _ in sent),
    )


def message_of(fields: Sequence[bytes]) -> Message:
    """The message in an entry's flat list of fields and values. Raises MalformedMessageError."""
    # From a script an entry comes as Redis keeps it: name, value, name, value.
    found = dict(zip(fields[::2], fields[1::2], strict=True))
    if ENVELOPE not in found:
        names = ", ".join(repr(text(name)) for name in found)
        raise MalformedMessageError(f"expected an entry with the field 'm', got {names}")
    return unwrap(found[ENVELOPE])


def dead_letter_of(entry_id: bytes, fields: Mapping[bytes, bytes]) -> DeadLetter:
    """The letter in an entry of the dead-letter stream; `fields` are the entry's own, without the envelope."""
    named = {text(name): value for name, value in fields.items()}
    own = {name[len(LETTER_FIELD) :]: value for name, value in named.items() if name.startswith(LETTER_FIELD)}
    raw = own.pop(text(ENVELOPE), b"")
    return DeadLetter(
        entry_id=text(entry_id),
        queue=text(named["queue"]),
        reason=text(named["reason"]),
        deliveries=int(named["deliveries"]),
        raw=raw,
        fields={name: text(value) for name, value in own.items()},
    )


def word_of(answer: Sequence[object]) -> tuple[str, list[str | None]]:
    """A script's answer: its word and its details."""
    details = [text(part) if isinstance(part, bytes) else None for part in answer[1:]]
    return text(cast(bytes, answer[0])), details


def wrong_type(details: Sequence[str | None]) -> StorageError:
    """For a key that holds something else than this system writes there."""
    key, wanted, found = details
    return StorageError(
        f"expected key {key} to hold a {wanted}, found a {found}: something else writes to this run's keys; remove "
        f"the key and rebuild the run from its files"
    )


def text(data: bytes) -> str:
    """Bytes as text; what is not UTF-8 is escaped, never lost."""
    return data.decode("utf-8", "backslashreplace")


_ID = re.compile(r"(\d{1,20})(?:-(\d{1,20}))?")


def cursor(text: str) -> tuple[int, int]:
    """Milliseconds and sequence of a stream's id: `1718000000000-3` is (1718000000000, 3), `0` is before everything.

    Raises ConfigError if it is not one.
    """
    match = _ID.fullmatch(text)
    if match is None:
        raise ConfigError(f"expected an event id such as 1718000000000-3, or 0 for the start, got {text!r}")
    return int(match[1]), int(match[2] or 0)
