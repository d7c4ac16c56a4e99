"""Rank 0 leads: what it does of the work it has all ranks do, one command after the other.

What always holds: between two commands the others wait, for as long as rank 0 has to do with bus, lease, or a full
disk; a command that fails fails on all ranks, and rank 0 decides what comes next.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Literal, Protocol

import structlog
import torch
from transformers import PreTrainedTokenizerBase

from services.trainer.model.learner import Learner
from services.trainer.ranks.group import RankLostError
from services.trainer.step.step import NonFiniteError, StageClock
from services.trainer.work import Made, RankWork, Result
from shared.contracts.batches import BatchGroup, BatchSealed, GroupSealed
from shared.contracts.messages import Contract
from shared.contracts.weights import FileEntry
from shared.errors import MalformedMessageError, ModelError, StorageError, reason

log = structlog.get_logger()


class Command(Contract):
    """A method of `StepWork` and its arguments; `begin` loads the model, `stop` is the last."""

    name: Literal["begin", "go_back", "add", "train", "result", "adopt", "write", "stop"]
    step: int | None = None
    ahead: GroupSealed | None = None
    group: BatchGroup | None = None
    sealed: BatchSealed | None = None
    traced: bool = False
    whole: bool = False
    directory: str = ""


class Speaker(Protocol):
    """Rank 0's voice."""

    def told(self, text: str) -> AbstractContextManager[None]: ...


class LeadWork:
    """`StepWork` of all ranks, from rank 0."""

    def __init__(self, own: RankWork, speaker: Speaker) -> None:
        self._own = own
        self._speaker = speaker

    @property
    def learner(self) -> Learner:
        return self._own.learner

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self._own.tokenizer

    @contextmanager
    def _led(self, command: Command) -> Iterator[None]:
        """Raises RankLostError where torch, which gathers weights by itself, finds another rank gone."""
        try:
            with told(self._speaker, command):
                yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise RankLostError(f"a rank was lost, or torch failed, in {command.name}: {reason(error)}") from error

    def go_back(self, step: int | None) -> None:
        with self._led(Command(name="go_back", step=step)):
            self._own.go_back(step)

    def add(self, sealed: GroupSealed, group: BatchGroup, check: Callable[[], None]) -> None:
        with self._led(Command(name="add", ahead=sealed, group=group)):
            self._own.add(sealed, group, check)

    def train(self, sealed: BatchSealed, clock: StageClock, check: Callable[[], None], *, traced: bool) -> Made:
        with self._led(Command(name="train", sealed=sealed, traced=traced)):
            return self._own.train(sealed, clock, check, traced=traced)

    def result(self, *, whole: bool) -> Result:
        with self._led(Command(name="result", whole=whole)):
            return self._own.result(whole=whole)

    def adopt(self, step: int) -> None:
        with self._led(Command(name="adopt", step=step)):
            self._own.adopt(step)

    def write(self, directory: Path) -> Sequence[FileEntry]:
        with self._led(Command(name="write", directory=str(directory))):
            return self._own.write(directory)


def told(speaker: Speaker, command: Command) -> AbstractContextManager[None]:
    """The other ranks carry it out as long as this lasts."""
    return speaker.told(command.model_dump_json())


def next_command(heard: Callable[[], str]) -> Command:
    """What rank 0 has its followers do next."""
    return Command.model_validate_json(heard())


def follow(work: RankWork, heard: Callable[[], str]) -> None:
    """Do what rank 0 says until it says `stop`."""
    while (command := next_command(heard)).name != "stop":
        try:
            _carry_out(work, command)
        except (StorageError, ModelError, MalformedMessageError, NonFiniteError) as error:
            # These are raised on every rank.
            log.warning("not done, on any rank", command=command.name, error=str(error))


def _carry_out(work: RankWork, command: Command) -> None:
    match command:
        case Command(name="go_back"):
            work.go_back(command.step)
        case Command(name="add", ahead=GroupSealed() as ahead, group=BatchGroup() as group):
            # No check of the lease: rank 0 holds it for all, and where it is lost, it ends all of them.
            work.add(ahead, group, lambda: None)
        case Command(name="train", sealed=BatchSealed() as sealed):
            work.train(sealed, StageClock(), lambda: None, traced=command.traced)
        case Command(name="result"):
            work.result(whole=command.whole)
        case Command(name="adopt", step=int() as step):
            work.adopt(step)
        case Command(name="write"):
            work.write(Path(command.directory))
        case _:
            raise ValueError(f"no command that can be carried out: {command!r}")
