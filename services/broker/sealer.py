"""From an open step whose groups are all ready to its sealed batch on disk.

What always holds: a batch that lies there already, from before a crash, is adopted and never written again. Files are
not fenced, so one may appear that a broker wrote after its lease was lost: nobody was told of it, and it is set aside.
"""

from collections.abc import Collection, Mapping

import structlog

from services.broker.exchange.batches import Sealed, StepHeader, adopt, write_batch
from services.broker.exchange.groups import GroupReader
from shared.contracts.batches import BatchManifest
from shared.contracts.run import PhaseState, RunState
from shared.errors import FencedError, OpcodError, StorageError
from shared.files.batches import batch_directory
from shared.files.store import LocalStore
from shared.obs.faults import fault_point

log = structlog.get_logger()


class UnusableBatchError(StorageError):
    """A batch that lies sealed and is not what its manifest says."""


class Sealer:
    """Of one run; template_hash: what stands for its prompts in a batch's manifest. fence: this broker's token."""

    def __init__(self, run: str, store: LocalStore, groups: GroupReader, template_hash: str, fence: int) -> None:
        self.found: Mapping[str, Collection[int]] = {}
        """Steps whose batches lay on disk when the run was taken up, by student."""
        self._fence = fence
        self._run = run
        self._store = store
        self._groups = groups
        self._template_hash = template_hash

    def seal(self, state: RunState, phase: PhaseState) -> Sealed:
        """Write the batch of the phase's open step, or adopt it.

        Raises UnusableBatchError if one lies there that is not what it says, FencedError if it is a later broker's,
        StorageError if none can be written.
        """
        if phase.step is None:
            raise OpcodError(f"nothing to seal: the phase of student {phase.student} has no open step")
        adopted = self._adopted(phase.student, phase.step.step)
        if adopted is not None:
            if phase.step.counted or self._is_ours(adopted.manifest):
                return adopted
            self._set_aside(adopted.manifest)
        header = StepHeader(
            run=self._run,
            student=phase.student,
            round=state.round,
            step=phase.step.step,
            phase_start=phase.step.step == phase.first_step,
            base_version=phase.step.base_version,
            tutor=phase.tutor,
            tutor_version=phase.tutor_version if phase.step.tutored else None,
            template_hash=self._template_hash,
            fence=self._fence,
        )
        groups = [self._groups.group(state, phase.student, group.problem_id) for group in phase.step.groups]
        fault_point("broker.before-seal")
        sealed = write_batch(self._store, header, groups)
        fault_point("broker.after-seal")
        return sealed

    def _adopted(self, student: str, step: int) -> Sealed | None:
        try:
            return adopt(self._store, student, step, self._run)
        except StorageError as error:
            raise UnusableBatchError(f"{error}; restore its files, then resume the run") from error

    def _is_ours(self, manifest: BatchManifest) -> bool:
        """Whether it was there when the run was taken up, or this broker has written it."""
        return manifest.step in self.found.get(manifest.student, ()) or manifest.fence == self._fence

    def _set_aside(self, manifest: BatchManifest) -> None:
        directory = batch_directory(manifest.student, manifest.step)
        if manifest.fence > self._fence:
            raise FencedError(
                f"{directory} was sealed under token {manifest.fence}, this broker has {self._fence}: another one took "
                "over; this one stops"
            )
        aside = self._store.set_aside(directory, f"unannounced-{manifest.fence}")
        log.warning("batch of a broker without a lease set aside", directory=directory, to=aside, fence=manifest.fence)
