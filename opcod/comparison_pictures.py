"""The pictures of a comparison: final scores, changes, and differences from the reference, each with intervals."""

from collections.abc import Callable
from pathlib import Path

from matplotlib import pyplot

from opcod.report.comparison import Cell, Comparison, Estimate, MethodFigures
from opcod.report.comparison_text import place
from opcod.report.pictures import save

SIZE = (9.0, 4.5)
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
    figure, axes = pyplot.subplots(figsize=SIZE)
    methods = [method for method in comparison.methods if any(chosen(cell) for cell in method.cells)]
    for index, method in enumerate(methods):
        offset = WIDTH * ((index + 0.5) / len(methods) - 0.5)
        _draw_method(axes, method, chosen, offset)
    cells = comparison.methods[0].cells
    if initial:
        for at, cell in enumerate(cells):
            ends = (at - WIDTH / 2, at + WIDTH / 2)
            name = f"before ({comparison.methods[0].method}'s runs)"
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
        axes.scatter([x + 0.04] * len(values), values, s=10, color=colour, alpha=0.5)
