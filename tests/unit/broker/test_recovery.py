"""Where a starting broker takes the run's state from."""

from pathlib import Path

import pytest

from services.broker.machine import machine
from services.broker.recovery import choose, highest_fence
from shared.errors import StorageError
from shared.files.batches import sealed_steps
from shared.files.state import read_state_file, write_state_file
from tests.fakes.world import small_plan


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
