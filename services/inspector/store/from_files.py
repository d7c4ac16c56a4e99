"""A store made of a run's files alone: sealed batches and acts, for when no inspector kept the log.

What it lacks is what only events tell: revisions, and the exchanges of a step that is not sealed yet.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from pydantic import ValidationError

from services.inspector.config import STORE
from services.inspector.store.records import Entry
from services.inspector.store.sealed import SealedBatches
from services.inspector.store.store import Store
from shared.contracts.acting import ACTS
from shared.contracts.batches import BatchManifest
from shared.contracts.events import Acted, BatchReady
from shared.errors import StorageError, reason


@contextmanager
def stored_run(run_dir: Path) -> Iterator[Store]:
    """The store that the run's inspector kept, or one made of the files. Raises StorageError, ConfigError."""
    kept = run_dir / STORE
    with ExitStack() as stack:

        def elsewhere() -> Path:
            return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="opcod-exchanges-"))) / kept.name

        if kept.exists():
            yield stack.enter_context(closing(_opened(kept, run_dir.name, elsewhere)))
            return
        store = stack.enter_context(closing(Store(elsewhere(), run_dir.name)))
        _fill(store, run_dir)
        yield store


def _opened(kept: Path, run: str, elsewhere: Callable[[], Path]) -> Store:
    """The store at `kept`, or where that may only be read a copy of it."""
    try:
        return Store(kept, run)
    except StorageError as error:
        # SQLite writes beside a log that it reads, and so does a newer schema into it.
        copy = elsewhere()
        try:
            for name in (kept.name, f"{kept.name}-wal"):
                if (kept.parent / name).exists():
                    shutil.copyfile(kept.parent / name, copy.with_name(name))
            return Store(copy, run)
        except (StorageError, OSError):
            raise error from None


def _fill(store: Store, run_dir: Path) -> None:
    sealed = SealedBatches(run_dir, run_dir.name)
    told: list[tuple[float, BatchReady | Acted]] = [(ready.at, ready) for ready in _batches(run_dir)]
    told += [(acted.at, acted) for acted in _acts(run_dir)]
    for number, (_, event) in enumerate(sorted(told, key=lambda item: item[0]), start=1):
        exchanges = sealed.exchanges(event) if isinstance(event, BatchReady) else ()
        store.append([Entry(f"{number}-0", event, exchanges)], f"{number}-0")


def _batches(run_dir: Path) -> Iterator[BatchReady]:
    """Each sealed batch as the event that told it; its time is that of the file."""
    for path in sorted(run_dir.glob("batches/*/s*/manifest.json")):
        try:
            manifest = BatchManifest.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise StorageError(f"cannot read {path}: {reason(error)}") from error
        yield BatchReady(
            at=path.stat().st_mtime,
            source="files",
            student=manifest.student,
            round=manifest.round,
            step=manifest.step,
            uri=str(path.parent.relative_to(run_dir)),
            samples=manifest.samples,
            active_samples=manifest.active_samples,
            kept_feedback=manifest.kept_feedback,
            mean_reward=manifest.mean_reward,
        )


def _acts(run_dir: Path) -> Iterator[Acted]:
    for path in sorted((run_dir / ACTS).glob("*.json")):
        try:
            yield Acted.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise StorageError(f"cannot read {path}: {reason(error)}") from error
