"""What the stages of a run share: issuing a job once, versions to serve, time spent. Pure."""

from typing import TypeVar

from services.broker.machine.moves import Tell
from shared.contracts.events import UNSTAMPED, StatusChanged
from shared.contracts.run import JobState, JobStatus, PhaseState, RunState, Status

MAX_JOB_ATTEMPTS = 2

Number = TypeVar("Number", int, float)


def tell_status(state: RunState, reason: str | None = None) -> Tell:
    return Tell(StatusChanged(**UNSTAMPED, status=state.status.value, round=state.round, reason=reason))


def enter(state: RunState, status: Status, at: float, reason: str | None = None) -> Tell:
    """Change the status and account for the time spent in the last one."""
    add(state.status_seconds, state.status.value, at - state.status_since)
    state.status, state.status_since = status, at
    return tell_status(state, reason)


def end_stage(state: RunState, phase: PhaseState, stage: str, at: float) -> None:
    """Book the wall time since the last mark of this phase's step under `stage`."""
    if phase.step is None:
        return
    add(state.tallies[phase.student].stage_seconds, stage, at - phase.step.mark)
    phase.step.mark = at


def add(totals: dict[str, Number], name: str, amount: Number) -> None:
    totals[name] = totals.get(name, type(amount)()) + amount


def serve_set(state: RunState, student: str) -> tuple[str, tuple[str, ...]]:
    """(live, all): the live version, and what open phases and revisions still need of this student."""
    live = state.version[student]
    needed = {live}
    if state.status is Status.TRAINING:
        for phase in state.phases:
            if student in phase.tutors and not phase.finished:
                needed.add(phase.tutors[student])
            if phase.student == student:
                needed |= {revision.version for revision in phase.open_revisions}
    return live, tuple(sorted(needed))


def to_issue(state: RunState, job: JobState, what: str) -> bool:
    """Mark a job that must be issued now, first or once more; a second loss pauses the run with its reason."""
    if job.status is JobStatus.LOST:
        # Modulo: a resumed run counts on from where it stood, and gets as many attempts again.
        if job.attempt % MAX_JOB_ATTEMPTS == 0:
            state.paused = f"{what} failed {MAX_JOB_ATTEMPTS} times: {job.reason}"
            return False
        job.attempt += 1
    elif job.status is not JobStatus.NONE:
        return False
    job.status, job.reason, job.started_at = JobStatus.ISSUED, None, None
    return True
