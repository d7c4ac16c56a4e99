"""The report of a run in words: its tables, its verdict and its warnings, as Markdown and on a terminal."""

from collections.abc import Mapping, Sequence

from rich.console import Console

from opcod.report.warning_text import warning_lines
from shared.contracts.run import GateDecision
from shared.results.diagnostics import FIGURES, Diagnostics, RoundVerdicts
from shared.results.figures import Rate
from shared.results.grid import (
    Column,
    FromTo,
    Grid,
    Measured,
    Named,
    Rows,
    Value,
    markdown,
    percent,
    percentage,
    plain,
    terminal,
)
from shared.results.report import Report, ScoreRow, unclaimed_text

PICTURES = ("scores.png", "gap.png", "verdicts.png")
FIGURE_NAMES = {
    "loss": "loss",
    "grad_norm": "gradient norm",
    "delta_logprob": "mean absolute Δ log-prob, engine to trainer, nats",
    "clipped_share": "clipped share",
    "effective_sample_share": "effective sample size, share",
    "active_share": "active share",
    "peer_share": "share of the peer's rollouts within the clip",
}
KIND_NAMES = {"with_feedback": "with feedback", "without_feedback": "without feedback"}


def diagnostic_grids(diagnostics: Diagnostics) -> list[Grid]:
    return [
        _revision_grid(diagnostics),
        _verdict_grid(diagnostics.verdicts),
        _time_grid(diagnostics),
        _figure_grid(diagnostics),
    ]


def _revision_grid(diagnostics: Diagnostics) -> Grid:
    columns = [
        *plain("tutee", "tutor", "of", "feedback", "groups"),
        *map(percent, ("break-rate", "by chance", "fix-rate")),
    ]
    rows: Rows = [
        [
            row.student,
            row.tutor,
            row.of,
            "shown" if row.told else "not shown",
            row.groups,
            _rate(row.breaks),
            row.chance,
            _rate(row.fixes),
        ]
        for row in diagnostics.revisions
    ]
    return Grid("Revisions: of right rollouts broken, of wrong ones fixed (95 % interval)", columns, rows)


def _verdict_grid(verdicts: Sequence[RoundVerdicts]) -> Grid:
    """First and last round of each tutee."""
    rows: list[list[Value]] = []
    for student in sorted({row.student for row in verdicts}):
        own = [row for row in verdicts if row.student == student]
        rows += [
            [student, str(row.round), sum(row.counts.values()), _verdict_shares(row.counts)]
            for row in own[:1] + own[1:][-1:]
        ]
    return Grid("Verdicts in the first and last round", plain("tutee", "round", "feedbacks", "shares"), rows)


