"""What a launcher waits for, and how long."""

from pathlib import Path

from opcod.local.launcher import READY_TIMEOUT_S, ready_timeout_s
from shared.config.loading import load_settings
from shared.contracts.models import PreparedModel, model_file


def test_a_large_model_on_a_slow_disk_has_the_time_to_be_read(tmp_path: Path) -> None:
    settings = load_settings(preset="smoke", overrides=["students.a.engine=vllm"], environ={})
    assert ready_timeout_s(tmp_path, settings, "student-a") == READY_TIMEOUT_S
    model = tmp_path / "model"
    model.mkdir()
    with (model / "model.safetensors").open("wb") as weights:
        weights.truncate(16_400_000_000)  # sparse, of the size of an 8B model in bfloat16
    for student in "ab":
        file = model_file(tmp_path, student)
        file.parent.mkdir(exist_ok=True)
        file.write_text(PreparedModel(path=model, sha256="0" * 64).model_dump_json())
    assert ready_timeout_s(tmp_path, settings, "inspector") == READY_TIMEOUT_S
    loading_s = ready_timeout_s(tmp_path, settings, "trainer-a")
    assert loading_s - READY_TIMEOUT_S > 600
    assert ready_timeout_s(tmp_path, settings, "student-b") == loading_s
    assert ready_timeout_s(tmp_path, settings, "student-a") == loading_s + settings.students["a"].vllm.start_timeout_s
