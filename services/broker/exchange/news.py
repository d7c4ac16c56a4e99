"""Events for people about what the state machine does not see: what peers said to each other, and what came of it.

They carry no time and source yet: `Runner` stamps them when it tells them.
"""

from collections.abc import Sequence
from typing import Literal

from services.broker.exchange import judging
from services.broker.exchange.judging import JudgedFeedback
from services.broker.recovery import Recovered
from shared.contracts.batches import BatchManifest
from shared.contracts.events import (
    SHOWN_CHARS,
    UNSTAMPED,
    BatchReady,
    Event,
    FeedbackGiven,
    GroupGraded,
    JobLost,
    Revised,
    RunTakenUp,
    VersionServing,
)
from shared.contracts.jobs import JobDone, PromptOutput
from shared.contracts.run import PhaseState
from shared.contracts.targets import open_step
from shared.contracts.weights import VersionLoaded
from shared.files.batches import batch_directory
from shared.problems.problem import Problem

Change = Literal["fixed", "broke", "same"]


def taken_up(found: Recovered, sealed: dict[str, int]) -> list[Event]:
    """Where a run that had begun was taken up; nothing for a new one."""
    state = found.state
    if state is None:
        return []
    return [
        RunTakenUp(
            **UNSTAMPED,
            taken_from=found.source,
            why=found.why,
            status=state.status.value,
            round=state.round,
            steps=state.steps,
            sealed=sealed,
        )
    ]


def sealed(manifest: BatchManifest) -> Event:
    return BatchReady(
        **UNSTAMPED,
        student=manifest.student,
        round=manifest.round,
        step=manifest.step,
        uri=batch_directory(manifest.student, manifest.step),
        samples=manifest.samples,
        active_samples=manifest.active_samples,
        kept_feedback=manifest.kept_feedback,
        mean_reward=manifest.mean_reward,
    )


def graded(phase: PhaseState, round_: int, problem: Problem, rewards: Sequence[float]) -> Event:
    return GroupGraded(
        **UNSTAMPED,
        student=phase.student,
        round=round_,
        step=open_step(phase),
        problem_id=problem.id,
        domain=problem.domain,
        rewards=tuple(rewards),
    )


def feedback(
    phase: PhaseState,
    tutor: str,
    round_: int,
    problem: Problem,
    rollouts: PromptOutput,
    rewards: Sequence[float],
    exchanges: Sequence[JudgedFeedback],
) -> list[Event]:
    """One event for each rollout, in order."""
    events: list[Event] = []
    for index, (sample, exchange) in enumerate(zip(rollouts.samples, exchanges, strict=True)):
        texts = [problem.question, sample.text, exchange.raw, exchange.delivered]
        events.append(
            FeedbackGiven(
                **UNSTAMPED,
                student=phase.student,
                tutor=tutor,
                tutor_version=phase.tutors[tutor],
                version=phase.step.base_version if phase.step else "",
                round=round_,
                step=open_step(phase),
                problem_id=problem.id,
                domain=problem.domain,
                question=problem.question[:SHOWN_CHARS],
                sample=index,
                response=sample.text[:SHOWN_CHARS],
                correct=rewards[index] == 1.0,
                verdict=exchange.verdict,
                raw=_shown(exchange.raw),
                delivered=_shown(exchange.delivered),
                # Ten at most: the event stays small however much was taken out of a hostile feedback.
                removed=tuple(text[:SHOWN_CHARS] for text in exchange.removed[:10]),
                # So that a page can say that there is more, and where.
                cut=any(len(text or "") > SHOWN_CHARS for text in texts),
            )
        )
    return events


def revised(
    student: str,
    round_: int,
    step: int,
    problem_id: str,
    revised: Sequence[judging.JudgedRevision],
    texts: Sequence[str],
) -> list[Event]:
    """One event for each rollout that was answered, in order; texts: of the new answers."""
    return [
        Revised(
            **UNSTAMPED,
            student=student,
            round=round_,
            step=step,
            problem_id=problem_id,
            sample=index,
            before=each.before,
            after=each.after,
            told=each.told,
            change=change(each.before, each.after),
            # Only here: a revision is not trained on, and so in no batch.
            text=text[:SHOWN_CHARS],
        )
        for index, (each, text) in enumerate(zip(revised, texts, strict=True))
        if each.answered
    ]


def serving(loaded: VersionLoaded) -> Event:
    return VersionServing(
        **UNSTAMPED,
        student=loaded.student,
        replica=loaded.replica,
        version=loaded.version,
        checksum=loaded.checksum,
    )


def lost(done: JobDone, reason: str) -> Event:
    return JobLost(**UNSTAMPED, job_id=done.job_id, student=done.student, reason=reason)


def change(before: bool, after: bool) -> Change:
    """What a revision did to one rollout."""
    if before == after:
        return "same"
    return "fixed" if after else "broke"


def _shown(text: str | None) -> str | None:
    return None if text is None else text[:SHOWN_CHARS]
