"""Whatever bytes come: a decoder gives what they say, or its own kind of error, and never another one."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.contracts.envelope import Envelope, Message, unwrap, wrap
from shared.errors import MalformedMessageError, StorageError
from shared.files.store import listed_files
from tests.contract.test_envelope import EXAMPLES

WRAPPED = [wrap(message) for message in EXAMPLES]
NESTED = b"[" * 100_000
TEXT = st.text(max_size=40)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))


@given(st.binary(max_size=300) | VALUES.map(lambda value: json.dumps(value).encode()))
@example(NESTED)
@example(b"\xff\xfe{}")
@example(b'{"id": "\\ud800"}')
def test_f13_bytes_are_a_message_or_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        unwrap(data)


@given(st.sampled_from(WRAPPED), st.data())
def test_f13_a_message_with_changed_bytes_is_itself_another_or_malformed(data: bytes, draw: st.DataObject) -> None:
    at = draw.draw(st.integers(0, len(data) - 1))
    changed = data[:at] + draw.draw(st.binary(max_size=3)) + data[at + draw.draw(st.integers(0, 3)) :]
    try:
        message = unwrap(changed)
    except MalformedMessageError:
        return
    assert unwrap(wrap(message)) == message


@given(st.sampled_from(sorted(Message.registry)), VALUES)
def test_f13_a_known_type_with_any_body_is_a_message_or_malformed(kind: str, body: object) -> None:
    data = Envelope(id="x", type=kind, body=json.dumps(body)).model_dump_json().encode()
    try:
        message = unwrap(data)
    except MalformedMessageError:
        return
    assert message.key == "x"


@given(st.binary(max_size=300) | VALUES.map(lambda value: json.dumps(value).encode()))
@example(NESTED)
@example(b'{"files": ' + NESTED)
@example(b'{"files": [{"name": "../x", "sha256": "0", "bytes": -1}]}')
@example(b'"files"')
@example(b"\xff")
def test_f26_bytes_are_a_manifest_or_refused(data: bytes) -> None:
    try:
        found = listed_files(data)
    except StorageError:
        return
    assert all(isinstance(name, str) and isinstance(sha256, str) for name, sha256 in found.items())