def _verdict_shares(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    return ", ".join(f"{word} {100 * n / total:.1f} %" for word, n in sorted(counts.items())) or "none given"


def _time_grid(diagnostics: Diagnostics) -> Grid:
    rows: Rows = [[time.student, KIND_NAMES[time.kind], time.steps, time.mean_s] for time in diagnostics.step_times]
    return Grid("Step time, seconds", [*plain("tutee", "steps", "number"), Column("mean", ".2f")], rows)


def _figure_grid(diagnostics: Diagnostics) -> Grid:
    rows: Rows = [
        [FIGURE_NAMES[name], figure.student, figure.steps, figure.mean, figure.last]
        for name in FIGURES
        for figure in sorted(diagnostics.figures, key=lambda figure: figure.student)
        if figure.name == name
    ]
    columns = [*plain("figure", "student", "steps"), Column("mean", ".4g"), Column("last", ".4g")]
    return Grid("Figures of the steps", columns, rows)


def _rate(rate: Rate) -> Measured | None:
    if rate.rate is None:
        return None
    return Measured(rate.rate, rate.interval, (rate.changed, rate.total))


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
    if report.unclaimed:
        lines.append(f"N{unclaimed_text(report.unclaimed)[1:]}.")
    return lines


def grids(report: Report) -> list[Grid]:
    """All tables of the report that have a row, in order."""
    every = [
        score_grid(report),
        kind_grid(report),
        _stem_grid(report),
        _answer_grid(report),
        gate_grid(report),
        _taught_grid(report),
        feedback_grid(report),
        *diagnostic_grids(report.diagnostics),
        _wall_grid(report),
        _phase_grid(report),
        _engine_grid(report),
    ]
    return [grid for grid in every if grid.rows]


def to_markdown(report: Report) -> str:
    warnings = warning_lines(report)
    lines = [f"# Run {report.run}", "", *verdict_lines(report), "", *(f"- {line}" for line in warnings), ""]
    for grid in grids(report):
        lines += markdown(grid)
    lines += [f"![{name.removesuffix('.png')}]({name})" for name in PICTURES]
    return "\n".join(lines) + "\n"


def print_report(report: Report, console: Console) -> None:
    for grid in grids(report):
        console.print(terminal(grid))
    for line in warning_lines(report):
        console.print(line, style="bold red", highlight=False, markup=False)
    for line in verdict_lines(report):
        console.print(line, style="bold", highlight=False, markup=False)


def score_grid(report: Report) -> Grid:
    rows: Rows = [
        [
            row.student,
            Named(row.domain, "own" if row.strong else ""),
            row.majority,
            Measured(row.before, row.before_interval),
            Measured(row.after, row.after_interval),
            Measured(row.change, row.change_interval),
        ]
        for row in report.scores
    ]
    return Grid(
        "Test scores, % (95 % interval over problems; majority: the best constant answer's score)",
        [
            *plain("student", "domain"),
            *map(percentage, ("majority", "before", "after")),
            percentage("change", "+.1f"),
        ],
        rows,
    )


def kind_grid(report: Report) -> Grid:
    """Those alone that the run has changed: all would be the longest table."""
    rows: Rows = [
        [
            row.student,
            row.domain,
            row.kind,
            row.problems,
            row.before,
            row.after,
            Measured(row.after - row.before, row.change_interval),
        ]
        for row in report.kinds
        if row.moved
    ]
    columns = [
        *plain("student", "domain", "kind", "problems"),
        *map(percentage, ("before", "after")),
        percentage("change", "+.1f"),
    ]
    return Grid(
        "Kinds of test problems whose score changed beyond noise, % (95 % interval over problems)", columns, rows
    )


def _stem_grid(report: Report) -> Grid:
    rows: Rows = [
        [row.student, row.domain, f"{row.problems} (less {row.shared})", row.before, row.after]
        for row in report.without_shared_stems
    ]
    columns = [*plain("student", "domain", "problems"), *map(percentage, ("before", "after"))]
    return Grid("Test scores without problems whose stem is in the training problems, %", columns, rows)


def _answer_grid(report: Report) -> Grid:
    rows: Rows = [
        [
            row.student,
            row.domain,
            FromTo(row.before_answers.lenient, row.after_answers.lenient),
            FromTo(row.before_answers.format_ok, row.after_answers.format_ok),
            FromTo(row.before_answers.truncated, row.after_answers.truncated),
        ]
        for row in report.scores
    ]
    shares = ("right for a lenient reader (not the score)", "form kept", "truncated")
    columns = [*plain("student", "domain"), *map(percentage, shares)]
    return Grid("Test answers, % of the samples (before → after)", columns, rows)


def gate_grid(report: Report) -> Grid:
    """A row for each student where there are two, whose gap is that to the other; else for each tutor and tutee."""
    if any(len(gate.gaps) > 2 for gate in report.gates):
        return _pair_grid(report)
    rows: Rows = [_gate_row(gate, student.student) for gate in report.gates for student in report.students]
    columns = [
        *plain("round", "student", "validation"),
        Column("gap (95 % interval)", ".3f", interval_form=".2f"),
        Column("τ", "g"),
        *plain("may tutor"),
    ]
    return Grid("Gate", columns, rows)


def _pair_grid(report: Report) -> Grid:
    rows: Rows = [
        [
            str(gate.round),
            pair.tutor,
            pair.student,
            Measured(pair.gap, pair.interval),
            gate.tau,
            SPEAKS.get(gate.mode) or ("yes" if pair.cognizant else "no"),
        ]
        for gate in report.gates
        for pair in gate.pairs
    ]
    columns = [
        *plain("round", "tutor", "tutee"),
        Column("gap (95 % interval)", ".3f", interval_form=".2f"),
        Column("τ", "g"),
        *plain("may tutor"),
    ]
    return Grid("Gate", columns, rows)


def _taught_grid(report: Report) -> Grid:
    """What feedback did to answers is in the revisions, by tutor and tutee."""
    rows: Rows = [
        [row.tutor, row.student, row.domain, row.feedbacks, row.kept / row.feedbacks if row.feedbacks else None]
        for row in report.taught
    ]
    columns = [*plain("tutor", "tutee", "domain", "feedbacks"), percent("kept")]
    return Grid("Who taught whom", columns, rows)


SPEAKS = {"always": "yes (always)", "never": "no (never)"}


def _gate_row(gate: GateDecision, student: str) -> list[Value]:
    scores = ", ".join(f"{domain} {100 * score:.1f}" for domain, score in gate.scores[student].items())
    speaks = SPEAKS.get(gate.mode)
    gap = Measured(gate.gaps[student], gate.gap_intervals[student])
    return [str(gate.round), student, scores, gap, gate.tau, speaks or ("yes" if gate.cognizant[student] else "no")]


def feedback_grid(report: Report) -> Grid:
    columns = [
        *plain("tutee", "rollouts"),
        *map(percent, ("with loss", "feedback kept")),
        *plain("verdicts", "lost"),
        *map(percent, ("break-rate", "fix-rate")),
    ]
    rows: Rows = [
        [
            student.student,
            student.samples,
            student.active_share,
            student.kept_share,
            _verdict_shares(student.verdicts),
            ", ".join(f"{reason} {n}" for reason, n in sorted(student.lost_feedback.items())) or "none",
            student.break_rate,
            student.fix_rate,
        ]
        for student in report.students
    ]
    return Grid("Feedback", columns, rows)


def _wall_grid(report: Report) -> Grid:
    stages: Rows = [[stage.name, stage.seconds, stage.share] for stage in report.stages]
    sums: Rows = [
        ["accounted for", report.accounted_share * report.wall_s, report.accounted_share],
        ["wall time", report.wall_s, f"dominated by {report.dominant_stage or 'nothing'}"],
    ]
    return Grid("Seconds by stage", [*plain("stage"), Column("seconds", ".1f"), percent("share")], [*stages, *sums])


def _phase_grid(report: Report) -> Grid:
    """Critical path of the training rounds, student by student (all run at the same time)."""
    names = ["rollout", "feedback", "train", "swap"]
    rows: Rows = [
        [student.student, *(seconds.get(name, 0.0) for name in names), max(seconds, key=lambda name: seconds[name])]
        for student in report.students
        if (seconds := student.stage_seconds)
    ]
    columns = [*plain("student"), *(Column(name, ".1f") for name in names), *plain("dominant")]
    return Grid("Training rounds, seconds of each student's critical path", columns, rows)


def _engine_grid(report: Report) -> Grid:
    rows: Rows = [
        [student.student, kind, rate]
        for student in report.students
        for kind, rate in sorted(student.engine_tokens_per_s.items())
    ]
    columns = [*plain("tutee", "work"), Column("tokens/s", ".0f")]
    return Grid("Output tokens a second of engine time", columns, rows)


def _names(rows: Sequence[ScoreRow]) -> str:
    return ", ".join(row.domain for row in rows)
