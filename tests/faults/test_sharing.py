"""Students that share their rollouts, as real services: a run of HACPO ends as if undisturbed by deaths and losses."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from services.broker.exchange.batches import adopt
from shared.contracts.run import Status
from shared.files.batches import batch_directory, read_groups
from shared.files.store import LocalStore
from tests.fakes.deployment import STEPS, ScriptedDeployment, weights_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

HACPO = ("run.method=hacpo", "gate.mode=cognizance")


def test_a_run_of_hacpo_is_gone_on_with_and_ends_undisturbed(tmp_path: Path, tiny_model: Path) -> None:
    plain = ScriptedDeployment(tmp_path, "plain", tiny_model, *HACPO)
    try:
        state = plain.finish()
        assert (state.status, state.steps) == (Status.DONE, {"a": STEPS, "b": STEPS})
        undisturbed = weights_of(plain.paths.run_dir)
    finally:
        plain.close()
    first = ScriptedDeployment(tmp_path, "again", tiny_model, *HACPO)
    try:
        first.until(lambda: first.state().steps["a"] >= 1)
        first.kill("trainer-b")
    finally:
        first.close()
    shutil.rmtree(first.paths.run_dir / "redis")
    second = ScriptedDeployment(tmp_path, "again", tiny_model, *HACPO)
    try:
        second.until_training()
        os.kill(second.launcher.pids()["student-b"], signal.SIGKILL)
        second.assert_done(undisturbed)
    finally:
        second.close()
    store = LocalStore(first.paths.run_dir)
    for step in range(1, STEPS + 1):
        sealed = adopt(store, "a", step, "again")
        assert sealed is not None and sealed.manifest.capabilities is not None
        for group in read_groups(store, batch_directory("a", step), sealed.manifest):
            assert len(group.peer_samples) == len(group.samples)
