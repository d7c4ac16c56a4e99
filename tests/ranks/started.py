"""Ranks as processes, started together and awaited."""

import os
import time
from pathlib import Path

from tests.fakes.forked import Forked
from tests.fakes.valkey import free_port
from tests.fakes.waiting import WAIT_S


def start_ranks(size: int, directory: Path, *arguments: str) -> list[Forked]:
    """`tests.ranks.part` as each of `size` ranks, with a log of its own in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    told = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(size),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    return [
        Forked("tests.ranks.part", arguments, told | {"RANK": str(rank)}, log_of(directory, rank))
        for rank in range(size)
    ]


def run_ranks(size: int, directory: Path, *arguments: str) -> None:
    """Until all have ended; fails with their logs where one ends otherwise than with 0."""
    processes = start_ranks(size, directory, *arguments)
    deadline = time.monotonic() + WAIT_S
    try:
        codes = [process.wait(max(0.1, deadline - time.monotonic())) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait(timeout=WAIT_S)
    assert codes == [0] * size, "\n".join(log_of(directory, rank).read_text() for rank in range(size))


def log_of(directory: Path, rank: int) -> Path:
    return directory / f"rank-{rank}.log"
