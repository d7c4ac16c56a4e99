"""Where a run is, how long it has to go, what it scored last, whether feedback helps and what is wrong. Pure.

The page shows the parts, `opcod status` writes them on a line each; both are `glance`.

The time to go is an estimate from the run's own pace: seconds of a student's step, and of a drawn sample of an
evaluation, so far. It is None until a step is done. Scores that were taken over from another run cost this one nothing,
so that its first rounds think evaluations shorter than they are.
"""

from collections.abc import Iterator, Mapping

from shared.config.settings import RunSection
from shared.contracts.messages import Contract
from shared.contracts.run import GateDecision, JobStatus, RunState, Score, Split, Status, Tally
from shared.method.gating import GateMode
from shared.results.figures import broken, fixed, seeing

STAGES = {
    Status.VALIDATING: "Validating",
    Status.GATED: "Deciding who may tutor",
    Status.TRAINING: "Training",
    Status.ROUND_DONE: "Round done",
    Status.FINAL_EVAL: "Final evaluation",
    Status.DONE: "Done",
    Status.FAILED: "Failed",
}
OVER = (Status.DONE, Status.FAILED)
TUTORED = (Status.GATED, Status.TRAINING, Status.ROUND_DONE)
"""Where the newest gate is that of the round which is under way."""


class Glance(Contract):
    """share: of all steps, those that are done. remaining_s: an estimate; None where there is none, or the run is over.

    tutors: who may tutor whom in the round that is under way, and by which gaps; None between rounds, and where nobody
    ever does. helped: what revisions did that saw the feedback; None before any. wrong: what a person should look at,
    the gravest first.
    """

    where: str
    share: float
    remaining_s: float | None
    tutors: str | None
    latest: str | None
    helped: str | None
    wrong: tuple[str, ...]

    @property
    def to_go(self) -> str | None:
        return None if self.remaining_s is None else f"about {duration(self.remaining_s)} to go"

    @property
    def lines(self) -> list[str]:
        """For a terminal."""
        first = "; ".join(filter(None, (self.where, self.to_go)))
        return [first, *filter(None, (self.tutors, self.latest, self.helped)), *(f"! {each}" for each in self.wrong)]


def glance(state: RunState, run: RunSection, *, training: bool, dead_letters: int) -> Glance:
    """training: whether somebody trains it now; else it is only served, or stands."""
    total = run.rounds * run.steps_per_round * len(state.steps)
    return Glance(
        where=_where(state, run, training),
        share=min(1.0, sum(state.steps.values()) / total),
        remaining_s=_remaining_s(state, run) if training and state.status not in OVER else None,
        tutors=_tutors(state.gates[-1]) if state.gates and state.status in TUTORED else None,
        latest=_latest(state.scores),
        helped=_helped(state.tallies),
        wrong=tuple(_wrong(state, dead_letters)),
    )


