"""The report of a run, from its final state and the launcher's timeline. Pure; nothing in here rounds or hides."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from pydantic import Field

from shared.config.settings import RunSettings
from shared.contracts.diagnostics import Alarm, Silenced
from shared.contracts.run import AnswerCounts, GateDecision, RunState, Score, Split, Status
from shared.contracts.weights import StepRecord
from shared.method.metrics import change_interval, mean_change_interval, pareto_improved
from shared.problems.manifest import ProblemSetManifest
from shared.results.diagnostics import Diagnostics, diagnose
from shared.results.figures import (
    Interval,
    Part,
    TaughtRow,
    best_validated,
    breaks,
    delivered,
    engine_speeds,
    first_and_last_test,
    fixes,
    problem_shares,
    resampling_seed,
    score_interval,
    seeing,
    taught_rows,
)
from shared.results.subsets import KindScore, StemRow, by_kind, without_shared_stems


class AnswerRates(Part):
    """Shares of the samples: right for a tolerant reader, of the form asked for, cut at max_tokens."""

    lenient: float
    format_ok: float
    truncated: float


class ScoreRow(Part):
    """One student in one domain on the test problems: mean score with its 95 % interval over problems.

    change_interval: of the difference, problem by problem. majority: score of the best constant answer. What the
    fields of `before_answers` and `after_answers` count is no score.
    """

    student: str
    domain: str
    strong: bool
    problems: int
    samples: int
    before: float
    before_interval: Interval
    after: float
    after_interval: Interval
    change: float
    change_interval: Interval
    majority: float
    before_answers: AnswerRates
    after_answers: AnswerRates


class RoundScore(Part):
    """Validation score of a student, by domain, at the start of a round (the last: after the run)."""

    round: int
    student: str
    scores: dict[str, float]


class Decline(Part):
    """A student whose last version validates worse than its `best` one, by more than the noise of validation.

    Scores are means over domains, `interval` is the 95 % one of the change problem by problem. kept: the better one is
    what the run tested and hands on (`run.keep_best`).
    """

    student: str
    best: str
    best_score: float
    last: str
    last_score: float
    interval: Interval
    kept: bool


class StudentReport(Part):
    """What one student went through as tutee. Rates are None when there is nothing to count; break- and fix-rate are of
    the `revised` rollouts whose revision saw the tutor's feedback."""

    student: str
    version: str
    steps: int
    pareto_improvement: bool | None
    samples: int
    active_share: float | None
    verdicts: dict[str, int]
    kept_share: float | None
    lost_feedback: dict[str, int]
    break_rate: float | None
    fix_rate: float | None
    revised: int
    engine_tokens_per_s: dict[str, float]
    stage_seconds: dict[str, float]
    trainer_seconds: dict[str, float]


class Stage(Part):
    name: str
    seconds: float
    share: float


def unclaimed_text(domains: Sequence[str]) -> str:
    """Of domains that no student is strong in. Who may tutor there is left to the gate and the choice."""
    return f"no student is strong in {', '.join(domains)}"


class Report(Part):
    """`report.json`. mutual_improvement: every student improved in the sense of Pareto (paper 3.1).
    unclaimed: domains that no student is strong in."""

    run: str
    status: str
    finished: bool
    reason: str | None
    seed: int
    rounds: int
    scores: list[ScoreRow]
    kinds: list[KindScore] = Field(default_factory=list)
    without_shared_stems: list[StemRow]
    students: list[StudentReport]
    mutual_improvement: bool | None
    validation: list[RoundScore]
    declines: list[Decline]
    gates: list[GateDecision]
    taught: list[TaughtRow] = Field(default_factory=list)
    unclaimed: list[str] = Field(default_factory=list)
    silenced: list[Silenced]
    alarms: list[Alarm]
    diagnostics: Diagnostics
    wall_s: float
    stages: list[Stage]
    accounted_share: float
    dominant_stage: str | None
    restarts: dict[str, int]


def build_report(
    state: RunState,
    settings: RunSettings,
    timeline: Mapping[str, float],
    wall_s: float,
    restarts: Mapping[str, int],
    steps: Sequence[StepRecord] = (),
    problems: ProblemSetManifest | None = None,
) -> Report:
    """timeline: seconds of the launcher's own stages; the run's statuses are added from the state.

    steps: the records of the steps that are done. problems: the manifest of the run's problems.
    """
    students = sorted(settings.students)
    rows = [row for s in students for row in score_rows(state, settings, s)]
    improved = {s: _improved([row for row in rows if row.student == s]) for s in students}
    stages = _stages(state, timeline, wall_s)
    return Report(
        run=state.run,
        status=state.status.value,
        finished=state.status is Status.DONE,
        reason=state.failed or state.paused,
        seed=settings.run.seed,
        rounds=settings.run.rounds,
        scores=rows,
        kinds=by_kind(state.scores, problems, settings.evaluation.test_problems),
        without_shared_stems=without_shared_stems(state.scores, problems, settings.evaluation.test_problems),
        students=[_student(state, s, improved[s]) for s in students],
        # Over no rows all() would be True: a run without two tests has improved nothing.
        mutual_improvement=all(improved.values()) if rows else None,
        validation=_validation(state),
        declines=[decline for s in students if (decline := _decline(state, s)) is not None],
        gates=state.gates,
        taught=taught_rows(state.tallies),
        unclaimed=[domain for domain in _domains(state) if domain not in settings.domains],
        silenced=state.silenced,
        alarms=state.alarms,
        diagnostics=diagnose(state, settings.rollout.samples, steps),
        wall_s=wall_s,
        stages=stages,
        accounted_share=sum(stage.seconds for stage in stages) / wall_s if wall_s else 0.0,
        dominant_stage=max(stages, key=lambda stage: stage.seconds).name if stages else None,
        restarts=dict(restarts),
    )


