"""What processes of a run hand each other: messages with their payloads, sealed batches, versions."""

import hashlib
import json
import zlib
from pathlib import Path
from typing import Any, NoReturn

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from services.broker.exchange.batches import adopt
from services.inspector.store.sealed import SealedBatches
from services.student.own_answers import describe, ensure
from services.student.weights.loader import WeightLoader
from services.trainer.batches import read_batch, read_group
from shared.bus.payloads import unpack
from shared.config.loading import load_settings
from shared.contracts.batches import BatchSealed, GroupSealed
from shared.contracts.envelope import unwrap, wrap
from shared.contracts.jobs import JobInput, JobOutput, PayloadRef, Prompt, PromptOutput, Sample
from shared.contracts.messages import ChatMessage
from shared.files.store import LocalStore
from shared.problems.formats import format_named
from shared.problems.problem import Problem
from shared.problems.rejection import keep_right
from tests.contract.test_envelope import EXAMPLES
from tests.fakes.engine import FakeEngine
from tests.fakes.student import RUN, publish_version
from tests.fuzz.harness import Fuzz
from tests.fuzz.mutation import altered, damaged, json_like, lines_like, of_kinds, written
from tests.unit.inspector.told import RUN as TOLD_RUN
from tests.unit.inspector.told import ready, seal

INPUT = JobInput(prompts=(Prompt(messages=(ChatMessage(role="user", content="2 + 2?"),), samples=2),))
ANSWER = Sample(text="4", token_ids=(1, 2), logprobs=(-0.5, -0.5), finish_reason="stop")
OUTPUT = JobOutput(job_id="j", version="a@v0", prompts=(PromptOutput(prompt_token_ids=(1,), samples=(ANSWER,)),))

GROUP = next(message for message in EXAMPLES if isinstance(message, GroupSealed))
"""Announces a group ahead of its batch."""


def test_messages(fuzz: Fuzz) -> None:
    """Envelopes and payloads, as Redis gives them; a message that is read is written as itself."""

    def attempt(case: tuple[str, bytes]) -> None:
        kind, data = case
        if kind == "envelope":
            message = fuzz.reads(lambda: unwrap(data))
            assert message is None or unwrap(wrap(message)) == message
            return
        ref = PayloadRef(key="k", field="f", sha256=hashlib.sha256(data).hexdigest())
        if kind == "group":
            fuzz.reads(lambda: read_group(GROUP.model_copy(update={"payload": ref}), data))
            return
        fuzz.reads(lambda: unpack(ref, data, JobInput if kind == "input" else JobOutput))

    cases = {
        "envelope": envelopes(),
        "input": json_like(json.loads(INPUT.model_dump_json())).map(zlib.compress),
        "output": json_like(json.loads(OUTPUT.model_dump_json())).map(zlib.compress)
        | damaged(zlib.compress(OUTPUT.model_dump_json().encode())),
        "group": json_like(json.loads((seal(fuzz.place) / "groups.jsonl").read_bytes().splitlines()[0])).map(
            zlib.compress
        ),
    }
    fuzz.run(of_kinds(cases), attempt, examples=900)


def test_batches_and_versions(fuzz: Fuzz) -> None:
    """Manifests, and the files that they vouch for: whoever can write the one can write the other."""
    batch = seal(fuzz.place)
    groups = [json.loads(line) for line in (batch / "groups.jsonl").read_bytes().splitlines()]
    sealed = json.loads((batch / "manifest.json").read_bytes())
    publish_version(fuzz.place, 1)
    version = fuzz.place / "weights" / "a" / "v000001"
    published = json.loads((version / "manifest.json").read_bytes())
    kept = {path: path.read_bytes() for path in (*batch.iterdir(), *version.iterdir())}

    def attempt(case: tuple[str, bytes]) -> None:
        kind, data = case
        try:
            if kind == "version":
                (version / "manifest.json").write_bytes(data)
                read_version(fuzz)
            elif kind == "groups":
                (batch / "groups.jsonl").write_bytes(data)
                vouched = sealed | {"groups_sha256": hashlib.sha256(data).hexdigest()}
                (batch / "manifest.json").write_text(json.dumps(vouched))
                read_sealed(fuzz, batch)
            else:
                (batch / "manifest.json").write_bytes(data)
                read_sealed(fuzz, batch)
        finally:
            for path, content in kept.items():
                path.write_bytes(content)

    cases = {"groups": lines_like(*groups), "sealed": json_like(sealed), "version": json_like(published)}
    fuzz.run(of_kinds(cases), attempt, examples=250)


def test_own_answers(fuzz: Fuzz) -> None:
    """A student's own answers in the cache, and which of them are kept."""
    problems = tuple(Problem(f"p{n}", "physics", "", f"What is {n} + 1?", str(n + 1)) for n in range(3))
    form = format_named("integer")
    settings = load_settings(preset="smoke", overrides=["specialize.sampling.samples=2"], environ={})
    asked = describe(settings, "a", problems, form)
    rows = [
        {"problem_id": problem.id, "answers": [{"text": f"x = {n}", "ended": True}, {"text": "x", "ended": False}]}
        for n, problem in enumerate(problems, start=1)
    ]
    file = fuzz.place / "samples" / "key.jsonl"
    file.parent.mkdir()

    def read() -> None:
        drawn, _ = ensure(asked, "key", fuzz.place, unasked, unasked)
        keep_right(problems, drawn, form, keep=2)

    def unasked(*_: object) -> NoReturn:
        raise AssertionError("answers that are there are not drawn")

    def attempt(data: bytes) -> None:
        file.write_bytes(data)
        fuzz.reads(read)

    fuzz.run(lines_like(*rows), attempt, examples=250)


def read_sealed(fuzz: Fuzz, batch: Path) -> None:
    """As trainer, broker and inspector do."""
    store = LocalStore(fuzz.place)
    sha256 = hashlib.sha256((batch / "manifest.json").read_bytes()).hexdigest()
    announced = BatchSealed(student="a", step=1, uri="batches/a/s00001", sha256=sha256, base_version="a@v0")
    fuzz.reads(lambda: read_batch(store, announced, TOLD_RUN))
    fuzz.reads(lambda: adopt(store, "a", 1, TOLD_RUN))
    fuzz.reads(lambda: SealedBatches(fuzz.place, TOLD_RUN).exchanges(ready()))


def read_version(fuzz: Fuzz) -> None:
    engine = FakeEngine()
    engine.probed = (-1.0, -2.0)
    loader = WeightLoader(fuzz.place / "weights" / "a", run=RUN, student="a", engine=engine, base_model=None)
    fuzz.reads(lambda: loader.load("a@v1"))


@st.composite
def envelopes(draw: DrawFn) -> bytes:
    """Altered outside, inside, or damaged; the body is a text in JSON, so that its own alterations are made first."""
    outer: dict[str, Any] = json.loads(wrap(draw(st.sampled_from(EXAMPLES))))
    match draw(st.sampled_from(("inside", "outside", "both", "damage"))):
        case "inside":
            inner = written(draw(altered(json.loads(outer["body"]))))
            return written(outer | {"body": inner.decode()})
        case "outside":
            return written(draw(altered(outer)))
        case "both":
            body = draw(damaged(outer["body"].encode())).decode(errors="replace")
            return written(draw(altered(outer | {"body": body})))
    return draw(damaged(written(outer)))
