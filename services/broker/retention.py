"""Letting go of the tensors of versions that the run's settings do not keep."""

from collections.abc import Sequence
from pathlib import Path

import structlog

from services.broker import metrics
from shared.config.retention import RetentionSection
from shared.contracts.run import RunState
from shared.errors import StorageError
from shared.files.retention import prune_versions

log = structlog.get_logger()


class VersionRetention:
    """Called now and then by the broker, which alone knows what a run needs."""

    def __init__(self, keep: RetentionSection, run_dir: Path, students: Sequence[str]) -> None:
        self._keep = keep
        self._run_dir = run_dir
        self._students = students

    def sweep(self, state: RunState) -> None:
        """Prune what need not stay. A disk that refuses is told and tried again the next time; the run goes on."""
        if self._keep.keep_last == 0:
            return
        for student in self._students:
            try:
                pruned = prune_versions(
                    self._run_dir, state, student, keep_last=self._keep.keep_last, keep_every=self._keep.keep_every
                )
            except (StorageError, OSError) as error:
                metrics.PRUNING_FAILURES.inc()
                log.error("versions could not be pruned", student=student, error=str(error))
                continue
            if pruned:
                log.info("versions pruned", student=student, steps=sorted(pruned), bytes=sum(pruned.values()))
