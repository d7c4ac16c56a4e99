"""A round of two students of different families, tokenizers and templates: the embedded Llama and a tiny Qwen3."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from opcod.options import CACHE_DIR
from opcod.prepare.models import prepare_models
from opcod.prepare.run_directory import create_run
from shared.config.loading import load_settings
from shared.config.settings import Paths
from shared.contracts.batches import BatchGroup
from shared.contracts.run import Status
from shared.modeling.chat import render
from shared.modeling.loading import load_tokenizer
from tests.fakes.deployment import RunningDeployment, assert_applied_once
from tests.fakes.qwen3 import write_tiny_qwen3

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.timeout(400)]
DEADLINE_S = 240.0


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[RunningDeployment]:
    """A smoke-size run; thinking is off in the second student's own template."""
    qwen = write_tiny_qwen3(tmp_path / "qwen3")
    cache = Path(os.environ.get("OPCOD_CACHE_DIR", CACHE_DIR))
    paths = Paths(runs_dir=tmp_path / "runs", run="families", cache_dir=cache)
    settings = load_settings(
        preset="smoke",
        overrides=[f"students.b.model={qwen}", "students.b.chat_template=none", "lora.first_layer=1"],
        environ={},
    )
    create_run(paths, settings)
    prepare_models(paths, settings, lambda _: None)
    running = RunningDeployment(paths, settings, DEADLINE_S)
    yield running
    running.close()


def test_two_families_tutor_each_other_through_a_round(deployment: RunningDeployment) -> None:
    state = deployment.finish()
    assert state.status is Status.DONE, f"{state.status}, paused: {state.paused}, failed: {state.failed}"
    for student in ("a", "b"):
        assert_applied_once(deployment.paths.run_dir, student, 1)
    assert not [alarm for alarm in state.alarms if alarm.alarm == "engine_drift"]
    run_dir, section = deployment.paths.run_dir, deployment.settings.students["b"]
    tokenizer = load_tokenizer(Path(section.model), None)
    for group in groups(run_dir, "b"):
        assert tuple(render(tokenizer, group.messages)) == group.prompt_token_ids
        assert tokenizer.decode(list(group.prompt_token_ids)).endswith("<think>\n\n</think>\n\n")
        assert all(sample.verdict is not None for sample in group.samples)
    beats = {beat.service: beat.rendering for beat in deployment.bus.heartbeats() if beat.rendering}
    assert beats["student-a"] == beats["trainer-a"] != beats["student-b"] == beats["trainer-b"]


def groups(run_dir: Path, student: str) -> list[BatchGroup]:
    lines = (run_dir / "batches" / student / "s00001" / "groups.jsonl").read_text().splitlines()
    return [BatchGroup.model_validate(json.loads(line)) for line in lines]
