"""The groups of a step: read back from what students stored, and sealed as a batch once all are ready.

What always holds:
- payloads and sealed batches never change, so what was read or judged once is kept in memory by its hash, up to a
  bound, and is fetched and parsed again only after it had to make room;
- a batch that lies on disk already, from before a crash, is adopted and never written again. Files are not fenced, so
  one may appear that a broker wrote after it had lost its lease: nobody was told of it, and it is set aside.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Generic, TypeVar

import structlog

from services.broker.exchange.batches import (
    Rollout,
    Sealed,
    StepHeader,
    added_group,
    adopt,
    build_group,
    is_sealed,
    write_batch,
)
from services.broker.exchange.judging import JudgedFeedback, exchanges
from shared.bus.keys import output_field, step_payloads
from shared.bus.payloads import pack, unpack
from shared.bus.port import Bus
from shared.config.baselines import POLICY_GRADIENTS
from shared.config.settings import RunSettings
from shared.contracts.batches import BatchGroup, BatchManifest, BatchSample, GroupSealed, positions_of
from shared.contracts.jobs import JobKind, JobOutput, PayloadRef, PromptOutput
from shared.contracts.run import GroupState, JobStatus, PhaseState, RunState, StepState
from shared.contracts.targets import group_job_id, open_step
from shared.errors import FencedError, OpcodError, StorageError
from shared.files.batches import batch_directory, batch_manifest, read_group
from shared.files.store import LocalStore
from shared.method.sharing import capability
from shared.obs.faults import fault_point
from shared.problems.problem import ProblemSet

log = structlog.get_logger()

KEPT_TOKENS = 1_200_000
"""Of the outputs that are kept for each student. A step of the paper's size has 1.1 million in its rollouts, which are
read for grading, for the tutor, for revisions and for the batch. Measured 70 bytes each as Python objects, so 84 MB."""

KEPT_GROUPS = 128
"""For each student, whose feedback is kept judged: more than its open step at the paper's size."""


Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """Values that follow from their key alone, kept until they must make room; for one thread.

    weigh: what a value takes of `limit`. The weights of what is kept never exceed it together; what was used longest
    ago goes first.
    """

    def __init__(self, limit: int, weigh: Callable[[Value], int] = lambda _: 1) -> None:
        self._limit = limit
        self._weigh = weigh
        self._kept: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._weight = 0

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of `key`, made if it is not kept. What `make` raises goes through, and nothing is kept."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key][0]
        value = make()
        self._kept[key] = value, self._weigh(value)
        self._weight += self._kept[key][1]
        # A value heavier than the whole limit goes out at once, and is still returned.
        while self._weight > self._limit:
            _, (_, weight) = self._kept.popitem(last=False)
            self._weight -= weight
        return value

    def drop(self, key: Key) -> None:
        """Make room of it, if it is kept."""
        _, weight = self._kept.pop(key, (None, 0))
        self._weight -= weight


@dataclass(frozen=True)
class Before:
    """A rollout as its revision finds it. told: the prompt of the revision holds the tutor's feedback."""

    right: bool
    told: bool


