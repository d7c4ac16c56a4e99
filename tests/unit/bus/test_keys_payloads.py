"""Names of keys, and payloads."""

import hashlib
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.bus.keys import (
    BROKER,
    LEADER,
    RESULTS,
    STUDENTS,
    TRAINER,
    Keys,
    eval_payloads,
    group_of,
    jobs,
    step_payloads,
    train,
    trainer_lease,
)
from shared.bus.payloads import pack, unpack
from shared.bus.redis_entries import cursor
from shared.contracts.jobs import JobInput, JobKind, JobOutput, PayloadRef, Prompt
from shared.contracts.messages import ChatMessage
from shared.errors import ConfigError, MalformedMessageError, StorageError


def test_every_key_of_a_run_has_its_prefix_and_its_own_name() -> None:
    keys = Keys("lab-1")
    names = [
        *(keys.state, keys.revision, keys.events, keys.dead_letters),
        *(keys.queue(RESULTS), keys.queue(train("a")), keys.attempts(RESULTS)),
        *(keys.queue(jobs("a", kind)) for kind in JobKind),
        *(keys.payload(step_payloads("a", 1)), keys.payload(eval_payloads("a", 1, "test"))),
        *(keys.lease(LEADER), keys.token(LEADER)),
        *(keys.lease(trainer_lease("a")), keys.token(trainer_lease("a"))),
        *(keys.weights_head("a"), keys.serve("a"), keys.heartbeat("student", "a-0")),
    ]
    assert all(name.startswith("opcod:{lab-1}:") for name in names)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("run", ["", "a b", "a*", "{a}", "-a", "a:b", "é", "a\n", "x" * 101])
def test_a_run_id_that_a_pattern_would_read_is_refused(run: str) -> None:
    with pytest.raises(ConfigError, match="run id"):
        Keys(run)


def test_each_queue_has_one_group() -> None:
    found = {queue: group_of(queue) for queue in (jobs("a", "eval"), RESULTS, train("b"))}
    assert found == {"jobs:a:eval": STUDENTS, "results": BROKER, "train:b": TRAINER}
    with pytest.raises(ConfigError, match="queue"):
        group_of("events")


@given(st.text(), st.integers(1, 5))
def test_what_is_packed_is_unpacked(content: str, samples: int) -> None:
    prompts = JobInput(prompts=(Prompt(messages=(ChatMessage(role="user", content=content),), samples=samples),))
    ref, data = pack(prompts, "res:a:s1", "j.in")
    assert unpack(ref, data, JobInput) == prompts
    assert pack(prompts, "res:a:s1", "j.in") == (ref, data)


def ref_of(data: bytes) -> PayloadRef:
    return PayloadRef(key="res:a:s1", field="j", sha256=hashlib.sha256(data).hexdigest())


def test_altered_bytes_are_refused() -> None:
    ref, data = pack(JobOutput(job_id="j", version="a@v1", prompts=()), "res:a:s1", "j")
    with pytest.raises(StorageError, match="sha256"):
        unpack(ref, data[:-1] + b"\x00", JobOutput)


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"plain", "compressed"), (zlib.compress(b"{}"), "not a JobOutput"), (zlib.compress(b"[" * 9), "JobOutput")],
)
def test_bytes_that_hold_something_else_are_malformed(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedMessageError, match=reason):
        unpack(ref_of(data), data, JobOutput)


def test_a_bomb_is_not_unpacked() -> None:
    packer = zlib.compressobj()
    data = b"".join(packer.compress(bytes(1 << 24)) for _ in range(17)) + packer.flush()
    with pytest.raises(MalformedMessageError, match="more than"):
        unpack(ref_of(data), data, JobOutput)


def test_cursors_sort_as_their_ids() -> None:
    assert sorted(["10-1", "9-20", "10-0", "0", "9-3"], key=cursor) == ["0", "9-3", "9-20", "10-0", "10-1"]
