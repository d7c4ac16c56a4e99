"""Ranks of a trainer beside a trainer of one process, and what the loss of one costs: python benchmarks/ranks.py

Sides take turns on the same rows, each in processes of its own that load the model once: `plain`, a trainer of one
process; `one`, a group of a single rank, which shares its weights out to itself; `two`, two ranks. Each process has one
thread and a core of its own, so two ranks have two cores where `plain` has one. Time is that of the whole step, of the
slower rank; CPU time that of all ranks, for machines that do other work meanwhile. The first step of each side warms
up and does not count.

Peak memory is a rank's largest resident set during a step; its growth is that minus what a process has before it reads
its model. It is measured in processes of their own whose freed memory goes back to the system at once, which costs
time: a C allocator keeps what ranks gather and give back block by block, and would be what is measured.

With `--kills` a deployment of scripted students and trainers of two ranks then loses rank 1 of a trainer, as often: the
seconds until the next step of both students is applied, beside those of a step that nobody disturbs.
"""

import argparse
import json
import os
import socket
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median

from measured import MeasuredProcess

SIDES = {"plain": 1, "one": 1, "two": 2}
"""With how many processes."""

BESIDE = "plain"
KINDS = ("full", "lora")
TIMEOUT_S = 1800.0
MEMORY_TURNS = 2
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""To glibc: what is larger is mapped by itself, and so is gone when it is freed."""

PASSED_ON = ("kind", "groups", "pass_tokens")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--sides", nargs="+", choices=tuple(SIDES), default=list(SIDES))
    parser.add_argument(
        "--hidden", type=int, default=512, help="of the model, whose parameters are to outweigh its rows"
    )
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--groups", type=int, default=32, help="of four rows each")
    parser.add_argument("--pass-tokens", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--side", choices=tuple(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        return serve(given)
    with tempfile.TemporaryDirectory() as directory:
        given.model = write_model(Path(directory) / "model", given)
        for kind in given.kinds if given.repeats else ():
            given.kind = kind
            compare(given)
    if given.kills:
        recover(given.kills)
    return 0


def write_model(directory: Path, given: argparse.Namespace) -> Path:
    from tests.unit.modeling.tiny_model import write_tiny_model

    return write_tiny_model(directory, hidden=given.hidden, blocks=given.blocks)


def compare(given: argparse.Namespace) -> None:
    """First for time, and then for memory."""
    measured = measure(given, given.repeats, {})
    for side, steps in measure(given, MEMORY_TURNS, GIVEN_BACK).items():
        peaks = {name: median(step[name] for step in steps) for name in ("peak_bytes", "grown_bytes")}
        measured[side] = [step | peaks for step in measured[side]]
    show(measured)


def measure(given: argparse.Namespace, repeats: int, environment: dict[str, str]) -> dict[str, list[dict[str, float]]]:
    """Let the sides take turns. environment: of their processes, besides ours."""
    cores = sorted(os.sched_getaffinity(0))
    sides = {side: [Rank(given, side, rank, cores, environment) for rank in range(SIDES[side])] for side in given.sides}
    _meet(sides)
    said = {side: [rank.read() for rank in ranks] for side, ranks in sides.items()}
    print(f"\n{given.kind}: {said[given.sides[0]][0]['model']}, {4 * given.groups} rows, {len(cores)} cores, ", end="")
    print(f"load {os.getloadavg()[0]:.1f}, {repeats} turns{' for memory' if environment else ''}")
    measured: dict[str, list[dict[str, float]]] = defaultdict(list)
    for turn in range(repeats + 1):
        for side, ranks in sides.items():
            for rank in ranks:
                rank.tell("step")
            steps = [rank.read() for rank in ranks]
            grown = [
                step["peak_bytes"] - first["resident_bytes"] for step, first in zip(steps, said[side], strict=True)
            ]
            if turn:
                measured[side].append(
                    {
                        "seconds": max(step["seconds"] for step in steps),
                        "cpu_seconds": sum(step["cpu_seconds"] for step in steps),
                        "peak_bytes": max(step["peak_bytes"] for step in steps),
                        "grown_bytes": max(grown),
                        "loss": steps[0]["loss"],
                    }
                )
    for ranks in sides.values():
        for rank in ranks:
            rank.close()
    return measured


def show(measured: dict[str, list[dict[str, float]]]) -> None:
    columns = ["side", "s a step, median (min–max)", "CPU s", "peak MiB", "growth MiB", "loss"]
    columns += [f"to {BESIDE}: {name}" for name in ("time", "CPU time", "peak", "growth")]
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    names = ("seconds", "cpu_seconds", "peak_bytes", "grown_bytes")
    for side, steps in measured.items():
        seconds, cpu, peak, grown = (median(step[name] for step in steps) for name in names)
        times = [step["seconds"] for step in steps]
        cells = [side, f"{seconds:.2f} ({min(times):.2f}–{max(times):.2f})", f"{cpu:.2f}", f"{peak / 2**20:.0f}"]
        cells += [f"{grown / 2**20:.0f}", f"{steps[0]['loss']:.5f}"]
        if BESIDE in measured:
            # Turn by turn: what else the machine does changes from one to the next.
            pairs = list(zip(steps, measured[BESIDE], strict=True))
            cells += [f"{median(one[name] / other[name] for one, other in pairs):.2f}" for name in names]
        print("| " + " | ".join(cells) + " |")


class Rank(MeasuredProcess):
    """One process of a side, on one core."""

    def __init__(
        self, given: argparse.Namespace, side: str, rank: int, cores: list[int], environment: dict[str, str]
    ) -> None:
        command = [sys.executable, __file__, "--side", side, "--model", str(given.model)]
        for name in PASSED_ON:
            command += [f"--{name.replace('_', '-')}", str(getattr(given, name))]
        own = {"RANK": str(rank), "WORLD_SIZE": str(SIDES[side]), "OMP_NUM_THREADS": "1"}
        super().__init__(command, {**os.environ, **environment, **own})
        # Of each side alone: sides take turns.
        os.sched_setaffinity(self.pid, {cores[rank % len(cores)]})


def _meet(sides: dict[str, list[Rank]]) -> None:
    """Each side at a port of its own."""
    for ranks in sides.values():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        for rank in ranks:
            rank.tell(str(port))


# --- in a measured process ---------------------------------------------------------------------------------------


def serve(given: argparse.Namespace) -> int:
    """Make steps for as long as stdin asks for them."""
    import time

    import torch
    from trainer_step import memory_bytes, reset_peak

    from services.trainer.step.step import StageClock, train_step
    from tests.ranks.part import learner_of
    from tests.unit.trainer import ground

    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.stdin.readline().strip(), "GLOO_SOCKET_IFNAME": "lo"}
    settings = ground.settings(micro_batch_tokens=given.pass_tokens)
    rows = ground.rows(given.groups)
    if given.side == "plain":
        first = memory_bytes("VmRSS")
        learner = ground.learner(given.model, settings, full="float32" if given.kind == "full" else None)
    else:
        from services.trainer.ranks.processes import Ranks

        group = Ranks("cpu", TIMEOUT_S)
        first = memory_bytes("VmRSS")
        learner = learner_of(group, given.model, given.kind, settings)
    parameters = sum(each.numel() for each in learner.model.parameters) * (
        SIDES[given.side] if learner.model.sharded else 1
    )
    print(json.dumps({"resident_bytes": first, "model": f"{parameters / 1e6:.1f}M trained parameters"}), flush=True)
    while sys.stdin.readline():
        reset_peak()
        started, used = time.perf_counter(), time.process_time()
        metrics = train_step(learner, rows, settings, StageClock())
        found = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - used}
        print(json.dumps({**found, "peak_bytes": memory_bytes("VmHWM"), "loss": metrics.loss}), flush=True)
    # Not as Python ends, which would say goodbye to ranks that are gone.
    os._exit(0)


# --- a rank that is lost -------------------------------------------------------------------------------------------


def recover(kills: int) -> None:
    from recovery import deployment, measure

    with deployment("trainer.ranks=2", "run.weights=full") as running:
        measure(running, kills, ("trainer-a, rank 1",))


if __name__ == "__main__":
    sys.exit(main())
