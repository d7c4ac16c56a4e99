"""A version counts as served once enough replicas hold it."""

from pathlib import Path

import pytest

from services.broker.upkeep import Replicas
from shared.bus.keys import RESULTS
from shared.contracts.events import VersionServing
from shared.contracts.heartbeats import Heartbeat
from shared.contracts.run import Status
from shared.contracts.weights import VersionLoaded, VersionRefused
from tests.fakes.broker import BrokerBench
from tests.fakes.bus.memory_server import MemoryServer
from tests.fakes.student import APART, HandClock, prepare_models

CHECKSUM = "c" * 64


def beat(bench: BrokerBench, replica: str, *versions: str, state: str = "ready", ttl_s: float = 60.0) -> None:
    held = dict.fromkeys(versions, CHECKSUM)
    heartbeat = Heartbeat(service="student-a", replica=replica, state=state, versions=held, at=0.0)
    bench.workers.beat(heartbeat, ttl_s=ttl_s)


def replicas(bench: BrokerBench) -> Replicas:
    return Replicas(bench.settings, bench.workers)


@pytest.fixture
def bench(run_dir: Path) -> BrokerBench:
    """Two replicas of student a must hold a version."""
    return BrokerBench(run_dir, overrides=["students.a.replicas=2"], server=MemoryServer(HandClock()))


def test_as_many_as_the_setting_says(bench: BrokerBench) -> None:
    beat(bench, "0", "a@v1")
    beat(bench, "1", "a@v0")
    beat(bench, "2")
    assert not replicas(bench).enough("a", "a@v1")
    assert replicas(bench).enough("a", "a@v1", told_by="1")
    assert not replicas(bench).enough("a", "a@v1", told_by="0")
    beat(bench, "2", "a@v1")
    assert replicas(bench).enough("a", "a@v1")


def test_all_that_are_up_where_there_are_fewer(bench: BrokerBench) -> None:
    assert not replicas(bench).enough("a", "a@v1")
    beat(bench, "0", "a@v1")
    beat(bench, "1", state="starting", ttl_s=5.0)
    assert not replicas(bench).enough("a", "a@v1")
    beat(bench, "1", state="draining", ttl_s=5.0)
    assert replicas(bench).enough("a", "a@v1")
    beat(bench, "1", ttl_s=5.0)
    clock = bench.server.clock
    assert isinstance(clock, HandClock)
    clock.now_s += 6
    assert replicas(bench).enough("a", "a@v1")


def test_one_is_enough_by_default(bench: BrokerBench) -> None:
    assert replicas(bench).enough("b", "b@v1", told_by="7")
    assert not replicas(bench).enough("b", "b@v1")


def test_where_they_keep_versions_apart_one_that_holds_it_is_enough(run_dir: Path) -> None:
    prepare_models(run_dir, "a", "b")
    bench = BrokerBench(run_dir, overrides=APART, server=MemoryServer(HandClock()))
    beat(bench, "0", "a@v1")
    beat(bench, "1", "a@v0")
    found = replicas(bench)
    assert found.enough("a", "a@v1") and found.enough("a", "a@v2", told_by="0") and not found.enough("a", "a@v3")
    assert found.still_enough("a", "a@v3", refused_by="0") and found.still_enough("a", "a@v3", refused_by="0")
    assert found.still_enough("a", "a@v3", refused_by="1"), "it tries again"
    assert not found.still_enough("a", "a@v3", refused_by="1")


def test_the_next_step_waits_for_the_replica_that_lags(bench: BrokerBench) -> None:
    """The bench's student is replica 0 and says at once what it has loaded."""
    for replica in ("0", "1"):
        beat(bench, replica, "a@v0")
    bench.run(lambda state: state.version["a"] == "a@v1")
    bench.settle()
    assert bench.state.served.get("a") != "a@v1" and bench.state.status is Status.TRAINING
    serving = [event for event in bench.events("serving") if isinstance(event, VersionServing)]
    assert [event.version for event in serving].count("a@v1") == 1
    beat(bench, "0", "a@v1", "a@v2")
    bench.workers.publish(
        RESULTS, VersionLoaded(student="a", replica="1", version="a@v1", checksum=CHECKSUM, seconds=0.1)
    )
    bench.run(lambda state: state.served.get("a") == "a@v1")
    beat(bench, "1", "a@v1", "a@v2")
    assert bench.finish().status is Status.DONE


def refuse(bench: BrokerBench, student: str, replica: str, version: str) -> None:
    refused = VersionRefused(student=student, replica=replica, version=version, reason="damaged")
    bench.workers.publish(RESULTS, refused)


def test_a_refusal_pauses_the_run_only_when_too_few_are_left(run_dir: Path) -> None:
    """One is enough here; each says it again with every try, and counts until its second and once it has loaded it."""
    bench = BrokerBench(run_dir, server=MemoryServer(HandClock()))
    for replica in ("0", "1"):
        beat(bench, replica, "a@v0")
    found = replicas(bench)
    for refused_by in ("1", "1", "1", "0"):
        assert found.still_enough("a", "a@v1", refused_by=refused_by)
    assert found.still_enough("a", "a@v2", refused_by="0")
    assert found.enough("a", "a@v1", told_by="1")
    for refused_by in ("0", "0", "1"):
        assert found.still_enough("a", "a@v1", refused_by=refused_by)
    assert not found.still_enough("a", "a@v1", refused_by="1")


def test_where_two_must_hold_it_one_of_two_that_refuses_is_too_many(bench: BrokerBench) -> None:
    for replica in ("0", "1"):
        beat(bench, replica, "a@v0")
    found = replicas(bench)
    assert found.still_enough("a", "a@v1", refused_by="1"), "it tries again"
    assert not found.still_enough("a", "a@v1", refused_by="1")
    beat(bench, "2", "a@v0")
    assert found.still_enough("a", "a@v1", refused_by="1")


def test_a_run_goes_on_when_one_of_two_refuses_and_pauses_when_both_do(run_dir: Path) -> None:
    bench = BrokerBench(run_dir, server=MemoryServer(HandClock()))
    for replica in ("0", "1"):
        beat(bench, replica, "a@v0")
    bench.run(lambda state: state.status is Status.TRAINING)
    refuse(bench, "a", "1", "a@v9")
    bench.run(lambda state: state.steps["a"] == 1)
    assert bench.state.paused is None
    refuse(bench, "a", "1", "a@v9")
    refuse(bench, "a", "0", "a@v9")
    bench.run(lambda state: state.steps["a"] == 2)
    assert bench.state.paused is None, "it tries once more"
    refuse(bench, "a", "0", "a@v9")
    bench.run(lambda state: state.paused is not None)
    assert bench.state.paused == "student-a refused a@v9: damaged"
