"""The wire format: golden JSON schemas of everything that services say to each other, and the envelope around it.

After an intended change: bump SCHEMA in shared/contracts/envelope.py if old messages cannot be read any more, then
write the golden files again with `python tests/contract/test_envelope.py`, and look at the difference.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter

from shared.bus.port import Bus  # noqa: F401  (its imports register the messages)
from shared.contracts.acting import Control  # noqa: F401  (registers itself)
from shared.contracts.batches import AddedGroup, BatchManifest, BatchSealed, GroupSealed
from shared.contracts.envelope import SCHEMA, Envelope, Message, unwrap, wrap
from shared.contracts.events import EVENT
from shared.contracts.heartbeats import Heartbeat
from shared.contracts.jobs import JobInput, JobOutput, PayloadRef
from shared.contracts.run import RunState
from shared.contracts.traces import StepTrace
from shared.contracts.weights import ServeSet, WeightsManifest
from shared.errors import MalformedMessageError
from tests.contract.messages import done, job, output, published, started, step_done

OTHERS: tuple[type[BaseModel], ...] = (
    Envelope,
    JobInput,
    JobOutput,
    BatchManifest,
    WeightsManifest,
    ServeSet,
    Heartbeat,
    RunState,
    StepTrace,
)
MESSAGES = {name: kind for name, kind in Message.registry.items() if kind.__module__.startswith("shared.contracts")}
SCHEMAS: dict[str, TypeAdapter[Any]] = {
    **{name: TypeAdapter(kind) for name, kind in MESSAGES.items()},
    **{kind.__name__: TypeAdapter(kind) for kind in OTHERS},
    "Event": EVENT,
}
EXAMPLES: tuple[Message, ...] = (
    job("r1.a.s17.p1.rollout"),
    started("j"),
    done("j", output("j")[0]),
    done("j", error="no memory"),
    published(3),
    step_done(3),
    BatchSealed(student="a", step=17, uri="batches/a/s00017", sha256="0" * 64, base_version="a@v16"),
    GroupSealed(
        student="a",
        step=17,
        base_version="a@v16",
        phase_start=False,
        position=2,
        groups=4,
        group=AddedGroup(problem_id="p1", sha256="0" * 64),
        payload=PayloadRef(key="res:a:s17", field="p1.group", sha256="1" * 64),
    ),
)


def schema_text(name: str) -> str:
    return json.dumps(SCHEMAS[name].json_schema(), indent=2, sort_keys=True) + "\n"


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_the_schema_is_the_golden_one(name: str, golden: Path) -> None:
    path = golden / f"{name}.json"
    hint = "if this change is intended, run `python tests/contract/test_envelope.py` and commit the difference"
    assert path.is_file(), f"{path} is missing; {hint}"
    assert schema_text(name) == path.read_text(), f"the schema of {name} differs from {path}; {hint}"


def test_every_golden_file_has_its_class(golden: Path) -> None:
    assert sorted(path.stem for path in golden.glob("*.json")) == sorted(SCHEMAS)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: message.key)
def test_what_is_wrapped_is_unwrapped(message: Message) -> None:
    assert unwrap(wrap(message)) == message
    assert json.loads(wrap(message))["id"] == message.key


def test_a_message_over_eight_kilobytes_is_refused() -> None:
    with pytest.raises(MalformedMessageError, match="payload"):
        wrap(started("j").model_copy(update={"replica": "r" * 9000}))


BROKEN = {
    "later schema": ({"schema_version": SCHEMA + 1}, "differ in version"),
    "unknown type": ({"type": "Nothing"}, "unknown message type"),
    "foreign key": ({"id": "other"}, "not the body's key"),
    "extra field": ({"colour": "red"}, "schema"),
    "broken body": ({"body": "{"}, "schema"),
    "endless type": ({"type": "N" * 5000}, "unknown message type 'N{60}'… .5,000 characters.$"),
    "many fields": ({f"field {number}": 1 for number in range(200)}, "schema: field 0: Extra inputs .* and 197 more$"),
}


@pytest.mark.parametrize(("change", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_what_cannot_be_trusted_is_malformed(change: dict[str, object], reason: str) -> None:
    fields = json.loads(wrap(started("j"))) | change
    with pytest.raises(MalformedMessageError, match=reason):
        unwrap(json.dumps(fields).encode())


def write_golden_files(folder: Path) -> None:
    for path in folder.glob("*.json"):
        path.unlink()
    for name in SCHEMAS:
        (folder / f"{name}.json").write_text(schema_text(name))


if __name__ == "__main__":
    write_golden_files(Path(__file__).parent / "golden")
