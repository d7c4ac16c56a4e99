"""Events for people: what the machine announces, what peers said to each other, and what came of it."""

from collections.abc import Sequence
from typing import Literal

from services.broker.exchange import judging
from services.broker.exchange.judging import JudgedFeedback
from services.broker.machine.books import open_step
from services.broker.machine.moves import Announce, AnnounceAlarm, AnnounceGate, AnnounceScore, AnnounceSilence, KeepAct
from services.broker.recovery import Recovered
from shared.clock import Clock
from shared.contracts.batches import BatchManifest
from shared.contracts.events import (
    Acted,
    AlarmRaised,
    BatchReady,
    Evaluated,
    Event,
    FeedbackGiven,
    GateDecided,
    GroupGraded,
    JobLost,
    Revised,
    RunTakenUp,
    StatusChanged,
    StepApplied,
    TutorSilenced,
    VersionServing,
)
from shared.contracts.jobs import JobDone, PromptOutput
from shared.contracts.run import PhaseState
from shared.contracts.weights import StepDone, VersionLoaded
from shared.files.batches import batch_directory
from shared.problems.problem import Problem

SHOWN_CHARS = 1200
"""Of each text of an exchange: an event stays well under an envelope's 8 KB; the sealed batch has it whole."""

Announcement = Announce | AnnounceGate | AnnounceScore | AnnounceAlarm | AnnounceSilence

Change = Literal["fixed", "broke", "same"]


class Narrator:
    """Makes events, with time and source."""

    def __init__(self, clock: Clock, source: str) -> None:
        self._clock = clock
        self._source = source

    def announce(self, command: Announcement) -> Event:
        at, source = self._stamp()
        match command:
            case Announce():
                return StatusChanged(
                    at=at, source=source, status=command.status.value, round=command.round, reason=command.reason
                )
            case AnnounceGate():
                return GateDecided(at=at, source=source, decision=command.decision)
            case AnnounceAlarm(alarm=alarm):
                return AlarmRaised(at=at, source=source, **alarm.model_dump())
            case AnnounceSilence(silenced=silenced):
                return TutorSilenced(at=at, source=source, **silenced.model_dump())
            case AnnounceScore(score=score):
                return Evaluated(
                    at=at,
                    source=source,
                    student=score.student,
                    version=score.version,
                    split=score.split.value,
                    round=score.round,
                    scores={domain: score.mean(domain) for domain in score.correct},
                )

    def taken_up(self, found: Recovered, sealed: dict[str, int]) -> list[Event]:
        """Where a run that had begun was taken up; nothing for a new one."""
        state = found.state
        if state is None:
            return []
        at, source = self._stamp()
        return [
            RunTakenUp(
                at=at,
                source=source,
                taken_from=found.source,
                why=found.why,
                status=state.status.value,
                round=state.round,
                steps=state.steps,
                sealed=sealed,
            )
        ]

    def acted(self, command: KeepAct) -> Acted:
        at, source = self._stamp()
        return Acted(at=at, source=source, round=command.round, act=command.act, refused=command.refused)

    def sealed(self, manifest: BatchManifest) -> Event:
        at, source = self._stamp()
        return BatchReady(
            at=at,
            source=source,
            student=manifest.student,
            round=manifest.round,
            step=manifest.step,
            uri=batch_directory(manifest.student, manifest.step),
            samples=manifest.samples,
            active_samples=manifest.active_samples,
            kept_feedback=manifest.kept_feedback,
            mean_reward=manifest.mean_reward,
        )

    def graded(self, phase: PhaseState, round_: int, problem: Problem, rewards: Sequence[float]) -> Event:
        at, source = self._stamp()
        return GroupGraded(
            at=at,
            source=source,
            student=phase.student,
            round=round_,
            step=open_step(phase),
            problem_id=problem.id,
            domain=problem.domain,
            rewards=tuple(rewards),
        )

    def feedback(
        self,
        phase: PhaseState,
        round_: int,
        problem: Problem,
        rollouts: PromptOutput,
        rewards: Sequence[float],
        exchanges: Sequence[JudgedFeedback],
    ) -> list[Event]:
        """One event for each rollout, in order."""
        at, source = self._stamp()
        events: list[Event] = []
        for index, (sample, exchange) in enumerate(zip(rollouts.samples, exchanges, strict=True)):
            texts = [problem.question, sample.text, exchange.raw, exchange.delivered]
            events.append(
                FeedbackGiven(
                    at=at,
                    source=source,
                    student=phase.student,
                    tutor=phase.tutor,
                    tutor_version=phase.tutor_version,
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
                    removed=tuple(text[:SHOWN_CHARS] for text in exchange.removed[:10]),
                    cut=any(len(text or "") > SHOWN_CHARS for text in texts),
                )
            )
        return events

    def revised(
        self,
        student: str,
        round_: int,
        step: int,
        problem_id: str,
        revised: Sequence[judging.JudgedRevision],
        texts: Sequence[str],
    ) -> list[Event]:
        """One event for each rollout, in order; texts: of the new answers."""
        at, source = self._stamp()
        return [
            Revised(
                at=at,
                source=source,
                student=student,
                round=round_,
                step=step,
                problem_id=problem_id,
                sample=index,
                before=each.before,
                after=each.after,
                told=each.told,
                change=change(each.before, each.after),
                text=text[:SHOWN_CHARS],
            )
            for index, (each, text) in enumerate(zip(revised, texts, strict=True))
        ]

    def applied(self, done: StepDone, round_: int) -> Event:
        at, source = self._stamp()
        return StepApplied(
            at=at,
            source=source,
            student=done.student,
            round=round_,
            step=done.step,
            version=done.version,
            metrics=done.metrics,
        )

    def serving(self, loaded: VersionLoaded) -> Event:
        at, source = self._stamp()
        return VersionServing(
            at=at,
            source=source,
            student=loaded.student,
            replica=loaded.replica,
            version=loaded.version,
            checksum=loaded.checksum,
        )

    def lost(self, done: JobDone, reason: str) -> Event:
        at, source = self._stamp()
        return JobLost(at=at, source=source, job_id=done.job_id, student=done.student, reason=reason)

    def _stamp(self) -> tuple[float, str]:
        return self._clock.wall_s(), self._source


def change(before: bool, after: bool) -> Change:
    """What a revision did to one rollout."""
    if before == after:
        return "same"
    return "fixed" if after else "broke"


def _shown(text: str | None) -> str | None:
    return None if text is None else text[:SHOWN_CHARS]
