"""Reading the groups of a step back: from the payloads that the students stored, or from the sealed batch."""

from collections.abc import Collection

from services.broker.lookup import group_job_id
from services.broker.sealing import adopt, build_group, is_sealed
from services.broker.tutoring import exchanges
from shared.blobs.batches import read_group
from shared.blobs.local import LocalStore
from shared.bus.keys import output_field, step_payloads
from shared.bus.payloads import unpack
from shared.bus.port import Bus
from shared.config.settings import RunSettings
from shared.contracts.batches import BatchGroup, BatchSample
from shared.contracts.jobs import JobKind, JobOutput, PayloadRef, PromptOutput
from shared.contracts.run import GroupState, JobStatus, PhaseState, RunState
from shared.errors import OpcodError
from shared.problems.problem import ProblemSet


class GroupReader:
    """All methods raise StorageError when a payload or file is missing or not what was reported."""

    def __init__(self, settings: RunSettings, problems: ProblemSet, bus: Bus, store: LocalStore) -> None:
        self._share_identical = settings.feedback.share_identical
        self._exclude_self = settings.loss.demo_self_exclude
        self._policy_gradient = settings.run.method == "grpo"
        self._problems = problems
        self._bus = bus
        self._store = store

    def rollouts(self, state: RunState, student: str, problem_id: str) -> PromptOutput:
        """Of the student's open step."""
        phase, group = _find(state, student, problem_id)
        return self.output(state, phase, group, JobKind.ROLLOUT).prompts[0]

    def group(self, state: RunState, student: str, problem_id: str) -> BatchGroup:
        """The group as it will be sealed; feedback that did not come is `fb_none`, excluded feedback is withheld."""
        _, group = _find(state, student, problem_id)
        return self._built(state, student, problem_id, group.excluded)

    def revised(self, state: RunState, student: str, problem_id: str) -> BatchGroup:
        """The group as its revisions see it: with all feedback that was let through, also what is excluded since."""
        return self._built(state, student, problem_id, ())

    def _built(self, state: RunState, student: str, problem_id: str, excluded: Collection[int]) -> BatchGroup:
        phase, group = _find(state, student, problem_id)
        problem = self._problems.by_id(problem_id)
        rollouts = self.output(state, phase, group, JobKind.ROLLOUT).prompts[0]
        told = None
        if group.tutored:
            came = group.feedback.status is JobStatus.DONE
            feedback = self.output(state, phase, group, JobKind.FEEDBACK) if came else None
            told = exchanges(rollouts, feedback, problem, self._problems.format, share_identical=self._share_identical)
        return build_group(
            problem,
            rollouts,
            told,
            self._problems.format,
            exclude_self=self._exclude_self,
            policy_gradient=self._policy_gradient,
            excluded=excluded,
        )

    def samples(self, state: RunState, student: str, step: int, problem_id: str) -> tuple[BatchSample, ...]:
        """Of a group with revisions, whose step may be sealed and closed already."""
        sealed = adopt(self._store, student, step, state.run)
        if sealed is not None:
            return read_group(self._store, sealed.manifest, problem_id).samples
        return self.revised(state, student, problem_id).samples

    def sealed(self, student: str, step: int) -> bool:
        """Whether the step's batch lies on disk, which the state may not know yet."""
        return is_sealed(self._store, student, step)

    def output(self, state: RunState, phase: PhaseState, group: GroupState, kind: JobKind) -> JobOutput:
        sha256 = group.job(kind).output
        if phase.step is None or sha256 is None:
            raise OpcodError(f"{kind.value} of {group.problem_id} has no result yet")
        field = output_field(group_job_id(state, phase, group, kind))
        ref = PayloadRef(key=step_payloads(phase.student, phase.step.step), field=field, sha256=sha256)
        return unpack(ref, self._bus.get_payload(ref), JobOutput)


def _find(state: RunState, student: str, problem_id: str) -> tuple[PhaseState, GroupState]:
    for phase in state.phases:
        for group in phase.step.groups if phase.student == student and phase.step else []:
            if group.problem_id == problem_id:
                return phase, group
    raise OpcodError(f"student {student} has no open group of problem {problem_id}")
