"""Reading reports: a message on `results` becomes one event for the state machine and the events that people see.

A result that cannot be read (missing, or not the bytes that were announced) counts as a failed job.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog

from services.broker.exchange import news
from services.broker.exchange.groups import GroupReader
from services.broker.exchange.judging import JudgedRevision, count_group, distinct
from services.broker.machine.moves import (
    Asked,
    Controlled,
    JobReported,
    MachineEvent,
    StepFinished,
    StepRefused,
    VersionServed,
)
from services.broker.machine.plan import Plan
from services.broker.upkeep import Replicas
from shared.config.settings import RunSettings
from shared.contracts.acting import Act, ActAsked, Control, ExchangeAct
from shared.contracts.envelope import Message
from shared.contracts.events import Event
from shared.contracts.jobs import JobDone, JobKind, JobOutput, JobStarted
from shared.contracts.run import RunState
from shared.contracts.targets import EvalTarget, GroupTarget, RevisionTarget, Target, awaited
from shared.contracts.weights import StepDone, StepFailed, VersionLoaded, VersionRefused
from shared.errors import MalformedMessageError, StorageError
from shared.problems.evaluation import grade_evaluation, rewards
from shared.problems.problem import ProblemSet

# A reason is kept in the state and told in an event: an engine's whole traceback would fit neither.
MAX_REASON_CHARS = 500

log = structlog.get_logger()


@dataclass(frozen=True)
class ReadReport:
    event: MachineEvent
    events: Sequence[Event] = ()


class ReportReader:
    """Reads one message against the present state; a stale one gives None and is only acknowledged."""

    def __init__(
        self,
        settings: RunSettings,
        plan: Plan,
        problems: ProblemSet,
        groups: GroupReader,
        replicas: Replicas,
    ) -> None:
        self._settings = settings
        self._plan = plan
        self._problems = problems
        self._groups = groups
        self._replicas = replicas

    def read(self, message: Message, state: RunState, at: float) -> ReadReport | None:
        match message:
            case JobStarted():
                return ReadReport(JobReported(at, message.job_id, "started"))
            case JobDone():
                return self._job(message, state, at)
            case StepDone():
                return ReadReport(StepFinished(at, message))
            case StepFailed():
                return ReadReport(StepRefused(at, message))
            case VersionLoaded():
                enough = self._replicas.enough(message.student, message.version, told_by=message.replica)
                event = VersionServed(at, message.student, message.version, enough)
                return ReadReport(event, [news.serving(message)])
            case VersionRefused():
                return self._refused(message, at)
            case Control():
                return ReadReport(Controlled(at, message.action, message.reason))
            case ActAsked(act=act):
                return ReadReport(Asked(at, act, sealed=self._sealed(act)))
        log.warning("unexpected message on results", type=type(message).__name__)
        return None

    def _refused(self, refused: VersionRefused, at: float) -> ReadReport | None:
        """Nobody waits for one replica where the others are enough, or where it has yet to try again."""
        student, version, replica = refused.student, refused.version, refused.replica
        if self._replicas.still_enough(student, version, refused_by=replica):
            log.warning(
                "version refused, others have it or it is tried again",
                student=student,
                replica=replica,
                version=version,
            )
            return None
        reason = f"student-{student} refused {version}: {refused.reason}"
        return ReadReport(Controlled(at, "pause", reason[:MAX_REASON_CHARS]))

    def _sealed(self, act: Act) -> bool:
        if not isinstance(act, ExchangeAct) or act.exchange.student not in self._plan.students:
            return False
        return self._groups.sealed(act.exchange.student, act.exchange.step)

    def _job(self, done: JobDone, state: RunState, at: float) -> ReadReport | None:
        # To know what to grade. The machine looks the job up again in its own copy of the state, and by that decides:
        # it must be right about a late or repeated report whoever read it.
        target = awaited(state, done.job_id)
        if target is None:
            return None
        if done.outcome == "failed" or done.output is None:
            return self._failed(done, at, done.error or "no reason given")
        try:
            output = self._groups.read(done.output)
            _check_shape(output, done.job_id, self._shape(target, state))
            report = JobReported(
                at,
                done.job_id,
                "done",
                kind=done.kind,
                output=done.output.sha256,
                output_tokens=done.output_tokens,
                engine_seconds=done.seconds,
            )
            found = self._finished(report, target, output, state)
            # With the prompts that the tutor saw, feedback has more tokens than the rollouts, and would push them out.
            if done.kind is not JobKind.ROLLOUT:
                self._groups.let_go(done.output)
            return found
        except (StorageError, MalformedMessageError, ValueError) as error:
            # As if the job had failed: it is issued again, and comes back with a readable output.
            return self._failed(done, at, str(error))

    def _failed(self, done: JobDone, at: float, reason: str) -> ReadReport:
        reason = reason[:MAX_REASON_CHARS]
        log.warning("job failed", job=done.job_id, reason=reason)
        event = JobReported(at, done.job_id, "failed", kind=done.kind, reason=reason)
        return ReadReport(event, [news.lost(done, reason)])

    def _finished(self, report: JobReported, target: Target, output: JobOutput, state: RunState) -> ReadReport:
        match target:
            case EvalTarget(evaluation=evaluation):
                chunk = self._plan.chunk(evaluation.split, target.index)
                problems = [self._problems.by_id(problem.id) for problem in chunk]
                graded = grade_evaluation(output.prompts, problems, self._problems.format)
                return ReadReport(replace(report, correct=graded.correct, answers=graded.answers))
            case RevisionTarget():
                return self._revision(report, target, output, state)
            case GroupTarget(kind=JobKind.ROLLOUT):
                problem = self._problems.by_id(target.group.problem_id)
                rewarded = rewards(output.prompts[0], problem, self._problems.format)
                return ReadReport(report, [news.graded(target.phase, state.round, problem, rewarded)])
            case GroupTarget():
                return ReadReport(report, self._feedback(target, report.output, state))

    def _shape(self, target: Target, state: RunState) -> list[int]:
        """Samples that the job was asked for, prompt by prompt."""
        match target:
            case EvalTarget(evaluation=evaluation):
                return [evaluation.samples] * len(self._plan.chunk(evaluation.split, target.index))
            case RevisionTarget():
                return [1] * self._settings.rollout.samples
            case GroupTarget(kind=JobKind.ROLLOUT):
                return [self._settings.rollout.samples]
            case GroupTarget():
                rollouts = self._groups.output(state, target.phase, target.group, JobKind.ROLLOUT).prompts[0]
                answers = [sample.text for sample in rollouts.samples]
                # Tutors are asked once for each distinct answer, so that is how many come back.
                texts, _ = distinct(answers, share_identical=self._settings.feedback.share_identical)
                return [1] * len(texts)

    def _feedback(self, target: GroupTarget, output: str | None, state: RunState) -> list[Event]:
        problem = self._problems.by_id(target.group.problem_id)
        rollouts = self._groups.output(state, target.phase, target.group, JobKind.ROLLOUT).prompts[0]
        told = self._groups.exchanges(state, target.phase, target.group, output)
        graded = rewards(rollouts, problem, self._problems.format)
        assert target.group.tutor is not None
        return news.feedback(target.phase, target.group.tutor, state.round, problem, rollouts, graded, told)

    def _revision(self, report: JobReported, target: RevisionTarget, output: JobOutput, state: RunState) -> ReadReport:
        revision = target.revision
        problem = self._problems.by_id(revision.problem_id)
        rollouts = self._groups.before(state, target.student, revision.step, revision.problem_id)
        revised = [
            JudgedRevision(
                before=rollout.right,
                after=rewards(answered, problem, self._problems.format)[0] == 1.0,
                told=rollout.told,
                answered=bool(answered.samples[0].token_ids),
            )
            for rollout, answered in zip(rollouts, output.prompts, strict=True)
        ]
        counts = count_group(revised, round_=state.round, tutor=revision.tutor)
        texts = [answered.samples[0].text for answered in output.prompts]
        events = news.revised(target.student, state.round, revision.step, problem.id, revised, texts)
        return ReadReport(replace(report, revised=counts), events)


def _check_shape(output: JobOutput, job_id: str, wanted: Sequence[int]) -> None:
    """A short group would be trained on in silence. Raises MalformedMessageError."""
    found = [len(prompt.samples) for prompt in output.prompts]
    if output.job_id != job_id or found != list(wanted):
        raise MalformedMessageError(
            f"expected the output of {job_id} to have {list(wanted)} samples by prompt, got {found} of {output.job_id}"
        )
