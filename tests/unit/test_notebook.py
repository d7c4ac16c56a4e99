"""The notebook runs from its first cell to its last, and shows what its text says."""

import os
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "notebooks" / "one-round.ipynb"

pytestmark = [
    pytest.mark.model,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]


def outputs(notebook: Any) -> list[str]:
    return ["".join(o.get("text", "") for o in cell.get("outputs", [])) for cell in notebook.cells]


def losses(printed: list[str]) -> list[float]:
    steps = next(text for text in printed if text.startswith("step  1"))
    return [float(line.split()[3].rstrip(",")) for line in steps.splitlines()]


def test_every_cell_runs_and_the_loss_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT) + os.pathsep + os.environ.get("PYTHONPATH", ""))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    stored = losses(outputs(notebook))
    nbclient.NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(ROOT)}}).execute()
    again = losses(outputs(notebook))
    assert again[-1] < 0.5 * again[0]
    assert again[0] == pytest.approx(stored[0], rel=0.05), "run the notebook again and store its outputs"
