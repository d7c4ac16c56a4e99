"""Where a base model is from, as far as this machine knows."""

import json
from pathlib import Path

import pytest

from shared.modeling.origins import Origin, origin_of
from tests.unit.modeling.tiny_model import write_tiny_model

pytestmark = pytest.mark.model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "model")


def adapter_of(base: Path, directory: Path) -> Path:
    directory.mkdir()
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"]}
    (directory / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(base)}))
    return directory


def test_the_embedded_model_says_what_it_is() -> None:
    origin = origin_of("embedded")
    assert (origin.hub_id, origin.licence) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")


def test_a_directory_has_what_its_card_and_its_files_say(model: Path) -> None:
    assert origin_of(str(model)).licence is None
    (model / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    (model / "LICENSE").write_text("do what you like")
    origin = origin_of(str(model))
    assert (origin.hub_id, origin.licence, origin.files) == (None, "mit", (model / "LICENSE",))


@pytest.mark.parametrize(
    "card", ["no metadata", "---\nlicense: [\n---\n", "---\n- a list\n---\n", "---\nlicense: a b\n---\n"]
)
def test_a_card_that_says_nothing_usable_leaves_it_unknown(model: Path, card: str) -> None:
    (model / "README.md").write_text(card)
    assert origin_of(str(model)).licence is None


def test_an_adapter_has_its_bases_licence_or_its_own(model: Path, tmp_path: Path) -> None:
    (model / "README.md").write_text("---\nlicense: mit\n---\n")
    adapter = adapter_of(model, tmp_path / "adapter")
    assert origin_of(str(adapter)).licence == "mit"
    (adapter / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    assert origin_of(str(adapter)).licence == "cc-by-4.0"
    assert origin_of(str(adapter_of(Path("embedded"), tmp_path / "other"))).licence == "apache-2.0"


def test_a_directory_s_name_that_leads_nowhere_from_here_is_no_repository_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert origin_of("models/mine") == Origin()
