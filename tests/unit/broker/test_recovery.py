"""Where a starting broker takes the run's state from."""

from collections.abc import Callable
from pathlib import Path

import pytest

from services.broker.machine import machine
from services.broker.recovery import choose, highest_fence
from shared.contracts.run import STATE_FILE, RunState, Status
from shared.errors import ConfigError, StorageError
from shared.files.batches import sealed_steps
from shared.files.state import (
    IDENTITY_FILE,
    read_state_file,
    require_own_state,
    write_identity,
    write_state_file,
)
from tests.fakes.broker import BrokerBench
from tests.fakes.whole_runs import first_is_applied
from tests.fakes.world import small_plan

OFF = ("feedback.revise_share=0.0",)


def state(incarnation: int, revision: int) -> str:
    made = machine.new_run(small_plan(), incarnation=incarnation, at=1.0)
    return made.model_copy(update={"revision": revision}).model_dump_json()


@pytest.mark.parametrize(
    ("in_redis", "on_disk", "found", "empty"),
    [
        (None, None, None, False),
        ((1, 5), None, (1, 5), False),
        (None, (1, 5), (1, 5), True),
        ((1, 5), (1, 5), (1, 5), False),
        ((1, 6), (1, 5), (1, 6), False),
        ((1, 4), (1, 5), (1, 5), True),
        ((2, 1), (1, 9), (2, 1), False),
        ((1, 9), (2, 1), (2, 1), True),
    ],
)
def test_the_newer_state_is_taken(
    in_redis: tuple[int, int] | None, on_disk: tuple[int, int] | None, found: tuple[int, int] | None, empty: bool
) -> None:
    chosen = choose(in_redis and state(*in_redis), on_disk and state(*on_disk))
    assert (chosen.state and (chosen.state.incarnation, chosen.state.revision)) == found
    assert chosen.redis_was_empty is empty


def test_it_says_where_the_state_was_taken_from_and_why() -> None:
    assert choose(None, None).why == "a new run"
    newer = choose(state(1, 4), state(1, 5))
    assert (newer.source, newer.why) == ("state.json", "newer than Redis: revision 1.5, against 1.4")
    alike = choose(state(2, 3), state(2, 3))
    assert alike.source == "Redis"
    assert alike.why == "at least as new as state.json: revision 2.3, against 2.3"


@pytest.mark.parametrize(("in_redis", "on_disk", "where"), [("{}", None, "Redis"), (None, "torn", "state.json")])
def test_a_state_that_cannot_be_read_says_where_it_lies(in_redis: str | None, on_disk: str | None, where: str) -> None:
    with pytest.raises(StorageError, match=f"state in {where} does not fit"):
        choose(in_redis, on_disk)


def test_the_state_file_is_read_back(tmp_path: Path) -> None:
    assert read_state_file(tmp_path) is None
    made = machine.new_run(small_plan(), incarnation=3, at=1.0)
    write_state_file(tmp_path, made)
    assert choose(None, read_state_file(tmp_path)).state == made


def test_only_whole_batches_count_as_sealed(tmp_path: Path) -> None:
    assert sealed_steps(tmp_path, "a") == []
    for name, whole in (("s00001", True), ("s00012", True), ("s00013", False), ("sundry", True)):
        (tmp_path / "batches/a" / name).mkdir(parents=True)
        if whole:
            (tmp_path / "batches/a" / name / "manifest.json").write_text("{}")
    assert sealed_steps(tmp_path, "a") == [1, 12]


def test_the_fence_is_seeded_from_the_state_file(tmp_path: Path) -> None:
    assert highest_fence(tmp_path) == 0
    made = machine.new_run(small_plan(), incarnation=3, at=1.0)
    write_state_file(tmp_path, made.model_copy(update={"fence": 7}))
    assert highest_fence(tmp_path) == 7


@pytest.mark.parametrize("until", [first_is_applied, lambda state: state.status is Status.DONE])
def test_a_new_run_takes_up_no_other_of_its_name(run_dir: Path, until: Callable[[RunState], bool]) -> None:
    old, new = run_dir / "old", run_dir / "new"
    write_identity(old)
    first = BrokerBench(old, OFF)
    first.run(until)
    write_identity(new)
    with pytest.raises(ConfigError, match="another run of that name") as told:
        BrokerBench(new, OFF, server=first.server)
    assert "opcod:{test}:*" in str(told.value)
    assert not (new / STATE_FILE).exists()
    # The other one is as it was, and goes on.
    again = BrokerBench(old, OFF, server=first.server)
    assert again.state.incarnation > first.state.incarnation
    # Nor is it taken up by a run without an identity, or one of those by a run that has one.
    with pytest.raises(ConfigError, match="another run of that name"):
        BrokerBench(run_dir / "older", OFF, server=first.server)
    before = BrokerBench(run_dir / "older", OFF)
    with pytest.raises(ConfigError, match="another run of that name"):
        BrokerBench(new, OFF, server=before.server)


@pytest.mark.parametrize("identified", [True, False])
def test_a_run_whose_state_file_is_deleted_goes_on_from_redis(run_dir: Path, identified: bool) -> None:
    if identified:
        write_identity(run_dir)
    bench = BrokerBench(run_dir, OFF)
    bench.run(first_is_applied)
    assert (bench.state.identity is not None) is identified
    (run_dir / STATE_FILE).unlink()
    bench.start()
    assert bench.state.incarnation == 2 and first_is_applied(bench.state)


def test_a_run_goes_on_from_a_copy_that_holds_its_state(run_dir: Path) -> None:
    """A backup may lack the identity; the state has it."""
    write_identity(run_dir)
    bench = BrokerBench(run_dir, OFF)
    bench.run(first_is_applied)
    (run_dir / IDENTITY_FILE).unlink()
    bench.start()
    assert first_is_applied(bench.state)


def test_of_a_run_that_is_still_to_be_begun_no_state_is_its_own(tmp_path: Path) -> None:
    require_own_state(None, "test", tmp_path, begun=False)
    require_own_state(state(1, 4), "test", tmp_path)
    with pytest.raises(ConfigError, match="another run of that name"):
        require_own_state(state(1, 4), "test", tmp_path, begun=False)
