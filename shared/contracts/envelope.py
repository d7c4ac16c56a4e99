"""The envelope around every message on a stream: what it is, in which schema, and its body."""

from typing import ClassVar

from pydantic import Field, ValidationError

from shared.contracts.messages import Contract
from shared.errors import MalformedMessageError, reason, shown

SCHEMA = 1
MAX_ENVELOPE_BYTES = 8192


class Message(Contract):
    """Base of everything that travels on a stream. `key` is its idempotency key."""

    registry: ClassVar[dict[str, type["Message"]]] = {}

    @classmethod
    def __pydantic_init_subclass__(cls, **_kwargs: object) -> None:
        Message.registry[cls.__name__] = cls

    @property
    def key(self) -> str:
        raise TypeError(f"{type(self).__name__} has no idempotency key")


class Envelope(Contract):
    """id = idempotency key; type = class name of the body; traceparent as in W3C Trace Context."""

    id: str = Field(min_length=1, max_length=256)
    type: str
    schema_version: int = SCHEMA
    traceparent: str | None = None
    body: str


def wrap(message: Message) -> bytes:
    """Bytes of the envelope of `message`. Raises MalformedMessageError if it is over 8 KB."""
    envelope = Envelope(id=message.key, type=type(message).__name__, body=message.model_dump_json())
    data = envelope.model_dump_json().encode()
    if len(data) > MAX_ENVELOPE_BYTES:
        raise MalformedMessageError(
            f"{envelope.type} {envelope.id} takes {len(data)} bytes; an envelope holds at most "
            f"{MAX_ENVELOPE_BYTES}: put the large part into a payload and refer to it"
        )
    return data


def unwrap(data: bytes) -> Message:
    """The message in `data`. Raises MalformedMessageError if type, schema or body is not what we know."""
    try:
        envelope = Envelope.model_validate_json(data)
        if envelope.schema_version != SCHEMA:
            raise MalformedMessageError(
                f"expected schema {SCHEMA}, got {envelope.schema_version}: sender and receiver differ in version"
            )
        # A class is known once its module is imported: who reads a stream imports whatever may come on it.
        if envelope.type not in Message.registry:
            raise MalformedMessageError(f"unknown message type {shown(envelope.type)}")
        message = Message.registry[envelope.type].model_validate_json(envelope.body)
    except ValidationError as error:
        raise MalformedMessageError(f"message does not fit its schema: {reason(error)}") from error
    # The id decides what counts as done already, so it must be that of this body.
    if message.key != envelope.id:
        raise MalformedMessageError(f"envelope id {shown(envelope.id)} is not the body's key {shown(message.key)}")
    return message
