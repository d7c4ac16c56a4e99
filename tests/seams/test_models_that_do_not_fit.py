"""A base model whose files do not make one, at every door that it may come in by: the same refusal, by name, at each.

An engine that loads the files by itself is never told of them.
"""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from opcod.main import app
from services.student.engines.transformers import TransformersEngine
from services.student.engines.vllm.build import build_vllm_engine
from services.trainer.app import build_trainer
from services.trainer.checkpoint import Checkpoints
from services.trainer.config import training_config
from services.trainer.offline.specializing import describe, ensure
from shared.config.loading import settings_of
from shared.errors import ConfigError, ModelError
from shared.files.store import LocalStore
from tests.fakes.student import RUN, config_in
from tests.unit.modeling.tiny_model import write_tiny_model

pytestmark = pytest.mark.model
NORM = "model.norm.weight"


@dataclass(frozen=True)
class Place:
    """A run's directory, and the model of its students."""

    run_dir: Path
    model: Path

    @property
    def overrides(self) -> list[str]:
        fields = ("engine=transformers", f"model={self.model}", "specialize=false")
        return ["lora.first_layer=1", *(f"students.{student}.{field}" for student in "ab" for field in fields)]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path / "runs" / RUN, write_tiny_model(tmp_path / "model"))
    (made.run_dir / "models").mkdir(parents=True)
    (made.run_dir / "models" / "a.json").write_text(json.dumps({"path": str(made.model), "sha256": "0" * 64}))
    return made


def transformers_engine(place: Place) -> None:
    TransformersEngine(place.model, "compact", "float32", slots=2, threads=1)


def vllm_engine(place: Place) -> None:
    """Nobody listens there: to ask would be another error."""
    url = "students.a.vllm.url=http://127.0.0.1:9"
    build_vllm_engine(config_in(place.run_dir, *place.overrides, "students.a.engine=vllm", url))


def trainer(place: Place) -> None:
    config_in(place.run_dir, *place.overrides)
    store = LocalStore(place.run_dir)
    config = training_config(settings_of(place.run_dir), RUN, place.run_dir, "a")
    checkpoints = Checkpoints(store, run=RUN, student="a", base_sha256="0" * 64)
    build_trainer(config, store, checkpoints, threading.Event())


def specialist(place: Place) -> None:
    config_in(place.run_dir, *place.overrides)
    cache = place.run_dir / "cache"
    ensure(describe(settings_of(place.run_dir), "a", cache), cache, lambda _line: None)


def new_run(place: Place) -> None:
    result = opcod(place, "run", "--run", "r2")
    assert not (place.run_dir.parent / "r2").exists()
    raise result


def planned_run(place: Place) -> None:
    raise opcod(place, "run", "--dry-run")


def prepared_run(place: Place) -> None:
    raise opcod(place, "prepare", "--run", "r2")


def opcod(place: Place, *words: str) -> BaseException:
    """What a command ends with."""
    places = ("--runs-dir", str(place.run_dir.parent), "--cache-dir", str(place.run_dir / "cache"))
    sets = [part for override in place.overrides for part in ("--set", override)]
    result = CliRunner().invoke(app, [*words, "--preset", "smoke", *sets, *places])
    assert result.exception is not None, result.output
    return result.exception


def without_a_tensor(model: Path) -> None:
    file = model / "model.safetensors"
    tensors = load_file(file)
    del tensors[NORM]
    save_file(tensors, file, metadata={"format": "pt"})


def not_finite(model: Path) -> None:
    file = model / "model.safetensors"
    tensors = load_file(file)
    tensors[NORM][5] = torch.nan
    save_file(tensors, file, metadata={"format": "pt"})


def with_a_token_too_many(model: Path) -> None:
    file = model / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    more = {"id": 258, "content": "<tool>", "special": False, "single_word": False, "lstrip": False, "rstrip": False}
    tokenizer["added_tokens"].append({**more, "normalized": False})
    file.write_text(json.dumps(tokenizer))


def with_an_adapter(model: Path) -> None:
    (model / "adapter_config.json").write_text('{"peft_type": "LORA"}')


def quantised(model: Path) -> None:
    file = model / "config.json"
    quantised = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    file.write_text(json.dumps(json.loads(file.read_text()) | quantised))


LOADING = [transformers_engine, vllm_engine, trainer, specialist]
LOOKING = [new_run, planned_run, prepared_run]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (without_a_tensor, f"missing: {NORM}"),
        (with_a_token_too_many, "token ids below 258"),
        (with_an_adapter, "found both config.json with weights and adapter_config.json"),
        (quantised, "expected no quantization_config"),
    ],
)
@pytest.mark.parametrize("door", [*LOADING, *LOOKING])
def test_what_is_no_model_comes_in_nowhere(
    door: Callable[[Place], object], spoil: Callable[[Path], None], says: str, place: Place
) -> None:
    spoil(place.model)
    with pytest.raises(ConfigError) as refused:
        door(place)
    assert says in " ".join(str(refused.value).split())


@pytest.mark.parametrize("door", LOADING)
def test_weights_that_are_not_finite_come_in_nowhere(door: Callable[[Place], object], place: Place) -> None:
    """Whoever loads sees them; a look at headers would not."""
    not_finite(place.model)
    with pytest.raises(ModelError, match=f"expected finite weights in .*{NORM}"):
        door(place)


def test_what_is_a_model_comes_in(place: Place) -> None:
    transformers_engine(place)
    trainer(place)
