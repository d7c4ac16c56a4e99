"""Ranks as processes: a group over torch's process groups, gloo between CPUs and NCCL between GPUs.

Two groups of the same ranks: one for what a step asks, and one for what rank 0 says, on which the others wait between
steps. Nobody waits for ever: in a step no longer than `timeout_s`, and between steps rank 0 gives a sign of life every
BEAT_S, which all ranks acknowledge, so that a rank that is stopped is missed by the others.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from services.trainer.ranks.group import RankLostError
from shared.errors import reason

BEAT_S = 20.0
"""Between two signs of life of rank 0."""

SILENT_S = 120.0
"""Without one rank 0 counts as gone, and without an answer to one any other rank."""

_ALIVE = ""


class Ranks:
    """The group of this process, which torch's agent has told its rank (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT)."""

    def __init__(self, device: str, timeout_s: float) -> None:
        """device: "cuda" or "cpu". Raises RankLostError where the others do not come within `timeout_s`."""
        silent_s = min(SILENT_S, timeout_s)
        self._beat_s = min(BEAT_S, silent_s / 6)
        self._saying = threading.Lock()
        with _lost():
            backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
            self._spoken = dist.new_group(backend="gloo", timeout=timedelta(seconds=silent_s))
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()

    # In a step ---------------------------------------------------------------------------------------------
    def any(self, mine: bool) -> bool:
        found = torch.tensor([int(mine)])
        with _lost():
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return bool(found.item())

    def sums(self, mine: Sequence[float]) -> list[float]:
        total = torch.tensor(list(mine), dtype=torch.float64)
        with _lost():
            dist.all_reduce(total)
        sums: list[float] = total.tolist()
        return sums

    def joined(self, mine: Tensor) -> Tensor:
        return torch.cat(self._each(mine.detach().cpu()))

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        if not tensors:
            return
        # One call for all of them: each takes a trip around all ranks.
        flat = torch.cat([each.flatten() for each in tensors])
        with _lost():
            dist.all_reduce(flat)
        for each, total in zip(tensors, torch.split(flat, [each.numel() for each in tensors]), strict=True):
            each.copy_(total.view_as(each))

    def texts(self, mine: str) -> list[str]:
        return [bytes(each.tolist()).decode() for each in self._each(_as_tensor(mine))]

    def _each(self, mine: Tensor) -> list[Tensor]:
        """Of each rank, [N] where N may differ."""
        lengths = [torch.zeros(1, dtype=torch.long) for _ in range(self.size)]
        with _lost():
            dist.all_gather(lengths, torch.tensor([len(mine)]))
            longest = max(int(each) for each in lengths)
            padded = torch.zeros(longest, dtype=mine.dtype)
            padded[: len(mine)] = mine
            found = [torch.empty_like(padded) for _ in range(self.size)]
            dist.all_gather(found, padded)
        return [each[: int(length)] for each, length in zip(found, lengths, strict=True)]

    # What rank 0 says ----------------------------------------------------------------------------------------
    @contextmanager
    def told(self, text: str) -> Iterator[None]:
        """On rank 0: say it to the others, which are busy with it as long as this lasts. Not empty."""
        with self._saying:
            self._say(text)
            yield

    def heard(self) -> str:
        """On the others: what rank 0 says next. Raises RankLostError when it gives no sign of life."""
        while (text := self._hear()) == _ALIVE:
            pass
        return text

    def beat(self, stopping: threading.Event) -> None:
        """On rank 0, in a thread of its own: signs of life until `stopping`. Raises RankLostError."""
        while not stopping.wait(self._beat_s):
            # Who is busy with a command does not listen, and waits for the other ranks anyhow.
            if self._saying.acquire(blocking=False):
                try:
                    self._say(_ALIVE)
                finally:
                    self._saying.release()

    def _say(self, text: str) -> None:
        data = _as_tensor(text)
        with _lost():
            dist.broadcast(torch.tensor([len(data)]), 0, group=self._spoken)
            if len(data):
                dist.broadcast(data, 0, group=self._spoken)
            dist.barrier(group=self._spoken)

    def _hear(self) -> str:
        length = torch.zeros(1, dtype=torch.long)
        with _lost():
            dist.broadcast(length, 0, group=self._spoken)
            data = torch.zeros(int(length), dtype=torch.uint8)
            if len(data):
                dist.broadcast(data, 0, group=self._spoken)
            dist.barrier(group=self._spoken)
        return bytes(data.tolist()).decode()


def _as_tensor(text: str) -> Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


@contextmanager
def _lost() -> Iterator[None]:
    """gloo's errors are RuntimeErrors that name sockets."""
    try:
        yield
    except RuntimeError as error:
        raise RankLostError(
            f"expected an answer of every rank of this trainer, got {reason(error)!r}; the log says which one ended, "
            "and why; one that is slow rather than gone needs a larger trainer.rank_timeout_s"
        ) from error
