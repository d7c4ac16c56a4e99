"""From an open step whose groups are all ready to its sealed batch on disk.

What always holds: a batch that lies there already, from before a crash, is adopted and never written again.
"""

from services.broker.groups import GroupReader
from services.broker.sealing import Sealed, StepHeader, adopt, write_batch
from shared.blobs.local import LocalStore
from shared.contracts.run import PhaseState, RunState
from shared.errors import OpcodError
from shared.faults import fault_point


class Sealer:
    """Of one run; template_hash: what stands for its prompts in a batch's manifest."""

    def __init__(self, run: str, store: LocalStore, groups: GroupReader, template_hash: str) -> None:
        self._run = run
        self._store = store
        self._groups = groups
        self._template_hash = template_hash

    def seal(self, state: RunState, phase: PhaseState) -> Sealed:
        """Write the batch of the phase's open step, or adopt it. Raises StorageError."""
        if phase.step is None:
            raise OpcodError(f"nothing to seal: the phase of student {phase.student} has no open step")
        adopted = adopt(self._store, phase.student, phase.step.step, self._run)
        if adopted is not None:
            return adopted
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
        )
        groups = [self._groups.group(state, phase.student, group.problem_id) for group in phase.step.groups]
        fault_point("broker.before-seal")
        sealed = write_batch(self._store, header, groups)
        fault_point("broker.after-seal")
        return sealed
