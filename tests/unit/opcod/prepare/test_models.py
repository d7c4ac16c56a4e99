"""What a person sees while a run is prepared, and what is not done twice."""

from pathlib import Path

import pytest

from opcod.prepare.models import prepare_models, progress_of
from shared.config.loading import load_settings
from shared.config.settings import Paths
from shared.contracts.models import model_file, prepared_model
from shared.errors import ConfigError
from shared.modeling.checksums import file_checksum
from tests.unit.modeling.tiny_model import write_tiny_model


def test_progress_is_a_line_for_people_and_never_a_result_for_programs(tmp_path: Path) -> None:
    log = tmp_path / "specialize-a.log"
    log.write_text("student a: 80 examples\nupdate 5/40, loss 1.234\n")
    assert progress_of(log, None) == "update 5/40, loss 1.234"
    log.write_text('update 40/40, loss 0.9\n{"path": "/cache/x", "cached": false, "seconds": 61.2}\n')
    assert progress_of(log, 0) == "done"
    assert progress_of(log, 3) == "ended with exit code 3"


def test_a_model_that_nobody_wrote_to_is_not_hashed_again(tmp_path: Path) -> None:
    """What was pinned is believed as long as the files' stamps are those of its preparation."""
    model = tmp_path / "tiny"
    write_tiny_model(model)
    both = [f"students.{name}.model={model}" for name in "ab"]
    settings = load_settings(preset="smoke", overrides=both, environ={})
    paths = Paths(runs_dir=tmp_path / "runs", run="r1", cache_dir=tmp_path / "cache")
    paths.run_dir.mkdir(parents=True)
    prepare_models(paths, settings, lambda _: None)
    first = prepared_model(paths.run_dir, "a")
    assert first.checksum == file_checksum(*model.glob("*.safetensors"))
    believed = first.model_copy(update={"sha256": "0" * 64})
    model_file(paths.run_dir, "a").write_text(believed.model_dump_json())
    prepare_models(paths, settings, lambda _: None)
    assert prepared_model(paths.run_dir, "a") == believed
    with (model / "config.json").open("a") as file:
        file.write("\n")
    with pytest.raises(ConfigError, match="which is gone or changed"):
        prepare_models(paths, settings, lambda _: None)
