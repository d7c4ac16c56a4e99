"""`opcod up` on settings alone: the students as they are before training, in a run that can be trained later."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from opcod.local.deployment import Deployment, live_deployment
from opcod.talk.client import Client
from shared.config.loading import to_toml
from shared.contracts.http import AskRequest, AskResponse, PeersResponse
from shared.contracts.run import STATE_FILE, RunState
from tests.fakes.deployment import scripted_settings
from tests.fakes.waiting import WAIT_S, wait_until


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "all my runs"


@pytest.fixture
def up(tmp_path: Path, runs: Path, programs: Path) -> Iterator[subprocess.Popen[bytes]]:
    settings = tmp_path / "settings.toml"
    settings.write_text(to_toml(scripted_settings()), encoding="utf-8")
    command = [str(programs / "opcod"), "up", "--config", str(settings)]
    command += ["--runs-dir", str(runs), "--cache-dir", str(tmp_path / "cache")]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    yield process
    if process.poll() is None:
        process.kill()
        process.wait()


def found(runs: Path, up: subprocess.Popen[bytes]) -> Deployment:
    def is_up() -> bool:
        assert up.poll() is None
        return any(runs.glob("*/deployment.json"))

    wait_until(is_up, "the deployment", deadline_s=WAIT_S)
    return live_deployment(runs)


@pytest.mark.slow
def test_students_are_served_as_they_are_before_training(
    runs: Path, up: subprocess.Popen[bytes], known_question: str
) -> None:
    deployment = found(runs, up)
    client = Client(deployment)
    try:
        peers = client.broker("GET", "/v1/peers", PeersResponse)
        assert {peer.version for peer in peers.peers} == {"a@v0", "b@v0"}
        asked = client.broker("POST", "/v1/peers/ask", AskResponse, AskRequest(problem=known_question))
        assert asked.answer.text
    finally:
        client.close()
    up.send_signal(signal.SIGTERM)
    assert up.wait(WAIT_S) == 0
    state = RunState.model_validate_json((deployment.run_dir / STATE_FILE).read_bytes())
    assert state.steps == {"a": 0, "b": 0} and not state.scores, "nothing was trained or measured"
