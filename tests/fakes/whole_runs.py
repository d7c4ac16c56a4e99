"""Whole runs of a broker's bench: how far one is, and that nothing was lost or done twice."""

import json

from shared.contracts.run import RunState, Status
from tests.fakes.broker import BrokerBench

OFF = ("feedback.revise_share=0.0",)
"""Runs without revisions."""


def is_training(state: RunState) -> bool:
    return state.status is Status.TRAINING


def one_is_sealed(state: RunState) -> bool:
    return any(phase.step is not None and phase.step.sealed for phase in state.phases)


def first_is_applied(state: RunState) -> bool:
    return state.steps["a"] >= 1


def assert_whole(bench: BrokerBench) -> None:
    """The run is done, every batch is on disk once and was trained on once, and every sample was counted once."""
    state = bench.state
    assert (state.status, state.version) == (Status.DONE, {name: f"{name}@v2" for name in bench.settings.names})
    samples = 2 * bench.settings.problems.per_step * bench.settings.rollout.samples
    for name, trainer in bench.trainers.items():
        assert trainer.applied == [1, 2]
        assert sorted(p.name for p in (bench.run_dir / "batches" / name).iterdir()) == ["s00001", "s00002"]
        assert sorted(p.name for p in (bench.run_dir / "steps" / name).iterdir()) == ["s00001.json", "s00002.json"]
        assert state.tallies[name].samples == samples
        assert sum(state.tallies[name].verdicts[1].values()) == samples
    assert json.loads((bench.run_dir / "state.json").read_text())["status"] == "DONE"
