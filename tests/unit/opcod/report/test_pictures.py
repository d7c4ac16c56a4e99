"""What the pictures of a report say, read off the figures before they are files."""

import pytest
from matplotlib import pyplot

from opcod.report.pictures import gap_figure
from shared.contracts.run import GateDecision
from tests.fakes.final_state import final_state, gate_of_three


@pytest.mark.parametrize(
    ("gate", "lines"),
    [
        (final_state().gates[0], {"a": 0.25, "b": 0.125}),
        (
            gate_of_three(),
            {"a to b": 0.3, "a to c": 0.4, "b to a": 0.5, "b to c": 0.6, "c to a": 0.1, "c to b": 0.7},
        ),
    ],
)
def test_the_gate_s_gaps_are_those_that_it_decides_by(gate: GateDecision, lines: dict[str, float]) -> None:
    figure = gap_figure([gate, gate.model_copy(update={"round": 2})])
    [axes] = figure.axes
    drawn = {str(each.get_label()): [float(y) for y in each.lines[0].get_ydata()] for each in axes.containers}
    assert drawn == {name: [gap, gap] for name, gap in lines.items()}
    pyplot.close(figure)
