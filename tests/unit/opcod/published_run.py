"""A run on disk of which student a has published two versions, made by its trainer, and the state that it ends with."""

from pathlib import Path

from services.broker.machine import machine
from shared.config.loading import load_settings, to_toml
from shared.contracts.run import Status
from shared.files.state import write_state_file
from tests.fakes.world import small_plan
from tests.unit.trainer.ground import RUN, OpenFence, seal_steps, settings, student_trainer


def write_published_run(run_dir: Path, base: Path, *overrides: str) -> None:
    """Settings are those of the smoke preset; base: the model that is trained."""
    run_dir.mkdir()
    (run_dir / "config.toml").write_text(to_toml(load_settings(preset="smoke", overrides=overrides, environ={})))
    trainer = student_trainer(run_dir, base, settings())
    trainer.restore()
    for sealed in seal_steps(run_dir, base, 2):
        trainer.apply(sealed, OpenFence())
        trainer.publish()


def done(runs: Path, **changes: object) -> Path:
    """A state.json as a finished run leaves it; the run's directory."""
    state = machine.new_run(small_plan(), incarnation=1, at=0.0)
    live = {"a": "a@v2", "b": "b@v0"}
    state = state.model_copy(update={"run": RUN, "status": Status.DONE, "version": live, "revision": 7, **changes})
    write_state_file(runs / RUN, state)
    return runs / RUN
