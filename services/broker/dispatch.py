"""From a command to the messages and payloads that carry it out: prompts are built here, never by a student."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from services.broker.exchange.groups import GroupReader
from services.broker.exchange.judging import distinct
from services.broker.machine.moves import IssueEval, IssueFeedback, IssueRevision, IssueRollout
from services.broker.machine.plan import Plan
from shared.bus.keys import eval_payloads, input_field, jobs, step_payloads
from shared.bus.payloads import pack
from shared.config.settings import RunSettings
from shared.contracts.envelope import Message
from shared.contracts.ids import seed_of
from shared.contracts.jobs import Job, JobInput, JobKind, PayloadRef, Prompt
from shared.contracts.messages import ChatMessage, Sampling
from shared.contracts.run import RunState
from shared.problems.problem import ProblemSet

IssueJob = IssueEval | IssueRollout | IssueFeedback | IssueRevision


@dataclass
class Outgoing:
    """What a handled event sends out, collected until its commit."""

    publish: list[tuple[str, Message]] = field(default_factory=list)
    payloads: list[tuple[PayloadRef, bytes]] = field(default_factory=list)


class Dispatcher:
    """Builds jobs; `groups` looks up what a feedback or a revision is about."""

    def __init__(self, settings: RunSettings, plan: Plan, problems: ProblemSet, groups: GroupReader) -> None:
        self._settings = settings
        self._plan = plan
        self._problems = problems
        self._groups = groups

    def issue(self, command: IssueJob, state: RunState, out: Outgoing) -> None:
        """Add the job of `command` and its input to `out`."""
        match command:
            case IssueRollout():
                self._rollout(command, out)
            case IssueFeedback():
                self._feedback(command, state, out)
            case IssueRevision():
                self._revision(command, state, out)
            case IssueEval():
                self._evaluation(command, out)

    def _rollout(self, command: IssueRollout, out: Outgoing) -> None:
        problem = self._problems.by_id(command.problem_id)
        messages = self._problems.format.messages(problem)
        prompts = [Prompt(messages=tuple(messages), samples=self._settings.rollout.samples)]
        key = step_payloads(command.student, command.step)
        self._send(command, JobKind.ROLLOUT, command.student, prompts, self._settings.rollout.sampling, key, out)

    def _feedback(self, command: IssueFeedback, state: RunState, out: Outgoing) -> None:
        problem = self._problems.by_id(command.problem_id)
        rollouts = self._groups.rollouts(state, command.student, command.problem_id)
        texts, _ = distinct(
            [sample.text for sample in rollouts.samples],
            share_identical=self._settings.feedback.share_identical,
        )
        prompts = [
            _single(
                self._problems.format.feedback_messages(
                    problem,
                    text,
                    peer_domain=self._plan.strong_domain[command.tutor],
                    agent_domain=self._plan.strong_domain[command.student],
                )
            )
            for text in texts
        ]
        key = step_payloads(command.student, command.step)
        self._send(command, JobKind.FEEDBACK, command.tutor, prompts, self._settings.feedback.sampling, key, out)

    def _revision(self, command: IssueRevision, state: RunState, out: Outgoing) -> None:
        group = self._groups.revised(state, command.student, command.problem_id)
        prompts = [_single(sample.teacher_messages) for sample in group.samples]
        key = step_payloads(command.student, command.step)
        # Sampled as evaluations are, not as rollouts: a revision is measured, never trained on.
        sampling = self._settings.evaluation.sampling
        self._send(command, JobKind.REVISE, command.student, prompts, sampling, key, out)

    def _evaluation(self, command: IssueEval, out: Outgoing) -> None:
        problems = self._plan.chunk(command.split, command.chunk)
        prompts = [
            Prompt(
                messages=tuple(self._problems.format.messages(self._problems.by_id(problem.id))),
                samples=command.samples,
            )
            for problem in problems
        ]
        key = eval_payloads(command.student, command.round, command.split.value)
        sampling = self._settings.evaluation.sampling
        self._send(command, JobKind.EVAL, command.student, prompts, sampling, key, out)

    def _send(
        self,
        command: IssueJob,
        kind: JobKind,
        worker: str,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        key: str,
        out: Outgoing,
    ) -> None:
        ref, data = pack(JobInput(prompts=tuple(prompts)), key, input_field(command.job_id))
        version = command.tutor_version if isinstance(command, IssueFeedback) else command.version
        job = Job(
            id=command.job_id,
            kind=kind,
            student=worker,
            tutee=command.student,
            version=version,
            round=command.round,
            step=0 if isinstance(command, IssueEval) else command.step,
            # From the run's seed and the job's id alone: issued again after a loss of Redis, the job samples the same.
            seed=seed_of(self._plan.seed, command.job_id),
            sequences=sum(prompt.samples for prompt in prompts),
            sampling=sampling,
            input=ref,
        )
        out.publish.append((jobs(worker, kind), job))
        out.payloads.append((ref, data))


def _single(messages: Sequence[ChatMessage]) -> Prompt:
    return Prompt(messages=tuple(messages), samples=1)
