"""The run's state machine: a pure function (state, event) -> (state, commands).

    VALIDATING -> GATED -> TRAINING -> ROUND_DONE -> VALIDATING … -> FINAL_EVAL -> DONE
    PAUSED (a flag with its reason) and FAILED from anywhere.

An event only records what happened; what to do next is then derived from the state alone (rounds.py), so
a repeated, late or reordered event changes nothing that is already so, and a resumed run goes on from
whatever its state says. The transition that must not exist: a step is sealed twice, or trained on a base
version other than the one its rollouts were drawn from.
"""

from collections.abc import Sequence

from services.broker.machine import rounds, watching
from services.broker.machine.acting import act_on, check_exclusions
from services.broker.machine.books import add, end_stage, enter, serve_set, tell_status
from services.broker.machine.moves import (
    Asked,
    Command,
    Controlled,
    JobReported,
    KeepRecord,
    MachineEvent,
    Serve,
    StepFinished,
    StepRefused,
    TakenUp,
    Tell,
    Ticked,
    VersionServed,
)
from services.broker.machine.plan import Plan
from shared.contracts.batches import AddedGroup, BatchManifest, Taught
from shared.contracts.diagnostics import BatchRewards, RevisionCount
from shared.contracts.events import UNSTAMPED, StepApplied
from shared.contracts.ids import version_name
from shared.contracts.jobs import JobKind
from shared.contracts.run import (
    AnswerCounts,
    JobState,
    JobStatus,
    PhaseState,
    RunState,
    Status,
    StepState,
    Tally,
)
from shared.contracts.targets import EvalTarget, GroupTarget, RevisionTarget, find
from shared.contracts.weights import StepDone, StepRecord


def new_run(plan: Plan, *, incarnation: int, at: float, identity: str | None = None) -> RunState:
    """The state before anything happened: all students at their base weights."""
    return RunState(
        run=plan.run,
        identity=identity,
        incarnation=incarnation,
        revision=0,
        status=Status.VALIDATING,
        round=1,
        version={student: version_name(student, 0) for student in plan.students},
        steps=dict.fromkeys(plan.students, 0),
        served={},
        tallies={student: Tally() for student in plan.students},
        status_since=at,
        at=at,
    )


def apply(state: RunState, plan: Plan, event: MachineEvent) -> tuple[RunState, list[Command]]:
    """The state after `event` and what must happen now. `state` is left as it is."""
    was_paused = state.paused
    # A copy, so that others may read the old one meanwhile, and an event whose commit fails has changed nothing.
    state = state.copied()
    commands = _record(state, plan, event)
    # A paused run still books what comes in; it only asks for nothing new.
    if state.paused is None and state.status not in (Status.DONE, Status.FAILED):
        commands += rounds.advance(state, plan, event.at)
    if state.paused is not None and state.paused != was_paused:
        commands.append(tell_status(state, f"paused: {state.paused}"))
    state.revision, state.at = state.revision + 1, event.at
    return state, commands


def observe(state: RunState, plan: Plan, event: MachineEvent) -> tuple[RunState, list[Command]]:
    """As `apply`, for a deployment that serves a run without going on with it: nothing is issued.

    What work from before still brings, and what people asked for then, is booked: its report is acknowledged and does
    not come again. Nobody works on the run, so no time passes in it.
    """
    if isinstance(event, Ticked):
        return state, []
    state = state.copied()
    _skip_downtime(state, event.at)
    kept: list[Command] = []
    match event:
        case JobReported():
            kept = _record_job(state, event)
        case StepFinished():
            kept = _record_step(state, plan, event)
        case StepRefused():
            _record_refusal(state, event)
        case Controlled():
            kept = _record_control(state, event)
        case Asked():
            kept = act_on(state, plan, event)
        case VersionServed():
            _record_served(state, event)
        case TakenUp():
            state.served = {}
            if event.redis_was_empty:
                rounds.reopen(state, event.sealed)
    state.revision, state.at = state.revision + 1, event.at
    # Whenever it is said what is served, that is the live versions alone: nobody tutors here.
    others = [command for command in kept if not isinstance(command, Serve)]
    if len(others) == len(kept) and not isinstance(event, TakenUp | StepFinished):
        return state, kept
    served: list[Command] = [Serve(student, live, (live,)) for student, live in sorted(state.version.items())]
    return state, others + served


def count_batch(state: RunState, batch: BatchManifest) -> None:
    """Count in `state`, which is of the event that sealed the batch, what the batch holds.

    A batch that is sealed again after a lost Redis was counted when it was sealed first.
    """
    for phase in state.phases:
        if phase.student == batch.student and phase.step is not None and phase.step.step == batch.step:
            if phase.step.counted:
                return
            phase.step.counted = True
            phase.step.rewards = BatchRewards(
                mean=batch.mean_reward,
                variance=batch.reward_variance,
                unique_share=batch.unique_share,
                mean_tokens=batch.mean_tokens,
            )
    tally = state.tallies[batch.student]
    tally.samples += batch.samples
    tally.active_samples += batch.active_samples
    tally.taught = _together([*tally.taught, *batch.taught])
    for verdict, count in batch.verdicts.items():
        add(tally.verdicts.setdefault(state.round, {}), verdict, count)