def _domains(state: RunState) -> Iterable[str]:
    """Those that students were scored in, in the run's order."""
    return state.scores[0].correct if state.scores else ()


def score_rows(state: RunState, settings: RunSettings, student: str) -> list[ScoreRow]:
    """Of a student's first and last test; none where it was tested less than twice."""
    tests = first_and_last_test(state.scores, student)
    if tests is None:
        return []
    return [_row(*tests, domain, settings.students[student].domain) for domain in tests[0].correct]


def _row(first: Score, last: Score, domain: str, strong: str) -> ScoreRow:
    before, after = problem_shares(first, domain), problem_shares(last, domain)
    return ScoreRow(
        student=first.student,
        domain=domain,
        strong=domain == strong,
        problems=len(before),
        samples=first.samples,
        before=first.mean(domain),
        before_interval=score_interval(first, domain),
        after=last.mean(domain),
        after_interval=score_interval(last, domain),
        change=last.mean(domain) - first.mean(domain),
        change_interval=change_interval(before, after, seed=resampling_seed(first.student, domain)),
        majority=last.majority[domain],
        before_answers=answer_rates(first.answers[domain], first.drawn(domain)),
        after_answers=answer_rates(last.answers[domain], last.drawn(domain)),
    )


def answer_rates(counts: AnswerCounts, samples: int) -> AnswerRates:
    return AnswerRates(
        lenient=counts.lenient / samples,
        format_ok=counts.format_ok / samples,
        truncated=counts.truncated / samples,
    )


def _improved(rows: Sequence[ScoreRow]) -> bool | None:
    if not rows:
        return None
    return pareto_improved({row.domain: row.before for row in rows}, {row.domain: row.after for row in rows})


def _student(state: RunState, student: str, improved: bool | None) -> StudentReport:
    tally = state.tallies[student]
    verdicts: Counter[str] = Counter()
    for counts in tally.verdicts.values():
        verdicts.update(counts)
    # Without the control: a revision that saw no feedback says nothing about what feedback breaks.
    told = seeing(tally.revisions)
    broken, fixed = breaks(told), fixes(told)
    return StudentReport(
        student=student,
        version=state.version[student],
        steps=state.steps[student],
        pareto_improvement=improved,
        samples=tally.samples,
        active_share=tally.active_samples / tally.samples if tally.samples else None,
        verdicts=dict(verdicts),
        kept_share=delivered(verdicts.items()).value,
        lost_feedback=tally.lost_feedback,
        break_rate=broken.rate,
        fix_rate=fixed.rate,
        revised=broken.total + fixed.total,
        engine_tokens_per_s=engine_speeds(tally),
        stage_seconds=tally.stage_seconds,
        trainer_seconds=tally.trainer_seconds,
    )


def _validation(state: RunState) -> list[RoundScore]:
    return [
        RoundScore(round=s.round, student=s.student, scores={d: s.mean(d) for d in s.correct})
        for s in state.scores
        if s.split is Split.VALIDATION
    ]


def _decline(state: RunState, student: str) -> Decline | None:
    best = best_validated(state.scores, student)
    validated = [score for score in state.scores if score.student == student and score.split is Split.VALIDATION]
    # The very same object: of two that score alike `best_validated` decides which one is the best.
    if best is None or best is validated[-1]:
        return None
    last = validated[-1]
    # Of the number that is told, and that `best_validated` chose by: a domain weighs as much as any other.
    before, after = ([problem_shares(score, domain) for domain in best.correct] for score in (best, last))
    interval = mean_change_interval(before, after, seed=resampling_seed(student, "validation"))
    # The change holds 0 or more: it may be noise.
    if interval[1] >= 0:
        return None
    return Decline(
        student=student,
        best=best.version,
        best_score=best.mean_over_domains,
        last=last.version,
        last_score=last.mean_over_domains,
        interval=interval,
        kept=state.version[student] == best.version,
    )


STATUS_STAGES = {
    "VALIDATING": "validation (and the first test)",
    "TRAINING": "training rounds",
    "FINAL_EVAL": "final validation and test",
}


def _stages(state: RunState, timeline: Mapping[str, float], wall_s: float) -> list[Stage]:
    seconds = dict(timeline)
    for status, name in STATUS_STAGES.items():
        # A status that the run never had is left out, so that no stage of 0 s stands in the table.
        if status in state.status_seconds:
            seconds[name] = state.status_seconds[status]
    return [Stage(name=name, seconds=value, share=value / wall_s) for name, value in seconds.items() if wall_s]