def duration(seconds: float) -> str:
    """Two units at most, as much as an estimate can bear."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return "a minute"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02} min"
    return f"{hours // 24} d {hours % 24} h"


def _where(state: RunState, run: RunSection, training: bool) -> str:
    if state.status is Status.DONE:
        return f"Done, {run.rounds} round{'s' if run.rounds > 1 else ''}"
    parts = [f"{STAGES[state.status]}, round {min(state.round, run.rounds)} of {run.rounds}"]
    if not training and state.status is not Status.FAILED:
        parts.insert(0, "Nobody trains it now")
    if state.status is Status.TRAINING:
        steps = ", ".join(f"{student} {done}" for student, done in sorted(state.steps.items()))
        parts.append(f"steps done of {run.rounds * run.steps_per_round}: {steps}")
    chunks = [chunk.status is JobStatus.DONE for evaluation in state.evals for chunk in evaluation.chunks]
    if chunks:
        parts.append(f"{sum(chunks)} of {len(chunks)} parts")
    return "; ".join(parts)


def _tutors(gate: GateDecision) -> str | None:
    """By tutee, as the feed has it; where nobody may, who was the closest to it."""
    mode = GateMode(gate.mode)
    if mode is GateMode.NEVER:
        return None
    if mode is GateMode.ALWAYS:
        return f"Everybody tutors in round {gate.round}, whatever the gap"
    told = "; ".join(f"{student} ← {_tutors_of(gate, student)}" for student in gate.scores)
    others = ", others on problems of their own domain" if mode is GateMode.DOMAIN_SELECTIVE else ""
    return f"Tutors in round {gate.round}, by a gap of at most {gate.tau:g}{others}: {told}"


def _tutors_of(gate: GateDecision, student: str) -> str:
    pairs = sorted((pair for pair in gate.pairs if pair.student == student), key=lambda pair: pair.gap)
    # Three digits, as a gap just above τ must not read like τ.
    told = [f"{pair.tutor} {pair.gap:.3f}" for pair in pairs if pair.cognizant]
    return ", ".join(told) or (f"nobody ({pairs[0].tutor} {pairs[0].gap:.3f})" if pairs else "nobody")


def _remaining_s(state: RunState, run: RunSection) -> float | None:
    done = sum(state.steps.values())
    if done == 0:
        return None
    students = len(state.steps)
    steps = run.rounds * run.steps_per_round * students - done
    training_s = steps * _spent_s(state, Status.TRAINING) / done
    validation, test = (_drawn(state, split) for split in (Split.VALIDATION, Split.TEST))
    # One for each gate that is to come, and the last one with the tests.
    samples = (run.rounds - len(state.gates) + 1) * validation + test
    # By the drawn sample, whatever it was drawn for: all evaluations are one pool.
    evaluating_s = _spent_s(state, Status.VALIDATING) + _spent_s(state, Status.FINAL_EVAL)
    measured = sum(_samples(score) for score in state.scores) + _under_way(state)
    left = max(0, samples - _under_way(state))
    return training_s + (left * evaluating_s / measured if measured else 0.0)


def _spent_s(state: RunState, status: Status) -> float:
    now_s = state.at - state.status_since if state.status is status else 0.0
    return state.status_seconds.get(status.value, 0.0) + max(0.0, now_s)


def _drawn(state: RunState, split: Split) -> int:
    """Samples of one evaluation of all students, from the first that there was; 0 before any."""
    first = min((score.round for score in state.scores if score.split is split), default=None)
    return sum(_samples(score) for score in state.scores if score.split is split and score.round == first)


def _samples(score: Score) -> int:
    return sum(score.drawn(domain) for domain in score.correct)


def _under_way(state: RunState) -> int:
    """Samples of the evaluations that are being made, as far as their parts are done."""
    return sum(len(evaluation.correct) * evaluation.samples for evaluation in state.evals)


def _latest(scores: list[Score]) -> str | None:
    """The newest evaluation of every student, with the change in points from its first of that split."""
    if not scores:
        return None
    newest = scores[-1]
    same = [score for score in scores if (score.split, score.round) == (newest.split, newest.round)]
    told = "; ".join(f"{score.version} {_means(score, scores)}" for score in same)
    when = f"{newest.split.value} of round {newest.round}" if newest.split is Split.VALIDATION else "test"
    return f"Latest {when}: {told}"


def _means(score: Score, scores: list[Score]) -> str:
    first = next(each for each in scores if (each.student, each.split) == (score.student, score.split))
    return ", ".join(_mean(score, first, domain) for domain in score.correct)


def _mean(score: Score, first: Score, domain: str) -> str:
    change = "" if score is first else f" ({100 * (score.mean(domain) - first.mean(domain)):+.1f})"
    return f"{domain} {100 * score.mean(domain):.1f} %{change}"


def _helped(tallies: Mapping[str, Tally]) -> str | None:
    seen = {student: rows for student, tally in sorted(tallies.items()) if (rows := seeing(tally.revisions))}
    if not seen:
        return None
    told = (
        f"{student} fixed {mended.part} of {mended.whole} wrong answers, broke {broke.part} of {broke.whole} right ones"
        for student, mended, broke in ((student, fixed(rows), broken(rows)) for student, rows in seen.items())
    )
    return f"Revisions with feedback: {'; '.join(told)}"


def _wrong(state: RunState, dead_letters: int) -> Iterator[str]:
    if state.failed:
        yield f"Failed: {state.failed}"
    if state.paused:
        yield f"Paused: {state.paused}"
    if dead_letters:
        yield f"{dead_letters} dead letter{'s' if dead_letters > 1 else ''}; `opcod dlq` shows why"
    for student, watch in sorted(state.watches.items()):
        for name in watch.standing:
            # An alarm that is raised again has another reason: the newest holds.
            told = [each.reason for each in state.alarms if (each.student, each.alarm) == (student, name)]
            yield f"Alarm, student {student}: {told[-1] if told else name.replace('_', ' ')}"
    for each in state.silenced:
        if each.round == state.round and state.status not in OVER:
            yield f"Tutor {each.tutor} is silenced for {each.student} this round"
    for student, tally in sorted(state.tallies.items()):
        if lost := sum(tally.lost_feedback.values()):
            yield f"{lost} feedback{'s' if lost > 1 else ''} for student {student} lost"