def _together(rows: Sequence[Taught]) -> list[Taught]:
    """One row for each tutor and domain."""
    keys = sorted({(row.tutor, row.domain) for row in rows})
    alike = {key: [row for row in rows if (row.tutor, row.domain) == key] for key in keys}
    return [
        Taught(tutor=tutor, domain=domain, feedbacks=sum(r.feedbacks for r in same), kept=sum(r.kept for r in same))
        for (tutor, domain), same in alike.items()
    ]


def seal_ahead(state: RunState, student: str, added: AddedGroup) -> None:
    """Note in `state`, which is of the event that sealed the group, that its trainer was told to begin with it."""
    for phase in state.phases:
        if phase.student == student and phase.step is not None:
            phase.step.ahead.append(added)


def cannot_seal(state: RunState, student: str, reason: str) -> Tell:
    """Let `state`, which is of the event that wanted the open step sealed, stand with an unusable batch. Sealing is
    tried again when the run is resumed."""
    for phase in state.phases:
        if phase.student == student and phase.step is not None:
            phase.step.sealed = False
            _pause(state, f"the batch of step {phase.step.step} of student {student} cannot be used: {reason}")
    return tell_status(state, f"paused: {state.paused}")


def _record(state: RunState, plan: Plan, event: MachineEvent) -> list[Command]:
    match event:
        case JobReported():
            return _record_job(state, event)
        case StepFinished():
            return _record_step(state, plan, event)
        case VersionServed():
            _record_served(state, event)
        case Ticked():
            _record_timeouts(state, plan, event.at)
        case StepRefused():
            _record_refusal(state, event)
        case Controlled():
            return _record_control(state, event)
        case Asked():
            return act_on(state, plan, event)
        case TakenUp():
            return _record_recovery(state, plan, event)
    return []


def _record_job(state: RunState, event: JobReported) -> list[Command]:
    """Books a report of a job that is still open; any other (late, repeated, stale) changes nothing."""
    commands: list[Command] = []
    target = find(state, event.job_id)
    match target:
        case GroupTarget(group=group, kind=kind) if group.job(kind).open:
            _settle(group.job(kind), event)
            if kind is JobKind.ROLLOUT:
                _end_rollouts(state, target.phase, event.at)
            elif event.outcome == "failed":
                add(state.tallies[target.student].lost_feedback, "failed", 1)
            elif event.outcome == "done":
                commands = check_exclusions(state, target.phase, group)
        case EvalTarget() if target.chunk.open:
            _settle(target.chunk, event)
            if event.outcome == "done":
                target.evaluation.correct.update(event.correct)
                for domain, counts in event.answers.items():
                    answers = target.evaluation.answers
                    answers[domain] = answers.get(domain, AnswerCounts()).plus(counts)
        case RevisionTarget() if event.outcome != "started":
            # Done or failed, it is over: a revision is measured and never trained on, so a lost one is not made again.
            target.phase.open_revisions.remove(target.revision)
            for count in event.revised:
                _count_revisions(state.tallies[target.student], count)
        case _:
            return []
    if event.kind is not None:
        tally = state.tallies[target.student]
        add(tally.output_tokens, event.kind.value, event.output_tokens)
        add(tally.engine_seconds, event.kind.value, event.engine_seconds)
    return commands


def _count_revisions(tally: Tally, count: RevisionCount) -> None:
    for known in tally.revisions:
        if known.like(count):
            known.include(count)
            return
    tally.revisions.append(count.model_copy())


def _settle(job: JobState, event: JobReported) -> None:
    match event.outcome:
        case "started":
            job.status, job.started_at = JobStatus.STARTED, event.at
        case "done":
            job.status, job.output = JobStatus.DONE, event.output
        case "failed":
            job.status, job.reason = JobStatus.LOST, event.reason


def _end_rollouts(state: RunState, phase: PhaseState, at: float) -> None:
    if phase.step and all(group.rollout.status is JobStatus.DONE for group in phase.step.groups):
        end_stage(state, phase, "rollout", at)


def _record_step(state: RunState, plan: Plan, event: StepFinished) -> list[Command]:
    done = event.done
    for phase in state.phases:
        step = phase.step
        if phase.student != done.student or step is None or step.step != done.step:
            continue
        # A repeated report, or one of a step that is being made again after a lost Redis: nothing is booked twice.
        if not step.sealed or step.done_version is not None:
            continue
        # The version counts from here on, though no replica serves it yet: `served` says when one does.
        step.done_version = done.version
        state.version[done.student] = done.version
        state.steps[done.student] = done.step
        end_stage(state, phase, "train", event.at)
        tally = state.tallies[done.student]
        tally.trained_tokens += done.metrics.tokens
        for stage, seconds in done.metrics.seconds.items():
            add(tally.trainer_seconds, stage, seconds)
        raised = watching.look(state, plan.alarms, done.student, step, done.metrics)
        serve = Serve(done.student, *serve_set(state, done.student))
        return [_kept(state, step, done), _applied(state, done), *raised, serve]
    return []


