"""The pictures of a report: scores over rounds, gap against τ, verdict shares."""

from pathlib import Path

import matplotlib

from opcod.report.run import Report

matplotlib.use("Agg")
from matplotlib import pyplot

SIZE = (7.0, 4.0)


def draw(report: Report, directory: Path) -> None:
    """Write scores.png, gap.png and verdicts.png into `directory`."""
    _scores(report, directory / "scores.png")
    _gap(report, directory / "gap.png")
    _verdicts(report, directory / "verdicts.png")


def _scores(report: Report, path: Path) -> None:
    figure, axes = pyplot.subplots(figsize=SIZE)
    for student in report.students:
        own = [row for row in report.validation if row.student == student.student]
        for domain in own[0].scores if own else ():
            axes.plot(
                [row.round - 1 for row in own],
                [100 * row.scores[domain] for row in own],
                marker="o",
                label=f"{student.student}: {domain}",
            )
    axes.set(xlabel="rounds trained", ylabel="validation score, %", ylim=(0, 100), title=f"Scores, {report.run}")
    axes.set_xticks(sorted({row.round - 1 for row in report.validation}))
    _legend(axes)
    save(figure, path)


def _gap(report: Report, path: Path) -> None:
    figure, axes = pyplot.subplots(figsize=SIZE)
    for student in report.students:
        name = student.student
        gaps = [gate.gaps[name] for gate in report.gates]
        spread = [
            [gap - gate.gap_intervals[name][0] for gap, gate in zip(gaps, report.gates, strict=True)],
            [gate.gap_intervals[name][1] - gap for gap, gate in zip(gaps, report.gates, strict=True)],
        ]
        spread = [[max(0.0, value) for value in side] for side in spread]
        axes.errorbar([gate.round for gate in report.gates], gaps, yerr=spread, marker="o", capsize=4, label=name)
    for gate in report.gates[:1]:
        axes.axhline(gate.tau, linestyle="--", color="grey", label=f"τ = {gate.tau:g}")
    axes.set(xlabel="round", ylabel="gap", title="Gap against τ: at or below it a student may tutor")
    axes.set_xticks([gate.round for gate in report.gates])
    _legend(axes)
    save(figure, path)


def _verdicts(report: Report, path: Path) -> None:
    figure, axes = pyplot.subplots(figsize=SIZE)
    words = sorted({word for student in report.students for word in student.verdicts})
    names = [student.student for student in report.students]
    left = [0.0] * len(names)
    for word in words:
        shares = [
            100 * student.verdicts.get(word, 0) / max(1, sum(student.verdicts.values())) for student in report.students
        ]
        axes.barh(names, shares, left=left, label=word)
        left = [start + share for start, share in zip(left, shares, strict=True)]
    axes.set(xlabel="share of the feedback each tutee got, %", ylabel="tutee", title="Verdicts", xlim=(0, 100))
    _legend(axes)
    save(figure, path)


def _legend(axes: "pyplot.Axes") -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend()


def save(figure: "pyplot.Figure", path: Path) -> None:
    """Write the figure and forget it."""
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
