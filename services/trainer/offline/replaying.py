"""Trains a student again on the sealed batches of a run, and on nothing else: no students, no broker, no Redis.

`python -m services.trainer.offline.replaying --student a --batches R --out D` reads settings and base model from D and
the batches from R, writes checkpoints and versions under D, and prints a line of JSON, a ReplayedStep, for each step.
With the settings of R, on the same machine, device and thread count, every version comes out bit for bit, on a GPU as
far as `trainer.deterministic` goes; `trainer.ranks` ranks make it. With other settings it tells what they would have
made of the same rollouts and the same feedback: from the second step on the rollouts are no longer those of the student
that is trained, and its importance weights correct for that up to their cut.
"""

import argparse
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from services.trainer.app import build_trainer, follow_rank_0
from services.trainer.batches import sealed_batch
from services.trainer.checkpoint import Checkpoints
from services.trainer.config import TrainingConfig, training_config
from services.trainer.device import set_up
from services.trainer.ranks.leading import Command, told
from shared.config.loading import settings_of
from shared.contracts.batches import BatchManifest, BatchSealed
from shared.contracts.ids import weights_uri
from shared.contracts.weights import ReplayedStep, WeightsManifest
from shared.errors import ConfigError, StorageError
from shared.files.batches import sealed_steps
from shared.files.store import LocalStore
from shared.modeling.device import device_here
from shared.parents import run_service

if TYPE_CHECKING:
    from services.trainer.ranks.processes import Ranks


class _SoleWriter:
    """The right to write where no other trainer can be: the launcher holds the directory's lock."""

    token = 1

    def check(self) -> None:
        pass

    def confirm(self) -> None:
        pass


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Raises ConfigError, ModelError or StorageError."""
    parser = argparse.ArgumentParser(prog="replaying", description="Train a student again on its sealed batches.")
    parser.add_argument("--student", required=True)
    parser.add_argument("--batches", required=True, type=Path, help="The run whose sealed batches are used.")
    parser.add_argument("--out", required=True, type=Path, help="Where checkpoints and versions are written.")
    parser.add_argument("--until", type=int, default=None, help="The last step.")
    given = parser.parse_args(arguments)
    settings = settings_of(given.out)
    settings.require_student(given.student)
    ranks = settings.trainer.ranks
    if ranks == 1:
        return _print(replay(given.student, given.batches, given.out, given.until))
    # Not before: a replay by one rank needs none of it.
    from services.trainer.ranks.launching import is_rank, launch

    if not is_rank():
        own = sys.argv[1:] if arguments is None else arguments
        return launch("services.trainer.offline.replaying", f"replay-{given.student}", ranks, own)
    return replay_as_rank(given.student, given.batches, given.out, given.until)


def replay_as_rank(student: str, source: Path, out: Path, until: int | None) -> int:
    """As `replay`, by as many ranks as the run had; rank 0 prints."""
    from services.trainer.ranks.processes import Ranks

    ranks = Ranks(device_here(), settings_of(out).trainer.rank_timeout_s)
    if ranks.rank > 0:
        config, _ = _begun(student, source, out, until)
        return follow_rank_0(config, LocalStore(source), _checkpoints(config, LocalStore(out)), ranks)
    # Rank 0 says that it lives while it reads and writes, as in a trainer: the others wait no longer than their
    # timeout.
    ended = threading.Event()
    threading.Thread(target=ranks.beat, args=(ended,), daemon=True).start()
    _print(replay(student, source, out, until, ranks))
    with told(ranks, Command(name="stop")):
        ended.set()
    return 0


def _print(steps: Iterator[ReplayedStep]) -> int:
    for step in steps:
        sys.stdout.write(step.model_dump_json() + "\n")
        sys.stdout.flush()
    return 0


def replay(
    student: str, source: Path, out: Path, until: int | None, ranks: "Ranks | None" = None
) -> Iterator[ReplayedStep]:
    """One step after the other. `out` holds config.toml and models/; steps it has already are not made again.

    ranks: those that this process leads.
    """
    config, sealed = _begun(student, source, out, until)
    set_up(config.settings, device_here())
    store, recorded = LocalStore(out), LocalStore(source)
    checkpoints = _checkpoints(config, store)
    trainer = build_trainer(config, store, checkpoints, threading.Event(), batches=recorded, ranks=ranks)
    trainer.restore()
    for batch in sealed:
        if batch.step > trainer.step:
            trainer.apply(batch, _SoleWriter())
            trainer.publish()
        done = trainer.done(batch.step)
        yield ReplayedStep(
            student=student,
            step=batch.step,
            version=done.version,
            checksum=done.checksum,
            recorded=_recorded_checksum(recorded, student, batch.step),
            loss=done.metrics.loss,
            grad_norm=done.metrics.grad_norm,
        )


def _begun(student: str, source: Path, out: Path, until: int | None) -> tuple[TrainingConfig, list[BatchSealed]]:
    """What is trained, and on which batches. Raises ConfigError where there are none."""
    sealed = sealed_batches(source, student)[:until]
    if not sealed:
        raise ConfigError(f"expected sealed batches of student {student} under {source}, found none")
    # The name of the run that is replayed, as it stands in every batch and, so, in what is made of them.
    run = BatchManifest.model_validate_json(LocalStore(source).read_manifest(sealed[0].uri)).run
    return training_config(settings_of(out), run, out, student), sealed


def _checkpoints(config: TrainingConfig, store: LocalStore) -> Checkpoints:
    return Checkpoints(store, run=config.run, student=config.student, base_sha256=config.base.sha256)


def sealed_batches(run_dir: Path, student: str) -> list[BatchSealed]:
    """The sealed batches of a run, from step 1 on without a gap. Raises StorageError where one is missing."""
    store = LocalStore(run_dir)
    found: list[BatchSealed] = []
    for step in sealed_steps(run_dir, student):
        batch = sealed_batch(store, student, step)
        if batch.step != len(found) + 1:
            raise StorageError(f"expected the batch of step {len(found) + 1} in {run_dir}, found that of step {step}")
        found.append(batch)
    return found


def _recorded_checksum(store: LocalStore, student: str, step: int) -> str | None:
    """None where the run has no such version (yet, or any more)."""
    uri = weights_uri(student, step)
    if not store.exists(uri):
        return None
    return WeightsManifest.model_validate_json(store.read_manifest(uri)).checksum


if __name__ == "__main__":
    run_service(main)
