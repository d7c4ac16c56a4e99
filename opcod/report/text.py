"""The report as Markdown and as tables on a terminal.

The diagnostics as tables, and the warnings of a run as lines.
"""

from collections.abc import Sequence

from rich.console import Console

from opcod.report.grids import Grid, grid_markdown, grid_table
from shared.contracts.diagnostics import Alarm, Silenced
from shared.contracts.run import GateDecision
from shared.results.diagnostics import FIGURES, Diagnostics, RoundVerdicts
from shared.results.figures import Interval, Rate
from shared.results.report import Report, ScoreRow, StudentReport

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


PICTURES = ("scores.png", "gap.png", "verdicts.png")


def verdict_lines(report: Report) -> list[str]:
    """What came out, in plain words; a run that did not improve says so."""
    if not report.finished:
        return [f"The run is not finished ({report.status}{': ' + report.reason if report.reason else ''})."]
    if not report.scores:
        return ["The run has no test scores; nothing can be said about improvement."]
    lines = []
    for student in report.students:
        worse = [row for row in report.scores if row.student == student.student and row.change < 0]
        better = [row for row in report.scores if row.student == student.student and row.change > 0]
        if student.pareto_improvement:
            lines.append(f"Student {student.student} improved: better in {_names(better)}, worse in none.")
        elif worse:
            lines.append(f"Student {student.student} did not improve in the Pareto sense: worse in {_names(worse)}.")
        else:
            lines.append(f"Student {student.student} did not improve: no domain changed.")
    mutual = "Mutual Pareto improvement: yes." if report.mutual_improvement else "Mutual Pareto improvement: no."
    unsure = [row for row in report.scores if row.change_interval[0] <= 0 <= row.change_interval[1]]
    lines.append(mutual)
    if unsure:
        cells = ", ".join(f"{row.student}/{row.domain}" for row in unsure)
        lines.append(f"Within the noise of this test (95 % interval of the change holds 0): {cells}.")
    return lines


def grids(report: Report) -> list[Grid]:
    """All tables of the report, in order."""
    return [
        _score_grid(report),
        _stem_grid(report),
        _answer_grid(report),
        _gate_grid(report),
        _feedback_grid(report),
        *diagnostic_grids(report.diagnostics),
        _wall_grid(report),
        _phase_grid(report),
        _engine_grid(report),
    ]


def to_markdown(report: Report) -> str:
    warnings = warning_lines(report.silenced, report.alarms)
    lines = [f"# Run {report.run}", "", *verdict_lines(report), "", *(f"- {line}" for line in warnings), ""]
    for grid in grids(report):
        if not grid.rows:
            continue
        lines += grid_markdown(grid)
    lines += [f"![{name.removesuffix('.png')}]({name})" for name in PICTURES]
    return "\n".join(lines) + "\n"


def print_report(report: Report, console: Console) -> None:
    for grid in grids(report):
        if not grid.rows:
            continue
        console.print(grid_table(grid))
    for line in warning_lines(report.silenced, report.alarms):
        console.print(line, style="bold red", highlight=False)
    for line in verdict_lines(report):
        console.print(line, style="bold", highlight=False)


def _score_grid(report: Report) -> Grid:
    rows = [
        [
            row.student,
            row.domain + (" (own)" if row.strong else ""),
            f"{100 * row.majority:.1f}",
            _score(row.before, row.before_interval),
            _score(row.after, row.after_interval),
            _signed(row.change, row.change_interval),
        ]
        for row in report.scores
    ]
    return Grid(
        "Test scores, % (95 % interval over problems; majority: the best constant answer's score)",
        ["student", "domain", "majority", "before", "after", "change"],
        rows,
    )


def _stem_grid(report: Report) -> Grid:
    rows = [
        [
            row.student,
            row.domain,
            f"{row.problems} (less {row.shared})",
            f"{100 * row.before:.1f}",
            f"{100 * row.after:.1f}",
        ]
        for row in report.without_shared_stems
    ]
    header = ["student", "domain", "problems", "before", "after"]
    return Grid("Test scores without problems whose stem is in the training problems, %", header, rows)


