"""What a reader of a run's report is warned of, a line each."""

import shlex

from shared.contracts.diagnostics import Silenced
from shared.results.report import Decline, Report
from shared.results.subsets import KindScore


def warning_lines(report: Report) -> list[str]:
    """One line for each tutor that was silenced, each alarm, each student that ends below its best, and each kind of
    problem that a student has lost."""
    alarmed = [
        f"Alarm, student {alarm.student}, round {alarm.round}, step {alarm.step}: {alarm.alarm.replace('_', ' ')}, "
        f"{alarm.reason}."
        for alarm in report.alarms
    ]
    declined = [_decline_line(each, report.run) for each in report.declines]
    lost = [_lost_line(each, report.run) for each in report.kinds if each.lost]
    return [*map(_silenced_line, report.silenced), *alarmed, *declined, *lost]


def _decline_line(each: Decline, run: str) -> str:
    low, high = (100 * bound for bound in each.interval)
    head = (
        f"Student {each.student} ends below its best: {each.best} validates at {100 * each.best_score:.1f} %, the last "
        f"version {each.last} at {100 * each.last_score:.1f} % (change {low:+.1f} to {high:+.1f})"
    )
    if each.kept:
        return f"{head}. {each.best} is what was tested and is handed on (run.keep_best)."
    return (
        f"{head}. Go back to it with `opcod weights rollback {run} --student {each.student} --to "
        f"{each.best.partition('@')[2]}`, or let a run do so by `run.keep_best = true`."
    )


def _lost_line(each: KindScore, run: str) -> str:
    # Of a file, so it may hold a line's end.
    kind = " ".join(each.kind.split())
    return (
        f"Student {each.student} has lost the kind {kind} of {each.domain}: {100 * each.before:.1f} % of its test "
        f"answers were right before, {100 * each.after:.1f} % are now. What it was told in training where it is wrong, "
        f"in all kinds of that domain: `opcod feedback export --run {run} --filter student={each.student} "
        f"--filter domain={shlex.quote(each.domain)} --filter correct=false`."
    )


def _silenced_line(each: Silenced) -> str:
    head = (
        f"Tutor {each.tutor} was silenced for student {each.student} in step {each.step}, for the rest of round "
        f"{each.round}"
    )
    if each.by is not None:
        return f"{head}, by {each.by}: {each.reason}."
    return (
        f"{head}: its feedback broke {each.broke} of {each.right} right answers ({100 * each.break_rate:.0f} %, "
        f"at least {100 * each.low:.0f} %; bound {100 * each.bound:.0f} %, answering again {100 * each.chance:.0f} %)."
    )