class GroupReader:
    """All methods raise StorageError when a payload or file is missing or not what was reported."""

    def __init__(self, settings: RunSettings, problems: ProblemSet, bus: Bus, store: LocalStore) -> None:
        self._share_identical = settings.feedback.share_identical
        self._exclude_self = settings.loss.demo_self_exclude
        self._policy_gradient = settings.run.method in POLICY_GRADIENTS
        self.window = settings.hacpo.capability_window if settings.run.method == "hacpo" else None
        """Steps over which students that share their rollouts are compared; None where nothing is shared."""
        self._problems = problems
        self._bus = bus
        self._store = store
        kept = KEPT_GROUPS * len(settings.students)
        self._outputs: Recent[str, JobOutput] = Recent(KEPT_TOKENS * len(settings.students), _tokens)
        self._exchanges: Recent[tuple[str, str | None, str | None], list[JudgedFeedback]] = Recent(kept)
        self._before: Recent[tuple[str, int, str], tuple[Before, ...]] = Recent(kept)

    def rollouts(self, state: RunState, student: str, problem_id: str) -> PromptOutput:
        """The rollouts of a problem in the student's open step."""
        phase, group = _find(state, student, problem_id)
        return self.output(state, phase, group, JobKind.ROLLOUT).prompts[0]

    def group(self, state: RunState, student: str, problem_id: str) -> BatchGroup:
        """The group as it will be sealed; feedback that did not come is `fb_none`, excluded feedback is withheld."""
        phase, group = _find(state, student, problem_id)
        return self._built(state, phase, group, group.excluded)

    def revised(self, state: RunState, student: str, problem_id: str) -> BatchGroup:
        """The group as its revisions see it: with all feedback that was let through, also what is excluded since."""
        phase, found = _find(state, student, problem_id)
        group = self._built(state, phase, found, ())
        # Kept now, while it is cheap: when the answers come the step may be closed and its payloads gone.
        self._before.get((student, open_step(phase), problem_id), lambda: _before(group.samples))
        return group

    def _built(self, state: RunState, phase: PhaseState, group: GroupState, excluded: Collection[int]) -> BatchGroup:
        problem = self._problems.by_id(group.problem_id)
        rollouts = self.output(state, phase, group, JobKind.ROLLOUT).prompts[0]
        told = None
        if group.tutor is not None:
            came = group.feedback.status is JobStatus.DONE
            # A group whose feedback was lost is still a tutored one: its samples are told nothing (`fb_none`).
            told = self.exchanges(state, phase, group, group.feedback.output if came else None)
        built = build_group(
            problem,
            rollouts,
            told,
            self._problems.format,
            exclude_self=self._exclude_self,
            policy_gradient=self._policy_gradient,
            peer=self._of_peer(state, phase, group.problem_id) if self.window is not None else (),
            excluded=excluded,
        )
        # Two students have no choice of tutors: theirs stands in the manifest.
        return built if len(phase.tutors) < 2 else built.model_copy(update={"tutor": group.tutor})

    def _of_peer(self, state: RunState, phase: PhaseState, problem_id: str) -> Sequence[Rollout]:
        """The peer's rollouts of the problem in the same step, which it may have sealed and closed already."""
        step = open_step(phase)
        peer = next(each for each in state.phases if each.student == phase.peer)
        if peer.step is not None and peer.step.step == step:
            group = next(each for each in peer.step.groups if each.problem_id == problem_id)
            # None after Redis was lost, where the peer's batch was on disk and its rollouts were not made again.
            if group.rollout.output is not None:
                return self.output(state, peer, group, JobKind.ROLLOUT).prompts[0].samples
        manifest = self._manifest(peer.student, step, state.run)
        try:
            return read_group(self._store, manifest, problem_id).samples
        except StorageError as error:
            raise unusable(error) from error

    def rates(self, student: str, before: int, run: str) -> list[float]:
        """Mean rewards of the student's own rollouts in the last steps before this one, of which `window` with it."""
        assert self.window is not None
        steps = range(max(1, before + 1 - self.window), before)
        return [self._manifest(student, step, run).mean_reward for step in steps]

    def _manifest(self, student: str, step: int, run: str) -> BatchManifest:
        directory = batch_directory(student, step)
        try:
            return batch_manifest(self._store.read_manifest(directory), directory, run=run, student=student, step=step)
        except StorageError as error:
            raise unusable(error) from error

    def exchanges(
        self, state: RunState, phase: PhaseState, group: GroupState, feedback: str | None
    ) -> list[JudgedFeedback]:
        """What the tutor said of each rollout, judged. feedback: sha256 of its output, None if there is none."""

        def judged() -> list[JudgedFeedback]:
            rollouts = self.output(state, phase, group, JobKind.ROLLOUT).prompts[0]
            output = None if feedback is None else self.read(_ref(state, phase, group, JobKind.FEEDBACK, feedback))
            problem, format_ = self._problems.by_id(group.problem_id), self._problems.format
            return exchanges(rollouts, output, problem, format_, share_identical=self._share_identical)

        return self._exchanges.get((group.problem_id, group.rollout.output, feedback), judged)

    def before(self, state: RunState, student: str, step: int, problem_id: str) -> tuple[Before, ...]:
        """The rollouts of a group with revisions, whose step may be sealed and closed already."""

        def found() -> tuple[Before, ...]:
            sealed = adopt(self._store, student, step, state.run)
            if sealed is None:
                samples = self.revised(state, student, problem_id).samples
            else:
                samples = read_group(self._store, sealed.manifest, problem_id).samples
            return _before(samples)

        return self._before.get((student, step, problem_id), found)

    def sealed(self, student: str, step: int) -> bool:
        """Whether the step's batch lies on disk, which the state may not know yet."""
        return is_sealed(self._store, student, step)

    def output(self, state: RunState, phase: PhaseState, group: GroupState, kind: JobKind) -> JobOutput:
        sha256 = group.job(kind).output
        if sha256 is None:
            raise OpcodError(f"{kind.value} of {group.problem_id} has no result yet")
        return self.read(_ref(state, phase, group, kind, sha256))

    def read(self, ref: PayloadRef) -> JobOutput:
        """Raises MalformedMessageError as well, if the payload holds no output."""
        # By hash alone: equal bytes are the same output, wherever they lie.
        return self._outputs.get(ref.sha256, lambda: unpack(ref, self._bus.get_payload(ref), JobOutput))

    def let_go(self, ref: PayloadRef) -> None:
        """Of an output that is not read again: what followed from it is known. Rollouts are, until their batch."""
        self._outputs.drop(ref.sha256)


