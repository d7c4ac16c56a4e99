"""What only a GPU can tell of a deployment: torch sees it, and engines and trainers that share one start and work."""

import os
from pathlib import Path

import pytest

from opcod.commands.doctor import examine_machine
from opcod.local.processes import launch
from opcod.local.usage import watching
from opcod.options import CACHE_DIR
from opcod.prepare.models import prepare_models
from opcod.prepare.run_directory import create_run
from shared.config.loading import load_settings
from shared.config.settings import Paths
from shared.contracts.run import Status
from shared.gpus import VISIBLE, NvmlReader, driver, named
from shared.modeling.device import device_here
from tests.fakes.deployment import RunningDeployment
from tests.vllm.bench import vllm_settings

pytestmark = [pytest.mark.model, pytest.mark.timeout(2400)]
DEADLINE_S = 1800.0


def test_torch_sees_the_gpu_and_the_driver_says_which_cuda_it_runs(tmp_path: Path) -> None:
    assert device_here() == "cuda"
    assert "runs CUDA" in driver() and "unknown" not in driver()
    paths = Paths(runs_dir=tmp_path, run="doctor", cache_dir=CACHE_DIR)
    findings = {each.what: each for each in examine_machine(paths, load_settings(preset="smoke", environ={}))}
    assert findings["torch on a gpu"].state == "ok"


def test_two_engines_and_two_trainers_start_and_train_on_one_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of them ends, which is what an engine does that measures the memory while another one takes it."""
    first, *_ = named(os.environ) or ["0"]
    monkeypatch.setenv(VISIBLE, first)
    shares = [f"students.{student}.vllm.gpu_memory_utilization=0.3" for student in "ab"]
    settings = load_settings(preset="smoke", overrides=[*vllm_settings("a"), *vllm_settings("b"), *shares], environ={})
    paths = Paths(runs_dir=tmp_path, run="one", cache_dir=CACHE_DIR)
    create_run(paths, settings)
    prepare_models(paths, settings, lambda _: None)
    # Not forked: where the test above has asked torch for the GPU, no child of this process can use it.
    deployment = RunningDeployment(paths, settings, DEADLINE_S, start_process=launch)
    try:
        # Engines and trainers have their weights by now, and the driver tells whose memory it is.
        peaks, look = watching(NvmlReader())
        look(deployment.launcher.pids())
        held = peaks.cards[0].services
        assert {f"{kind}-{student}" for kind in ("student", "trainer") for student in "ab"} <= held.keys(), held
        assert deployment.finish().status is Status.DONE
        assert deployment.launcher.restarts == {}
        for student in "ab":
            assert "engine is started again" not in (paths.run_dir / "logs" / f"student-{student}.log").read_text()
    finally:
        deployment.close()
