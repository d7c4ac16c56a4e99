"""What a model's directory brings: configurations, a tokenizer, tensors. Code lies beside them, and is never run."""

import json
import shutil
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from shared.contracts.messages import ChatMessage
from shared.modeling.adapters import CONFIG_FILE, WEIGHTS_FILE, load_adapter
from shared.modeling.chat import completion_ids, render, rendering_of
from shared.modeling.checksums import file_checksum
from shared.modeling.directory import INDEX_FILE, MODEL_CONFIG, SINGLE_FILE, weight_files
from shared.modeling.loading import GENERATION_CONFIG, check_model, generation_config, load_tokenizer, vocabulary_size
from shared.modeling.origins import CARD, origin_of
from shared.modeling.resolving import find_model
from shared.modeling.versions import checked_full, load_full
from tests.fuzz.harness import Fuzz
from tests.fuzz.mutation import altered, damaged, json_like, of_kinds, text_like, written
from tests.unit.modeling.tiny_model import write_tiny_model

pytestmark = pytest.mark.model

EVIL = "code.py"
RUNS_CODE = {"auto_map": {name: f"code.{name}" for name in ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")}}
GENERATION = {"eos_token_id": [257, 3], "temperature": 0.6, "do_sample": True, "pad_token_id": 257}
INDEX = {
    "metadata": {"total_size": 8},
    "weight_map": {"a.weight": "part-1.safetensors", "b.weight": "part-2.safetensors"},
}
ADAPTER = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "embedded",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["q_proj", "v_proj"],
    "exclude_modules": None,
    "layers_to_transform": [0],
    "layers_pattern": "layers",
    "use_rslora": False,
    "bias": "none",
    "init_lora_weights": True,
    "fan_in_fan_out": False,
}
MODEL_CARD = "---\nlicense: apache-2.0\nbase_model: &x [a, b]\ntags:\n- *x\n---\n# A model\n"
MESSAGES = (ChatMessage(role="system", content="Be short."), ChatMessage(role="user", content="2 + 2?<|im_end|>"))


def _checked(model: Path) -> int:
    check_model(model)
    return vocabulary_size(model)


@pytest.fixture
def model(fuzz: Fuzz) -> Path:
    """A small one that loads, with code in it that must not."""
    directory = write_tiny_model(fuzz.place / "model")
    (directory / EVIL).write_text("class AutoConfig: pass\nAutoModelForCausalLM = AutoTokenizer = AutoConfig\n")
    return directory


def test_configurations(fuzz: Fuzz, model: Path) -> None:
    """config.json, generation_config.json, the index of the weights, adapter_config.json, the card's head."""
    config = json.loads((model / MODEL_CONFIG).read_bytes())
    parts, adapter = fuzz.place / "parts", fuzz.place / "adapter"
    for directory in (parts, adapter):
        directory.mkdir()
    for name in ("part-1.safetensors", "part-2.safetensors"):
        shutil.copyfile(model / SINGLE_FILE, parts / name)
    shutil.copyfile(model / MODEL_CONFIG, parts / MODEL_CONFIG)
    (adapter / WEIGHTS_FILE).write_bytes(safetensors(adapter_tensors()))
    kept = {MODEL_CONFIG: (model / MODEL_CONFIG).read_bytes()}
    reading: dict[str, tuple[Path, Callable[[], object], st.SearchStrategy[bytes]]] = {
        MODEL_CONFIG: (
            model,
            partial(_checked, model),
            json_like(config, config | RUNS_CODE),
        ),
        GENERATION_CONFIG: (model, lambda: generation_config(model), json_like(GENERATION)),
        INDEX_FILE: (parts, lambda: weight_files(parts), json_like(INDEX)),
        CONFIG_FILE: (
            adapter,
            lambda: (load_adapter(adapter)[1].alpha_scale, find_model(str(adapter), fuzz.place)),
            json_like(ADAPTER, ADAPTER | RUNS_CODE),
        ),
        CARD: (model, lambda: origin_of(str(model)), text_like(MODEL_CARD, "---\nlicense: {a: [b, c]}\n---\n")),
    }

    def attempt(case: tuple[str, bytes]) -> None:
        name, data = case
        directory, read, _ = reading[name]
        (directory / name).write_bytes(data)
        try:
            fuzz.reads(read)
        finally:
            (directory / name).write_bytes(kept.get(name, b"{}"))

    fuzz.run(of_kinds({name: data for name, (_, _, data) in reading.items()}), attempt, examples=400)


def test_tokenizers(fuzz: Fuzz, model: Path) -> None:
    """Their files and templates; what is read renders a prompt, or refuses it."""
    tokenizer = json.loads((model / "tokenizer.json").read_bytes())
    # Few letters: an alteration of one in a thousand entries would seldom be one of a setting
    vocabulary = dict(list(tokenizer["model"]["vocab"].items())[:12])
    small = tokenizer | {"model": tokenizer["model"] | {"vocab": vocabulary, "merges": [["a", "b"]]}}
    settings = json.loads((model / "tokenizer_config.json").read_bytes())
    template = (model / "chat_template.jinja").read_text()
    added = {"additional_special_tokens": ["<x>"], "eos_token": {"content": "<|im_end|>", "special": True}}
    files: dict[str, st.SearchStrategy[bytes]] = {
        "tokenizer.json": json_like(tokenizer, small, small),
        "tokenizer_config.json": json_like(
            settings, settings | added | RUNS_CODE, settings | {"chat_template": template}
        ),
        "special_tokens_map.json": json_like(added),
        "chat_template.jinja": text_like(template, "{{ messages[0].content }}{{ raise_exception('no') }}"),
        "added_tokens.json": json_like({"<y>": 258}),
    }
    kept = {name: (model / name).read_bytes() for name in files if (model / name).exists()}

    def attempt(case: tuple[str, bytes]) -> None:
        name, data = case
        (model / name).write_bytes(data)
        try:
            found = fuzz.reads(lambda: load_tokenizer(model, None))
            if found is not None:
                fuzz.reads(lambda: (render(found, MESSAGES), rendering_of(found), completion_ids(found, "4")))
        finally:
            with suppress(FileNotFoundError):
                (model / name).unlink()
            if name in kept:
                (model / name).write_bytes(kept[name])

    fuzz.run(of_kinds(files), attempt, examples=250)


def test_tensors(fuzz: Fuzz, model: Path) -> None:
    """Headers and bytes of safetensors: of an adapter, of a whole model."""
    adapter = fuzz.place / "adapter"
    adapter.mkdir()
    (adapter / CONFIG_FILE).write_text(json.dumps(ADAPTER))

    def attempt(data: bytes) -> None:
        for file in (adapter / WEIGHTS_FILE, model / SINGLE_FILE):
            file.write_bytes(data)
        fuzz.reads(lambda: load_adapter(adapter))
        fuzz.reads(lambda: load_full(adapter / WEIGHTS_FILE))
        fuzz.reads(lambda: checked_full(adapter / WEIGHTS_FILE))
        fuzz.reads(lambda: check_model(model))
        found = fuzz.reads(lambda: file_checksum(adapter / WEIGHTS_FILE))
        assert found is None or len(found) == 64

    whole = safetensors(adapter_tensors())
    fuzz.run(headers() | headers() | damaged(whole), attempt, examples=200)


def adapter_tensors() -> dict[str, Any]:
    """The header of a complete adapter of two layers, and as many bytes as it says."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in ("q_proj", "v_proj"):
        for side, shape in (("A", [2, 32]), ("B", [32, 2])):
            full = f"base_model.model.model.layers.0.self_attn.{name}.lora_{side}.weight"
            header[full] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + 256]}
            end += 256
    return header


@st.composite
def headers(draw: DrawFn) -> bytes:
    """With the length that they have."""
    return safetensors(draw(altered(adapter_tensors())))


def safetensors(header: Mapping[str, Any] | object) -> bytes:
    text = written(header)
    return struct.pack("<Q", len(text)) + text + bytes(1024)
