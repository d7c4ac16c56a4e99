"""What a person sees while a run is prepared, and what is not done twice."""

from pathlib import Path

import pytest

from opcod.planning import disk
from opcod.planning.machine import Purpose
from opcod.prepare.models import as_made_here, made_in, prepare_models, progress_of
from shared.config.loading import load_settings
from shared.config.machine import cores_here
from shared.config.settings import Paths
from shared.contracts.models import PreparedModel, model_file, prepared_model
from shared.errors import ConfigError, OpcodError
from shared.modeling.checksums import file_checksum
from tests.unit.modeling.tiny_model import write_tiny_model


def test_progress_is_a_line_for_people_and_never_a_result_for_programs(tmp_path: Path) -> None:
    log = tmp_path / "specialize-a.log"
    log.write_text("student a: 80 examples\nupdate 5/40, loss 1.234\n")
    assert progress_of(log, None) == "update 5/40, loss 1.234"
    log.write_text('update 40/40, loss 0.9\n{"path": "/cache/x", "cached": false, "seconds": 61.2}\n')
    assert progress_of(log, 0) == "done"
    log.write_text("")
    assert progress_of(log, None) == "starts"
    assert progress_of(log, 3) == "ended with exit code 3"


def test_a_model_that_nobody_wrote_to_is_not_hashed_again(tmp_path: Path) -> None:
    """What was pinned is believed as long as the files' stamps are those of its preparation."""
    model = tmp_path / "tiny"
    write_tiny_model(model)
    both = [f"students.{name}.model={model}" for name in "ab"]
    settings = load_settings(preset="smoke", overrides=both, environ={})
    paths = Paths(runs_dir=tmp_path / "runs", run="r1", cache_dir=tmp_path / "cache")
    paths.run_dir.mkdir(parents=True)
    seconds = prepare_models(paths, settings, lambda _: None)
    assert [*seconds] == ["loading models"], "no specialist is made"
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


def test_a_model_that_a_run_was_begun_with_is_not_made_again_without_room_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings(preset="smoke", overrides=["students.b.model=Qwen/Qwen3-8B"], environ={})
    paths = Paths(runs_dir=tmp_path / "runs", run="r1", cache_dir=tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(disk, "free_under", lambda _: 10**9)
    gone = PreparedModel(path=tmp_path / "gone", sha256="0" * 64)
    model_file(paths.run_dir, "b").parent.mkdir(parents=True)
    model_file(paths.run_dir, "b").write_text(gone.model_dump_json())
    with pytest.raises(ConfigError, match=r"expected 16\.4 GB free under .*hub, found 1\.0 GB"):
        prepare_models(paths, settings, lambda _: None, students=("b",), purpose=None)


@pytest.mark.parametrize(
    ("overrides", "gpus", "purpose", "ranks"),
    [
        (("trainer.ranks=4",), 8, "run", 4),
        (("trainer.ranks=4",), 4, "prepare", 4),
        # The trainer's pods have GPUs of their own.
        (("trainer.ranks=16",), 1, "prepare", 1),
        # Who serves a run has no trainer, and one that is begun by it is trained later.
        (("trainer.ranks=16",), 1, "up", 1),
        # Refused where GPUs are shared out, which says so.
        (("trainer.ranks=16",), 1, "run", 16),
        (("trainer.ranks=1024",), 0, "run", cores_here()),
        ((), 0, "run", 1),
        (("trainer.ranks=4", "resources.nodes=2"), 8, "run", 1),
    ],
)
def test_a_specialist_is_made_by_the_trainer_s_ranks_as_far_as_they_are_here(
    overrides: tuple[str, ...], gpus: int, purpose: Purpose, ranks: int
) -> None:
    settings = load_settings(preset="smoke", overrides=overrides, environ={})
    assert as_made_here(settings, gpus, purpose).trainer.ranks == ranks


def test_a_specialist_is_found_in_a_log_that_goes_on_after_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    made = 'update 1/1, loss 0.1\n{"path": "/cache/x", "cached": false, "seconds": 1}\n'
    log.write_text(made + 20 * "[W] a library ends\n")
    assert made_in(log) == Path("/cache/x")
    log.write_text("[W] a library ends\n")
    with pytest.raises(OpcodError, match=r'expected a line of .* to begin with {"path", none does'):
        made_in(log)
