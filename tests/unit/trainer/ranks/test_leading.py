"""Rank 0 says what it does, the others do it, and an error that all ranks have does not end them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from services.trainer.batches import read_group
from services.trainer.ranks.group import RankLostError
from services.trainer.ranks.leading import Command, LeadWork, follow
from services.trainer.step.step import NonFiniteError, StageClock
from services.trainer.work import RankWork
from shared.errors import StorageError
from shared.files.store import LocalStore
from tests.unit.trainer.ground import checkpoints_of, learner, rank_work, seal_steps, seal_streamed, settings


class Said:
    """Keeps what rank 0 says, for who follows later."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    @contextmanager
    def told(self, text: str) -> Iterator[None]:
        self.texts.append(text)
        yield


def work_of(run_dir: Path, tiny_dir: Path) -> RankWork:
    store, step = LocalStore(run_dir), settings()
    return rank_work(learner(tiny_dir, step), tiny_dir, checkpoints_of(store), step, store)


def test_who_follows_does_what_rank_0_does(tmp_path: Path, tiny_dir: Path) -> None:
    first, second = seal_steps(tmp_path, tiny_dir, 2)
    said = Said()
    lead = LeadWork(work_of(tmp_path, tiny_dir), said)
    (tmp_path / second.uri / "groups.jsonl").write_bytes(b"altered")
    lead.go_back(None)
    lead.train(first, StageClock(), lambda: None, traced=True)
    with pytest.raises(StorageError, match="sha256"):
        lead.train(second, StageClock(), lambda: None, traced=True)
    result = lead.result(whole=True)
    assert lead.write(tmp_path) == []
    said.texts.append(Command(name="stop").model_dump_json())
    assert [Command.model_validate_json(text).name for text in said.texts] == [
        "go_back",
        "train",
        "train",
        "result",
        "write",
        "stop",
    ]

    other = work_of(tmp_path, tiny_dir)
    heard = iter(said.texts)
    follow(other, lambda: next(heard))
    state = other.learner.state()
    assert all(torch.equal(each, state.teacher[name]) for name, each in result.state.teacher.items())
    assert all(torch.equal(each, state.published[name]) for name, each in result.state.published.items())
    assert next(heard, None) is None


def test_who_follows_begins_a_step_with_rank_0(tmp_path: Path, tiny_dir: Path) -> None:
    sealed, ahead = seal_streamed(tmp_path, tiny_dir, 1, [2, 0, 1])
    said = Said()
    lead = LeadWork(work_of(tmp_path, tiny_dir), said)
    for group, payload in ahead[:2]:
        lead.add(group, read_group(group, payload), lambda: None)
    lead.train(sealed, StageClock(), lambda: None, traced=True)
    expected = lead.learner.state().published
    said.texts.append(Command(name="stop").model_dump_json())
    assert [Command.model_validate_json(text).name for text in said.texts] == ["add", "add", "train", "stop"]

    other = work_of(tmp_path, tiny_dir)
    heard = iter(said.texts)
    follow(other, lambda: next(heard))
    found = other.learner.state().published
    assert all(torch.equal(each, found[name]) for name, each in expected.items())


def test_what_cannot_be_carried_out_ends_it(tmp_path: Path, tiny_dir: Path) -> None:
    with pytest.raises(ValueError, match="no command"):
        follow(work_of(tmp_path, tiny_dir), lambda: Command(name="train").model_dump_json())


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        # As gloo says it where weights are gathered, and NCCL in other words.
        (RuntimeError("Connection closed by peer"), RankLostError),
        (torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError),
        (NonFiniteError("three updates in a row"), NonFiniteError),
        (RankLostError("rank 1 has ended"), RankLostError),
        (ZeroDivisionError("division by zero"), ZeroDivisionError),
    ],
)
def test_what_torch_says_of_a_rank_that_is_gone_refuses_no_step(
    tmp_path: Path, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, raised: type[Exception]
) -> None:
    """The trainer begins again then, and the step with it."""
    own = work_of(tmp_path, tiny_dir)

    def fail(_: int | None) -> None:
        raise error

    monkeypatch.setattr(own, "go_back", fail)
    with pytest.raises(raised, match=str(error)):
        LeadWork(own, Said()).go_back(3)
