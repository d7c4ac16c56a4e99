"""A run's prepared models as its services read them."""

from pathlib import Path

import pytest

from shared.contracts.models import PreparedModel, model_file, prepared_model
from shared.errors import ConfigError


@pytest.mark.parametrize("text", [None, "{", '{"path": "/models/a"}', '{"path": "/models/a", "sha256": "0", "x": 1}'])
def test_a_model_that_is_missing_or_unreadable_names_student_and_file(tmp_path: Path, text: str | None) -> None:
    file = model_file(tmp_path, "a")
    file.parent.mkdir()
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=rf"prepared model of student a .* in {file}"):
        prepared_model(tmp_path, "a")


def test_a_model_is_read_as_it_was_written(tmp_path: Path) -> None:
    seen = (("model.safetensors", 7, 16_400_000_000, 1_790_000_000_000_000_000),)
    model = PreparedModel(path=Path("/models/a"), sha256="0" * 64, checksum="1" * 64, stamps=seen)
    file = model_file(tmp_path, "b")
    file.parent.mkdir()
    file.write_text(model.model_dump_json())
    assert file == tmp_path / "models" / "b.json"
    assert prepared_model(tmp_path, "b") == model
