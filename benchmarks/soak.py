"""A long run that loses a process every few seconds: python benchmarks/soak.py --minutes 30

Scripted students and trainers of a tiny model, as `opcod run` starts them. Every --every seconds one service, chosen at
random without repetition until all had their turn, is killed with SIGKILL. Afterwards every step must have been applied
exactly once, from its own batch, and no message may be left or dead. Memory is the proportional set size of everything
together, sampled every second: medians of the first and the last third.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import psutil

from tests.fakes.deployment import CONTEXT, ScriptedDeployment, assert_applied_once
from tests.fakes.fork_server import fork_server
from tests.unit.modeling.tiny_model import write_tiny_model

STEPS = 100_000
SERVICES = ("student-a", "student-b", "trainer-a", "trainer-b", "broker", "inspector")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--every", type=float, default=10, help="seconds between two kills")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with fork_server(), tempfile.TemporaryDirectory() as directory:
        model = write_tiny_model(Path(directory) / "model", context=CONTEXT)
        running = ScriptedDeployment(
            Path(directory), "soak", model, f"run.steps_per_round={STEPS}", deadline_s=60 * arguments.minutes + 600
        )
        try:
            running.until_training()
            soak(running, 60 * arguments.minutes, arguments.every, random.Random(arguments.seed))
        finally:
            running.close()
        return judge(running)


def soak(running: ScriptedDeployment, seconds: float, every_s: float, chance: random.Random) -> None:
    memory: list[int] = []
    turns: list[str] = []
    kills = 0
    ends = time.monotonic() + seconds
    next_kill = time.monotonic() + every_s
    while time.monotonic() < ends:
        running.launcher.watch()
        memory.append(_memory())
        if time.monotonic() >= next_kill:
            turns = turns or chance.sample(SERVICES, len(SERVICES))
            os.kill(running.launcher.pids()[turns.pop()], signal.SIGKILL)
            kills, next_kill = kills + 1, next_kill + every_s
        time.sleep(1)
    third = len(memory) // 3
    first, last = median(memory[:third]), median(memory[-third:])
    print(f"{kills} kills in {seconds / 60:g} minutes; restarts {running.launcher.restarts}")
    print(f"memory, first and last third: {first / 2**20:.0f} and {last / 2**20:.0f} MiB ({last / first:.2f})")
    assert running.bus.dead_letters() == [], running.bus.dead_letters()


def judge(running: ScriptedDeployment) -> int:
    """Every step that the trainers applied, exactly once."""
    for student in ("a", "b"):
        steps = len(list((running.paths.run_dir / "weights" / student).glob("v*")))
        assert_applied_once(running.paths.run_dir, student, steps)
        print(f"student {student}: {steps} steps, each applied once")
    return 0


def _memory() -> int:
    total = 0
    for process in psutil.Process().children(recursive=True):
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return total


if __name__ == "__main__":
    sys.exit(main())
