"""The pictures of a report and of a comparison, drawn with matplotlib into PNG files.

Of a report: scores over rounds, the gap against τ, shares of verdicts. Of a comparison: final scores, changes, and
differences from the reference, each with intervals.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
from matplotlib import pyplot

from shared.contracts.run import GateDecision, PairGate
from shared.results.comparison import Cell, Comparison, Estimate, MethodFigures
from shared.results.comparison_text import place
from shared.results.report import Report

matplotlib.use("Agg")  # no window, on machines that have no display either

SIZE = (7.0, 4.0)


def draw(report: Report, directory: Path) -> None:
    """Write scores.png, gap.png and verdicts.png into `directory`."""
    _scores(report, directory / "scores.png")
    save(gap_figure(report.gates), directory / "gap.png")
    _verdicts(report, directory / "verdicts.png")


def _scores(report: Report, path: Path) -> None:
    figure, axes = pyplot.subplots(figsize=SIZE)
    for student in report.students:
        own = [row for row in report.validation if row.student == student.student]
        for domain in own[0].scores if own else ():
            axes.plot(
                # A round validates before it trains, so its score is that after one round less.
                [row.round - 1 for row in own],
                [100 * row.scores[domain] for row in own],
                marker="o",
                label=f"{student.student}: {domain}",
            )
    axes.set(xlabel="rounds trained", ylabel="validation score, %", ylim=(0, 100), title=f"Scores, {report.run}")
    axes.set_xticks(sorted({row.round - 1 for row in report.validation}))
    _legend(axes)
    save(figure, path)


def gap_figure(gates: Sequence[GateDecision]) -> "pyplot.Figure":
    """A line for each pair of tutor and tutee, as the gate decides of each."""
    figure, axes = pyplot.subplots(figsize=SIZE)
    pairs: dict[str, list[tuple[int, PairGate]]] = {}
    for gate in gates:
        for name, pair in gate.named_pairs().items():
            pairs.setdefault(name, []).append((gate.round, pair))
    for name, told in pairs.items():
        # An interval by resampling need not hold the value itself, and matplotlib refuses a bar of negative length.
        spread = [
            [max(0.0, pair.gap - pair.interval[0]) for _, pair in told],
            [max(0.0, pair.interval[1] - pair.gap) for _, pair in told],
        ]
        gaps = [pair.gap for _, pair in told]
        axes.errorbar([at for at, _ in told], gaps, yerr=spread, marker="o", capsize=4, label=name)
    # Tau is the run's, so the first gate's is that of all.
    for gate in gates[:1]:
        axes.axhline(gate.tau, linestyle="--", color="grey", label=f"τ = {gate.tau:g}")
    axes.set(xlabel="round", ylabel="gap", title="Gap against τ: at or below it a student may tutor")
    axes.set_xticks([gate.round for gate in gates])
    _legend(axes)
    return figure


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
    pyplot.close(figure)  # pyplot keeps every figure until then


COMPARISON_SIZE = (9.0, 4.5)
WIDTH = 0.8
"""Of the room that the methods share around one cell's tick."""

Chosen = Callable[[Cell], Estimate | None]


def draw_comparison(comparison: Comparison, directory: Path) -> None:
    """Write scores.png, changes.png and differences.png; nothing while no run is finished."""
    if not comparison.methods:
        return
    _draw(comparison, lambda cell: cell.after, "final test score, %", directory / "scores.png", initial=True)
    _draw(comparison, lambda cell: cell.change, "change from before, points", directory / "changes.png")
    label = f"final score minus that of {comparison.reference}, points"
    _draw(comparison, lambda cell: cell.difference, label, directory / "differences.png")


def _draw(comparison: Comparison, chosen: Chosen, label: str, path: Path, *, initial: bool = False) -> None:
    figure, axes = pyplot.subplots(figsize=COMPARISON_SIZE)
    methods = [method for method in comparison.methods if any(chosen(cell) for cell in method.cells)]
    for index, method in enumerate(methods):
        offset = WIDTH * ((index + 0.5) / len(methods) - 0.5)
        _draw_method(axes, method, chosen, offset)
    cells = comparison.methods[0].cells
    if initial:
        for at, cell in enumerate(cells):
            ends = (at - WIDTH / 2, at + WIDTH / 2)
            name = f"before ({comparison.methods[0].method}'s runs)"
            # Named once, though it is drawn for every cell.
            axes.hlines(100 * cell.before.mean, *ends, "grey", "dashed", label=None if at else name)
    else:
        axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_xticks(range(len(cells)), [place(cell) for cell in cells])
    axes.set(ylabel=label, title=f"{comparison.name}: mean over seeds, 95 % interval, and each seed")
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    save(figure, path)


def _draw_method(axes: "pyplot.Axes", method: MethodFigures, chosen: Chosen, offset: float) -> None:
    shown = [(at + offset, found) for at, cell in enumerate(method.cells) if (found := chosen(cell)) is not None]
    at = [x for x, _ in shown]
    half = [100 * (e.interval[1] - e.mean) if e.interval else 0.0 for _, e in shown]
    name = f"{method.method}, n = {len(method.runs)}"
    bars = axes.errorbar(at, [100 * e.mean for _, e in shown], yerr=half, fmt="o", capsize=4, label=name)
    colour = bars[0].get_color()
    for x, found in shown:
        values = [100 * value for value in found.values.values()]
        # Beside the mean, so that neither hides the other.
        axes.scatter([x + 0.04] * len(values), values, s=10, color=colour, alpha=0.5)
