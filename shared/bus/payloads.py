"""Payloads: what is too large for an envelope, as compressed JSON, named by the sha256 of its bytes.

What always holds: equal contracts pack to equal bytes, and nothing is unpacked before its sha256 is checked.
"""

import hashlib
import zlib
from typing import TypeVar

from pydantic import ValidationError

from shared.contracts.jobs import PayloadRef
from shared.contracts.messages import Contract
from shared.errors import MalformedMessageError, StorageError, reason

MAX_UNPACKED_BYTES = 256 * 1024 * 1024
"""A paper-size job (32 samples of 8k tokens with log-probs) stays under 10 MB; above this it is a bomb."""

# Fixed, though it is the default: the sha256 is over the compressed bytes, and equal contracts must pack alike.
_LEVEL = 6

Packed = TypeVar("Packed", bound=Contract)


def pack(contract: Contract, key: str, field: str) -> tuple[PayloadRef, bytes]:
    """Reference and bytes of `contract`, to be stored under (`key`, `field`)."""
    data = zlib.compress(contract.model_dump_json().encode(), _LEVEL)
    return PayloadRef(key=key, field=field, sha256=hashlib.sha256(data).hexdigest()), data


def unpack(ref: PayloadRef, data: bytes, contract: type[Packed]) -> Packed:
    """The contract in `data`.

    Raises StorageError if the bytes are not those that `ref` names, MalformedMessageError if they do not hold a
    `contract` or unpack to more than 256 MB.
    """
    check(ref, data)
    try:
        return contract.model_validate_json(_inflate(ref, data))
    except zlib.error as error:
        raise MalformedMessageError(f"payload {ref.key}/{ref.field} is not compressed JSON: {reason(error)}") from error
    except ValidationError as error:
        raise MalformedMessageError(
            f"payload {ref.key}/{ref.field} is not a {contract.__name__}: {reason(error)}"
        ) from error


def check(ref: PayloadRef, data: bytes) -> None:
    """Raises StorageError unless `data` has the sha256 that `ref` names."""
    found = hashlib.sha256(data).hexdigest()
    if found != ref.sha256:
        raise StorageError(
            f"payload {ref.key}/{ref.field}: expected sha256 {ref.sha256}, got {found}: another result of the same "
            f"job was stored first, or the bytes changed; drop the payload and make it again"
        )


def no_payload(ref: PayloadRef) -> StorageError:
    """For a reference behind which nothing lies."""
    return StorageError(
        f"payload {ref.key}/{ref.field} is absent: its step is over, or the server lost its data; make it again"
    )


def _inflate(ref: PayloadRef, data: bytes) -> bytes:
    inflater = zlib.decompressobj()
    # With a limit, since a few kilobytes may unpack to more than there is memory.
    unpacked = inflater.decompress(data, MAX_UNPACKED_BYTES)
    if inflater.unconsumed_tail:
        raise MalformedMessageError(
            f"payload {ref.key}/{ref.field} unpacks to more than {MAX_UNPACKED_BYTES} bytes; split the job"
        )
    return unpacked + inflater.flush()