def _answer_grid(report: Report) -> Grid:
    rows = [
        [
            row.student,
            row.domain,
            *(_from_to(row, what) for what in ("lenient", "format_ok", "truncated")),
        ]
        for row in report.scores
    ]
    header = ["student", "domain", "right for a lenient reader (not the score)", "form kept", "truncated"]
    return Grid("Test answers, % of the samples (before → after)", header, rows)


def _from_to(row: ScoreRow, what: str) -> str:
    before, after = (getattr(rates, what) for rates in (row.before_answers, row.after_answers))
    return f"{100 * before:.1f} → {100 * after:.1f}"


def _gate_grid(report: Report) -> Grid:
    rows = [
        [str(gate.round), *_gate_cells(gate, student.student)] for gate in report.gates for student in report.students
    ]
    return Grid("Gate", ["round", "student", "validation", "gap (95 % interval)", "τ", "may tutor"], rows)


def _gate_cells(gate: GateDecision, student: str) -> list[str]:
    low, high = gate.gap_intervals[student]
    scores = ", ".join(f"{domain} {100 * score:.1f}" for domain, score in gate.scores[student].items())
    speaks = {"always": "yes (always)", "never": "no (never)"}.get(gate.mode)
    gap = f"{gate.gaps[student]:.3f} ({low:.2f} to {high:.2f})"
    return [student, scores, gap, f"{gate.tau:g}", speaks or ("yes" if gate.cognizant[student] else "no")]


def _feedback_grid(report: Report) -> Grid:
    header = ["tutee", "rollouts", "with loss", "feedback kept", "verdicts", "lost", "break-rate", "fix-rate"]
    return Grid("Feedback", header, [_feedback_row(student) for student in report.students])


def _feedback_row(student: StudentReport) -> list[str]:
    told = sum(student.verdicts.values())
    shares = ", ".join(f"{word} {100 * n / told:.1f} %" for word, n in sorted(student.verdicts.items()))
    return [
        student.student,
        str(student.samples),
        _percent(student.active_share),
        _percent(student.kept_share),
        shares or "none given",
        ", ".join(f"{reason} {n}" for reason, n in sorted(student.lost_feedback.items())) or "none",
        _percent(student.break_rate),
        _percent(student.fix_rate),
    ]


def _wall_grid(report: Report) -> Grid:
    rows = [[stage.name, f"{stage.seconds:.1f}", f"{100 * stage.share:.1f} %"] for stage in report.stages]
    rows.append(
        ["accounted for", f"{report.accounted_share * report.wall_s:.1f}", f"{100 * report.accounted_share:.1f} %"]
    )
    rows.append(["wall time", f"{report.wall_s:.1f}", f"dominated by {report.dominant_stage or 'nothing'}"])
    return Grid("Seconds by stage", ["stage", "seconds", "share"], rows)


def _phase_grid(report: Report) -> Grid:
    """Critical path of the training rounds, student by student (both run at the same time)."""
    names = ["rollout", "feedback", "train", "swap"]
    rows = []
    for student in report.students:
        seconds = student.stage_seconds
        if seconds:
            top = max(seconds, key=lambda name: seconds[name])
            rows.append([student.student, *(f"{seconds.get(name, 0.0):.1f}" for name in names), top])
    return Grid("Training rounds, seconds of each student's critical path", ["student", *names, "dominant"], rows)


def _engine_grid(report: Report) -> Grid:
    rows = [
        [student.student, kind, f"{rate:.0f}"]
        for student in report.students
        for kind, rate in sorted(student.engine_tokens_per_s.items())
    ]
    return Grid("Output tokens a second of engine time", ["tutee", "work", "tokens/s"], rows)


def _score(value: float, interval: Interval) -> str:
    return f"{100 * value:.1f} ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"


def _signed(value: float, interval: Interval) -> str:
    return f"{100 * value:+.1f} ({100 * interval[0]:+.1f} to {100 * interval[1]:+.1f})"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _names(rows: Sequence[ScoreRow]) -> str:
    return ", ".join(row.domain for row in rows)
