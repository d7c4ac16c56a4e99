"""The diagnostics as tables, and the warnings of a run as lines."""

from collections.abc import Sequence

from opcod.report.diagnostics import FIGURES, Diagnostics, Rate, RoundVerdicts
from opcod.report.grids import Grid
from shared.contracts.diagnostics import Alarm, Silenced

FIGURE_NAMES = {
    "loss": "loss",
    "grad_norm": "gradient norm",
    "delta_logprob": "mean absolute Δ log-prob, engine to trainer, nats",
    "clipped_share": "clipped share",
    "effective_sample_share": "effective sample size, share",
    "active_share": "active share",
}
KIND_NAMES = {"with_feedback": "with feedback", "without_feedback": "without feedback"}


def diagnostic_grids(diagnostics: Diagnostics) -> list[Grid]:
    return [
        _revision_grid(diagnostics),
        _verdict_grid(diagnostics.verdicts),
        _time_grid(diagnostics),
        _figure_grid(diagnostics),
    ]


def warning_lines(silenced: Sequence[Silenced], alarms: Sequence[Alarm]) -> list[str]:
    """One line for each tutor that was silenced and for each alarm."""
    return [_silenced_line(each) for each in silenced] + [
        f"Alarm, student {alarm.student}, round {alarm.round}, step {alarm.step}: {alarm.alarm.replace('_', ' ')}, "
        f"{alarm.reason}."
        for alarm in alarms
    ]


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


def _revision_grid(diagnostics: Diagnostics) -> Grid:
    header = ["tutee", "tutor", "of", "feedback", "groups", "break-rate", "by chance", "fix-rate"]
    rows = [
        [
            row.student,
            row.tutor,
            row.of,
            "shown" if row.told else "not shown",
            str(row.groups),
            _rate(row.breaks),
            "–" if row.chance is None else f"{100 * row.chance:.1f} %",
            _rate(row.fixes),
        ]
        for row in diagnostics.revisions
    ]
    return Grid("Revisions: of right rollouts broken, of wrong ones fixed (95 % interval)", header, rows)


def _verdict_grid(verdicts: Sequence[RoundVerdicts]) -> Grid:
    """First and last round of each tutee."""
    rows = []
    for student in sorted({row.student for row in verdicts}):
        own = [row for row in verdicts if row.student == student]
        for row in own[:1] + own[1:][-1:]:
            total = sum(row.counts.values())
            shares = ", ".join(f"{word} {100 * n / total:.1f} %" for word, n in sorted(row.counts.items()))
            rows.append([student, str(row.round), str(total), shares or "none given"])
    return Grid("Verdicts in the first and last round", ["tutee", "round", "feedbacks", "shares"], rows)


def _time_grid(diagnostics: Diagnostics) -> Grid:
    rows = [
        [time.student, KIND_NAMES[time.kind], str(time.steps), f"{time.mean_s:.2f}"] for time in diagnostics.step_times
    ]
    return Grid("Step time, seconds", ["tutee", "steps", "number", "mean"], rows)


def _figure_grid(diagnostics: Diagnostics) -> Grid:
    rows = []
    students = sorted({figure.student for figure in diagnostics.figures})
    for name in FIGURES:
        for student in students:
            rows += [
                [FIGURE_NAMES[name], student, str(figure.steps), f"{figure.mean:.4g}", f"{figure.last:.4g}"]
                for figure in diagnostics.figures
                if (figure.name, figure.student) == (name, student)
            ]
    return Grid("Figures of the steps", ["figure", "student", "steps", "mean", "last"], rows)


def _rate(rate: Rate) -> str:
    if rate.rate is None or rate.interval is None:
        return "–"
    low, high = rate.interval
    return f"{rate.changed}/{rate.total} = {100 * rate.rate:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