def _before(samples: Sequence[BatchSample]) -> tuple[Before, ...]:
    return tuple(Before(sample.reward == 1.0, sample.told) for sample in samples)


def _ref(state: RunState, phase: PhaseState, group: GroupState, kind: JobKind, sha256: str) -> PayloadRef:
    field = output_field(group_job_id(state, phase, group, kind))
    return PayloadRef(key=step_payloads(phase.student, open_step(phase)), field=field, sha256=sha256)


def _tokens(output: JobOutput) -> int:
    samples = [sample for prompt in output.prompts for sample in prompt.samples]
    return sum(len(sample.token_ids) for sample in samples) + sum(len(each.prompt_token_ids) for each in output.prompts)


def _find(state: RunState, student: str, problem_id: str) -> tuple[PhaseState, GroupState]:
    for phase in state.phases:
        for group in phase.step.groups if phase.student == student and phase.step else []:
            if group.problem_id == problem_id:
                return phase, group
    raise OpcodError(f"student {student} has no open group of problem {problem_id}")


class UnusableBatchError(StorageError):
    """A batch that lies sealed and is not what its manifest says."""


def unusable(error: StorageError) -> UnusableBatchError:
    return UnusableBatchError(f"{error}; restore its files, then resume the run")


class Sealer:
    """Of one run. template_hash: what stands for its prompts in a batch's manifest. fence: this broker's token.
    mini_batches: of each of a step's problems, where groups are sealed ahead of their batches; else None."""

    def __init__(
        self,
        run: str,
        store: LocalStore,
        groups: GroupReader,
        template_hash: str,
        fence: int,
        *,
        mini_batches: Callable[[Collection[str]], Mapping[str, int]] | None = None,
    ) -> None:
        self.found: Mapping[str, Collection[int]] = {}
        """Steps whose batches lay on disk when the run was taken up, by student."""
        self._fence = fence
        self._run = run
        self._store = store
        self._groups = groups
        self._template_hash = template_hash
        self._mini_batches = mini_batches

    def seal_ahead(
        self, state: RunState, student: str, problem_id: str
    ) -> tuple[GroupSealed, tuple[PayloadRef, bytes]]:
        """A group of the open step for the trainer to begin with, and its payload. Raises StorageError."""
        phase, _ = _find(state, student, problem_id)
        assert phase.step is not None
        group = self._groups.group(state, student, problem_id)
        added = added_group(problem_id, group.model_dump_json())
        # With the hash in its name: another one of the same problem lies beside it, and neither is written over.
        ref, data = pack(group, step_payloads(student, phase.step.step), f"{problem_id}.{added.sha256[:16]}.group")
        positions = positions_of(each.problem_id for each in phase.step.groups)
        sealed = GroupSealed(
            student=student,
            step=phase.step.step,
            base_version=phase.step.base_version,
            phase_start=phase.step.step == phase.first_step,
            position=positions[problem_id],
            groups=len(positions),
            group=added,
            payload=ref,
        )
        return sealed, (ref, data)

    def seal(self, state: RunState, phase: PhaseState) -> Sealed:
        """Write the batch of the phase's open step, or adopt it.

        Raises UnusableBatchError if one lies there that is not what it says, FencedError if it is a later broker's,
        StorageError if none can be written.
        """
        if phase.step is None:
            raise OpcodError(f"nothing to seal: the phase of student {phase.student} has no open step")
        adopted = self._adopted(phase.student, phase.step.step)
        if adopted is not None:
            # Counted: its announcement was committed, so it counts whoever wrote it.
            if phase.step.counted or self._is_ours(adopted.manifest):
                return adopted
            self._set_aside(adopted.manifest)
        groups = [self._groups.group(state, phase.student, group.problem_id) for group in phase.step.groups]
        only = phase.peer if len(phase.tutors) == 1 else None
        asked = {group.tutor for group in phase.step.groups}
        header = StepHeader(
            run=self._run,
            student=phase.student,
            round=state.round,
            step=phase.step.step,
            phase_start=phase.step.step == phase.first_step,
            base_version=phase.step.base_version,
            tutor=only,
            tutor_version=phase.tutors[only] if only is not None and only in asked else None,
            template_hash=self._template_hash,
            fence=self._fence,
            capabilities=self._capabilities(phase, phase.step.step, groups),
            tutors={} if only else {name: version for name, version in phase.tutors.items() if name in asked},
            order=self._order(phase.step),
        )
        fault_point("broker.before-seal")
        sealed = write_batch(self._store, header, groups)
        fault_point("broker.after-seal")
        return sealed

    def _order(self, step: StepState) -> list[str] | None:
        """The step's problems as their groups are added up: in each mini-batch first what the trainer was told of."""
        if self._mini_batches is None:
            return None
        ahead = [added.problem_id for added in step.ahead]
        rest = [group.problem_id for group in step.groups if group.problem_id not in ahead]
        # By mini-batch once more: a group that is sealed anew was told last, behind those of later mini-batches.
        mini_batches = self._mini_batches([*ahead, *rest])
        return sorted([*ahead, *rest], key=mini_batches.__getitem__)

    def _capabilities(self, phase: PhaseState, step: int, groups: Sequence[BatchGroup]) -> dict[str, float] | None:
        """Of the two students, with this step's rewards; None where nothing is shared."""
        window = self._groups.window
        if window is None:
            return None
        now = {
            phase.student: [sample.reward for group in groups for sample in group.samples],
            phase.peer: [sample.reward for group in groups for sample in group.peer_samples],
        }
        # From the sealed batches and not from the state: a step that is sealed once more finds the same numbers.
        return {
            student: capability([*self._groups.rates(student, step, self._run), fmean(rewards)], window)
            for student, rewards in sorted(now.items())
        }

    def _adopted(self, student: str, step: int) -> Sealed | None:
        try:
            return adopt(self._store, student, step, self._run)
        except StorageError as error:
            raise unusable(error) from error

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
        # Renamed, not deleted: a person may want to see what a broker without a lease made.
        aside = self._store.set_aside(directory, f"unannounced-{manifest.fence}")
        log.warning("batch of a broker without a lease set aside", directory=directory, to=aside, fence=manifest.fence)
