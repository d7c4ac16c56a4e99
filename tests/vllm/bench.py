"""Student a on a real vLLM server with the embedded model, and versions of it made here."""

import hashlib
import json
import os
from pathlib import Path

import torch
from transformers import PreTrainedModel

from opcod.options import CACHE_DIR
from opcod.prepare.models import prepare_models
from opcod.prepare.run_directory import create_run
from opcod.report.writing import records_of
from services.student.config import StudentConfig
from shared.config.loading import load_settings
from shared.config.settings import Paths, RunSettings
from shared.contracts.run import Status
from shared.contracts.weights import WeightsManifest
from shared.modeling.adapters import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    LoraSpec,
    adapter_tensors,
    attach_lora,
    checksum,
    save_adapter,
    set_adapter_tensors,
)
from shared.modeling.embedded import ensure_embedded_model
from shared.modeling.loading import load_model, load_tokenizer
from shared.modeling.logprobs import probe
from tests.fakes.deployment import RunningDeployment, assert_applied_once, assert_nothing_left
from tests.fakes.student import config_in, write_version

PYTHON = os.environ.get("OPCOD_VLLM_PYTHON", "")
"""Set by `make test-vllm`."""
EAGER = 'students.{0}.vllm.arguments=["--enforce-eager"]'


def vllm_settings(student: str = "a") -> list[str]:
    """Overrides that put a student on vLLM, eager: its start takes half the time."""
    return [
        f"students.{student}.engine=vllm",
        f"students.{student}.vllm.python={PYTHON}",
        f"students.{student}.vllm.max_model_len=1024",
        f"students.{student}.vllm.hang_timeout_s=180",
        EAGER.format(student),
    ]


def vllm_config(run_dir: Path, *overrides: str) -> StudentConfig:
    config = config_in(run_dir, *vllm_settings(), *overrides)
    model = ensure_embedded_model(CACHE_DIR)
    file = run_dir / "models" / "a.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"path": str(model), "sha256": base_sha256(model)}))
    return config


def mixed_run(runs_dir: Path, run: str, deadline_s: float, *overrides: str) -> RunningDeployment:
    """A smoke run with student b on vLLM, begun."""
    paths = Paths(runs_dir=runs_dir, run=run, cache_dir=CACHE_DIR)
    settings = load_settings(preset="smoke", overrides=[*vllm_settings("b"), *overrides], environ={})
    create_run(paths, settings)
    prepare_models(paths, settings, lambda _: None)
    return RunningDeployment(paths, settings, deadline_s)


def assert_done(deployment: RunningDeployment, steps: int) -> None:
    """It ends DONE with so many steps of each student, each applied once, and the engines' log-probs the trainers'."""
    state = deployment.finish()
    assert state.status is Status.DONE, f"{state.status}, paused: {state.paused}, failed: {state.failed}"
    assert state.steps == {"a": steps, "b": steps}
    for student in ("a", "b"):
        assert_applied_once(deployment.paths.run_dir, student, steps)
    assert_nothing_left(deployment.bus)
    records = [step for student in ("a", "b") for step in records_of(deployment.paths, student)]
    assert len(records) == 2 * steps and all(step.metrics.delta_logprob < 0.2 for step in records)


def base_sha256(model: Path) -> str:
    return hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()


def lora_spec(settings: RunSettings) -> LoraSpec:
    return LoraSpec(settings.lora.rank, settings.lora.scale, settings.lora.first_layer or None)


class Adapters:
    """Publishes versions `a@v<k>` as a trainer does; the k-th is drawn from k."""

    def __init__(self, config: StudentConfig, strength: float = 0.02) -> None:
        self._config = config
        self._strength = strength
        self._model_dir = config.prepared_model().path
        self._tokenizer = load_tokenizer(self._model_dir, config.section.chat_template)
        self._spec = lora_spec(config.settings)
        self._peft = attach_lora(load_model(self._model_dir, "float32"), self._spec, seed=0)
        self._start = adapter_tensors(self._peft)

    def model(self, steps: int) -> PreTrainedModel:
        """The base model with that version's adapter, in fp32."""
        set_adapter_tensors(self._peft, self.tensors(steps))
        peft: PreTrainedModel = self._peft
        return peft

    def tensors(self, steps: int) -> dict[str, torch.Tensor]:
        """B is 0 in version 0, and in the others drawn."""
        generator = torch.Generator().manual_seed(steps)
        strength = self._strength if steps else 0.0
        return {
            name: tensor if "lora_A" in name else torch.randn(tensor.shape, generator=generator) * strength
            for name, tensor in self._start.items()
        }

    def publish(self, steps: int, **changes: object) -> WeightsManifest:
        """Write `a@v<steps>`; `changes` are put into its manifest."""
        scratch = self._config.environment.run_dir / "scratch"
        scratch.mkdir(exist_ok=True)
        tensors = self.tensors(steps)
        save_adapter(scratch, tensors, self._spec, "embedded")
        told = tuple(probe(self.model(steps), self._tokenizer))
        files = {name: (scratch / name).read_bytes() for name in (WEIGHTS_FILE, CONFIG_FILE)}
        given = {"base_model": self._config.prepared_model().sha256, "checksum": checksum(tensors), "probe": told}
        return write_version(self._config.weights, steps, files, **(given | changes))
