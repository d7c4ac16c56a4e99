"""A version's way to its readers, as a ratio to the bare write of its bytes: python benchmarks/publish.py

A version of all weights, `--megabytes` in bf16, in turns with a file of as many bytes that is only written and made
durable. `commit`: its files are written into the checkpoint; `publish`: the version gets them; `read`: a student
verifies it for a server that reads it by itself. A disk that is slow hides what is computed; `--directory /dev/shm`
leaves it out. Processor time, of all threads, is for machines that do other work meanwhile.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from statistics import median

import torch

from services.trainer.checkpoint import CheckpointManifest, Checkpoints, publish
from services.trainer.model.learner import LearnerState
from shared.contracts.ids import version_name, weights_uri
from shared.contracts.weights import WeightsManifest
from shared.files.store import LocalStore
from shared.modeling.adapters import checksum
from shared.modeling.versions import MODEL_FILE, write_model

RUN, STUDENT = "bench", "a"
TENSORS = 64
WRITTEN_BYTES = 4 * 1024 * 1024
STAGES = ("commit", "publish", "read")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--directory", type=Path, help="Where files are written; by default the temporary directory.")
    given = parser.parse_args()
    values = given.megabytes * 1024 * 1024 // 2 // TENSORS
    tensors = {f"layer.{number:02d}.weight": torch.randn(values).bfloat16() for number in range(TENSORS)}
    data = os.urandom(1024 * 1024) * given.megabytes
    identity = checksum(tensors)
    turns = [turn(number, tensors, identity, data, given.directory) for number in range(1, given.turns + 1)]
    print(f"{given.megabytes} MiB, {given.turns} turns, load {os.getloadavg()[0]:.1f}; of a bare write each, median:")
    for name in ("bare", "checksum", *STAGES):
        show(name, [took[name] for took in turns], [took["bare"] for took in turns])
    show("all", [added(took[name] for name in STAGES) for took in turns], [took["bare"] for took in turns])


Took = tuple[float, float]
"""Seconds on the clock and of processors."""


def added(parts: Iterable[Took]) -> Took:
    walls, processors = zip(*parts, strict=True)
    return sum(walls), sum(processors)


def show(name: str, found: list[Took], bare: list[Took]) -> None:
    told = []
    for at, kind in enumerate(("s", "s of processors")):
        ratios = [one[at] / other[at] for one, other in zip(found, bare, strict=True)]
        seconds = median(one[at] for one in found)
        told.append(f"{seconds:7.3f} {kind}, {median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"{name:9}" + "; ".join(told))


def turn(
    number: int, tensors: dict[str, torch.Tensor], identity: str, data: bytes, directory: Path | None
) -> dict[str, Took]:
    """By stage, the bare write first in every other turn and last in the others."""
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        store, path = LocalStore(Path(scratch)), Path(scratch) / "bare"
        stages: list[tuple[str, Callable[[], object]]] = [
            ("commit", lambda: commit(store, tensors, identity)),
            ("publish", lambda: publish(store, checkpoints(store), committed(store))),
            ("read", lambda: store.verify(weights_uri(STUDENT, 1), store.read_manifest(weights_uri(STUDENT, 1)))),
        ]
        stages.append(("checksum", lambda: checksum(tensors)))
        bare = ("bare", lambda: write_bare(path, data))
        return {name: timed(stage) for name, stage in ([bare, *stages] if number % 2 else [*stages, bare])}


def timed(stage: Callable[[], object]) -> Took:
    started, used = time.perf_counter(), time.process_time()
    stage()
    return time.perf_counter() - started, time.process_time() - used


def write_bare(path: Path, data: bytes) -> None:
    with path.open("wb", buffering=0) as file:
        view = memoryview(data)
        for first in range(0, len(view), WRITTEN_BYTES):
            file.write(view[first : first + WRITTEN_BYTES])
        os.fsync(file.fileno())


def checkpoints(store: LocalStore) -> Checkpoints:
    return Checkpoints(store, run=RUN, student=STUDENT, base_sha256="b" * 64)


def committed(store: LocalStore) -> CheckpointManifest:
    return checkpoints(store).read(1)


def commit(store: LocalStore, tensors: dict[str, torch.Tensor], identity: str) -> None:
    """A checkpoint of the version alone, as between two whole ones."""
    weights = WeightsManifest(
        run=RUN,
        student=STUDENT,
        version=version_name(STUDENT, 1),
        parent=version_name(STUDENT, 0),
        kind="full",
        step=1,
        batch_sha256="c" * 64,
        base_model="b" * 64,
        files=(),
        checksum=identity,
        probe=(),
    )
    state = LearnerState(tensors, {}, {}, {}, phase_updates=1, skipped_in_row=0, whole=False)
    files = {MODEL_FILE: partial(write_model, tensors)}
    checkpoints(store).commit(state, token=1, weights=weights, files=files, done=())


if __name__ == "__main__":
    main()
