"""Which of vLLM's two model runners serves, and whether each has the log-probs of the trainer's model.

They sample, draw from seeds, pick log-probs and apply adapters in code of their own, and vLLM for CPUs has the first
alone: what differs on a GPU is seen here before anything else that has an engine.
"""

from pathlib import Path

import pytest

from services.student.app import build_engine, build_loader
from services.student.engines.vllm.engine import VllmEngine
from shared.contracts.models import served_by
from tests.vllm.asking import mean_difference, request
from tests.vllm.bench import Adapters, vllm_config

pytestmark = [pytest.mark.model, pytest.mark.timeout(1500)]
SWITCH = "students.a.vllm.environment.VLLM_USE_V2_MODEL_RUNNER"
ROUNDING = 0.1
"""Mean difference a token; other weights differ by 1 and more."""


def test_the_run_is_told_which_runner_vllm_chose(tmp_path: Path) -> None:
    config = vllm_config(tmp_path / "test")
    engine = build_engine(config)
    engine.close()
    told = served_by(config.environment.run_dir)["a-0"]
    assert told.runner is not None, f"{told.line}: its log has neither of the lines that it is told by"


@pytest.mark.parametrize(("runner", "switch"), [("V2", "1"), ("V1", "0")])
def test_each_runner_has_the_log_probs_of_the_trainers_model(tmp_path: Path, runner: str, switch: str) -> None:
    config = vllm_config(tmp_path / "test", f"{SWITCH}='{switch}'")
    adapters = Adapters(config)
    for steps in (1, 2):
        adapters.publish(steps)
    engine = build_engine(config)
    try:
        assert isinstance(engine, VllmEngine)
        assert served_by(config.environment.run_dir)["a-0"].runner == runner
        loader = build_loader(config, engine)
        for version in ("a@v0", "a@v1", "a@v2"):
            loader.load(version)
        asked = [request(f"What is {n} plus 3?", seed, v) for v in engine.versions() for n, seed in ((2, 1), (40, 2))]
        samples = engine.generate(asked)
        for version in engine.versions():
            own = [sample for one, sample in zip(asked, samples, strict=True) if one.version == version]
            assert mean_difference(adapters, version, own) < ROUNDING, f"{version} on model runner {runner}"
        # Alone: what shares a batch changes log-probs by rounding, and so maybe a draw.
        (first,), (second,) = engine.generate(asked[-1:]), engine.generate(asked[-1:])
        assert first.token_ids == second.token_ids, f"on model runner {runner} a seed draws other tokens each time"
    finally:
        engine.close()