def _applied(state: RunState, done: StepDone) -> Tell:
    return Tell(
        StepApplied(
            **UNSTAMPED,
            student=done.student,
            round=state.round,
            step=done.step,
            version=done.version,
            metrics=done.metrics,
        )
    )


def _kept(state: RunState, step: StepState, done: StepDone) -> KeepRecord:
    return KeepRecord(
        StepRecord(
            student=done.student,
            round=state.round,
            step=done.step,
            version=done.version,
            tutored=step.tutored,
            mean_reward=step.rewards.mean if step.rewards else None,
            unique_share=step.rewards.unique_share if step.rewards else None,
            mean_tokens=step.rewards.mean_tokens if step.rewards else None,
            metrics=done.metrics,
        )
    )


def _record_served(state: RunState, event: VersionServed) -> None:
    # Of an older version the word may come late, and says nothing about the live one.
    if event.enough and event.version == state.version[event.student]:
        state.served[event.student] = event.version


def _record_timeouts(state: RunState, plan: Plan, at: float) -> None:
    """Feedback that is later than tutor_timeout_s after the tutor took the job is given up."""
    for phase in state.phases:
        for group in phase.step.groups if phase.step else []:
            job = group.feedback
            # From when the tutor took it, not from when it was issued: waiting in its queue is nobody's fault.
            late = job.started_at is not None and at - job.started_at > plan.tutor_timeout_s
            if job.status is JobStatus.STARTED and late:
                job.status, job.reason = JobStatus.LOST, "tutor_timeout"
                add(state.tallies[phase.student].lost_feedback, "tutor_timeout", 1)


def _record_refusal(state: RunState, event: StepRefused) -> None:
    failed = event.failed
    _pause(state, f"trainer-{failed.student} cannot apply step {failed.step}: {failed.reason}")


def _record_control(state: RunState, event: Controlled) -> list[Command]:
    """A run that ended stays as it ended."""
    if state.status in (Status.DONE, Status.FAILED):
        return []
    match event.action:
        case "pause":
            _pause(state, event.reason)
        case "resume":
            if state.paused is not None:
                state.paused = None
                rounds.allow_again(state, event.at)
                # Said again though they are the same: what a student refused may be mended, and is tried at once.
                serve = [Serve(student, *serve_set(state, student)) for student in state.version]
                return [tell_status(state, "resumed"), *serve]
        case "abort":
            state.failed = event.reason
            return [enter(state, Status.FAILED, event.at, reason=event.reason)]
    return []


def _record_recovery(state: RunState, plan: Plan, event: TakenUp) -> list[Command]:
    """After a restart: say again what must be served; after a lost Redis also make the open work again."""
    state.incarnation += 1
    _skip_downtime(state, event.at)
    if event.redis_was_empty:
        state.served = {}
        rounds.reopen(state, event.sealed)
    serve: list[Command] = [Serve(student, *serve_set(state, student)) for student in plan.students]
    return serve + (_adopt(state, plan, event) if event.initial else [])


def _adopt(state: RunState, plan: Plan, event: TakenUp) -> list[Command]:
    """A new run takes over the initial scores of another one and goes straight to its gate."""
    # Only a run in which nothing has happened yet: scores of its own are never replaced.
    if state.scores or state.evals or state.status is not Status.VALIDATING:
        return []
    state.scores = [score.model_copy(deep=True) for score in event.initial]
    announced: list[Command] = [rounds.tell_score(score) for score in state.scores]
    # Before there is a new score: alarms may stand at the first one.
    raised = watching.look_at_scores(state, plan, state.scores)
    return [*announced, *raised, enter(state, Status.GATED, event.at)]


def _skip_downtime(state: RunState, at: float) -> None:
    """Nothing worked between the last event and a restart: no stage is charged for it, and no tutor is late by it."""
    # `state.at` is the time of the last event, so a broker that hung counts as one that was down.
    downtime = at - state.at  # below 0 where the clock was set back meanwhile
    state.status_since += downtime
    for phase in state.phases:
        if phase.step is None:
            continue
        phase.step.opened_at += downtime
        phase.step.mark += downtime
        for group in phase.step.groups:
            if group.feedback.started_at is not None:
                group.feedback.started_at += downtime


def _pause(state: RunState, reason: str) -> None:
    # The first reason stays: what comes after it is often only its consequence.
    if state.paused is None:
        state.paused = reason
