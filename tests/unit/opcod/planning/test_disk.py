"""What a run puts on disk, and what is refused for want of room."""

from pathlib import Path

import pytest

from opcod.planning import disk
from opcod.planning.disk import (
    SPARE_BYTES,
    DiskNeed,
    disk_grid,
    disk_needs,
    disk_parts,
    free_under,
    kept_versions,
    require_disk,
    shapes_of,
)
from opcod.planning.shapes import shapes_in
from shared.config.loading import load_settings
from shared.config.settings import Paths, RunSettings
from shared.contracts.models import PreparedModel, model_file
from shared.errors import ConfigError
from shared.hub import cache_directory
from tests.unit.modeling.tiny_model import write_tiny_model

ADAPTER_BYTES = 4 * 174_587_904
"""Of rank 64 on all linear layers of Qwen3-8B, in fp32."""

MODEL_BYTES = 2 * 8_190_735_360


def settings(*overrides: str, preset: str = "phys-chem") -> RunSettings:
    return load_settings(preset=preset, overrides=overrides, environ={})


def parts(chosen: RunSettings) -> dict[str, int]:
    return {part.name: part.bytes for part in disk_parts(chosen, shapes_of(chosen))}


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(runs_dir=tmp_path / "runs", run="r1", cache_dir=tmp_path / "cache")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub client's cache, without a model."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def needed_in_run(paths: Paths, chosen: RunSettings) -> int:
    """What is to be free for the run's own directory, where models and specialists are on a disk of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk, "_disk_of", lambda place: place == paths.runs_dir)
        return disk_needs([(paths, chosen)])[0].bytes


def test_the_papers_pair_keeps_some_of_its_versions_and_fits_a_volume() -> None:
    found = parts(settings())
    assert found["versions of a"] == found["versions of b"] == 9 * ADAPTER_BYTES // 2, "for vLLM, in bf16"
    assert found["checkpoints of a"] == 3 * 4 * ADAPTER_BYTES
    assert found["specialist of a"] == found["model Qwen/Qwen3-8B"] == MODEL_BYTES
    assert found["batches"] < 15e9
    assert sum(found.values()) < 100e9
    everything = parts(settings("retention.keep_last=0"))
    assert everything["versions of a"] == 100 * ADAPTER_BYTES // 2


def test_full_weights_are_whole_models_and_their_checkpoints_nine_times_that() -> None:
    found = parts(settings("run.weights=full", "run.schedule=sequential"))
    assert found["versions of a"] == 9 * MODEL_BYTES
    assert found["checkpoints of a"] == 3 * 9 * MODEL_BYTES


def test_a_method_that_asks_no_teacher_writes_none() -> None:
    for weights, taught, alone in (("lora", 16, 12), ("full", 18, 14)):
        run = (f"run.weights={weights}", "run.schedule=sequential", "run.method=grpo", "gate.mode=cognizance")
        anchored, plain = (parts(settings(*run, f"grpo.anchor={anchor}"))["checkpoints of a"] for anchor in (0.1, 0))
        assert anchored * alone == plain * taught


@pytest.mark.parametrize(
    ("overrides", "kept"),
    [
        (("retention.keep_last=0",), 100),
        (("retention.keep_last=5",), 9),
        (("retention.keep_last=5", "retention.keep_every=10"), 19),
        (("retention.keep_last=99",), 100),
    ],
)
def test_versions_that_stay_are_counted(overrides: tuple[str, ...], kept: int) -> None:
    assert kept_versions(settings(*overrides)) == kept


def test_a_model_in_a_directory_is_read_and_not_fetched_and_a_script_has_none(tmp_path: Path) -> None:
    model = tmp_path / "tiny"
    write_tiny_model(model)
    both = [f"students.{name}.model={model}" for name in "ab"]
    chosen = settings(*both, preset="smoke")
    assert set(shapes_of(chosen)) == {"a", "b"}
    assert not [name for name in parts(chosen) if name.startswith("model ")]
    scripted = settings("students.a.engine=scripted", "students.b.model=of/nobody", preset="smoke")
    assert shapes_of(scripted) == {}
    assert set(parts(scripted)) == {"batches"}


def test_what_a_run_needs_is_to_be_free_less_what_it_wrote_already(paths: Paths) -> None:
    chosen = settings()
    needed = needed_in_run(paths, chosen)
    found = parts(chosen)
    in_run = [size for name, size in found.items() if not name.startswith(("specialist", "model"))]
    assert needed == SPARE_BYTES + sum(in_run)
    (paths.run_dir / "weights").mkdir(parents=True)
    with (paths.run_dir / "weights" / "written").open("wb") as file:
        file.truncate(10**9)
    assert needed_in_run(paths, chosen) == needed - 10**9
    assert needed_in_run(paths, settings("resources.min_free_disk_bytes=7")) == 7


def needs(paths: Paths, *chosen: RunSettings) -> dict[tuple[str, ...], int]:
    """Bytes by the directories on one disk."""
    runs = [(paths.model_copy(update={"run": f"r{number}"}), each) for number, each in enumerate(chosen)]
    return {tuple(place.name for place in need.places): need.bytes for need in disk_needs(runs)}


@pytest.mark.parametrize("disks", [1, 2])
def test_models_and_specialists_that_are_not_there_need_room_where_they_will_be(
    paths: Paths, hub: Path, monkeypatch: pytest.MonkeyPatch, disks: int
) -> None:
    chosen, in_run = settings(), needed_in_run(paths, settings())
    if disks == 2:
        monkeypatch.setattr(disk, "_disk_of", lambda place: place == paths.runs_dir)
    found = needs(paths, chosen)
    kept = ("cache", hub.name)
    apart = {("runs",): in_run, kept: 3 * MODEL_BYTES}
    assert found == (apart if disks == 2 else {("runs", *kept): sum(apart.values())})
    # Its small files, and what the file of weights says of itself, are beside the weights.
    for number in range(2):
        specialist = paths.cache_dir / "specialists" / f"{number}"
        specialist.mkdir(parents=True)
        with (specialist / "model.safetensors").open("wb") as file:
            file.truncate(MODEL_BYTES + 10**6)
    monkeypatch.setattr(disk, "_is_here", lambda model, _: model == "Qwen/Qwen3-8B")
    assert needs(paths, chosen) == {("runs",): in_run}


def test_what_only_makes_models_needs_room_for_them_and_none_for_steps(paths: Paths, hub: Path) -> None:
    def asked(*overrides: str) -> dict[tuple[str, ...], int]:
        found = disk_needs([(paths, settings(*overrides))], takes_steps=False)
        return {tuple(place.name for place in need.places): need.bytes for need in found}

    assert asked() == {("cache", hub.name): 3 * MODEL_BYTES}
    # Whoever names a number has looked at the disk.
    assert asked("resources.min_free_disk_bytes=7") == {("cache",): 0}


def test_of_runs_together_each_seed_makes_its_specialists_once(paths: Paths, hub: Path) -> None:
    alone = needed_in_run(paths, settings()) - SPARE_BYTES
    several = [settings(f"run.seed={seed}") for seed in (0, 0, 1)]
    assert needs(paths, *several) == {
        ("runs", "cache", hub.name): SPARE_BYTES + 3 * alone + 2 * 2 * MODEL_BYTES + MODEL_BYTES
    }


@pytest.mark.usefixtures("hub")
def test_of_models_that_a_run_was_begun_with_nothing_is_to_come(paths: Paths, tmp_path: Path) -> None:
    pinned = PreparedModel(path=write_tiny_model(tmp_path / "tiny"), sha256="0" * 64)
    for name in "ab":
        file = model_file(paths.run_dir, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(pinned.model_dump_json())
    [need] = disk_needs([(paths, settings())])
    assert need.places == (paths.runs_dir,)


def test_a_model_at_home_is_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny_model(tmp_path / "tiny")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert set(shapes_of(settings("students.a.model=~/tiny", "students.b.model=~/none", preset="smoke"))) == {"a"}


def test_of_a_run_that_goes_on_the_sizes_of_its_models_are_known_whatever_they_were_called(
    paths: Paths, tmp_path: Path
) -> None:
    unknown = ("students.a.model=of/nobody", "students.b.model=of/nobody")
    chosen = settings(*unknown, "lora.first_layer=0", preset="smoke")
    before = needed_in_run(paths, chosen)
    model = write_tiny_model(tmp_path / "tiny")
    pinned = PreparedModel(path=model, sha256="0" * 64)
    model_file(paths.run_dir, "a").parent.mkdir(parents=True)
    model_file(paths.run_dir, "a").write_text(pinned.model_dump_json())
    shapes = shapes_in({"a": model})
    written = model_file(paths.run_dir, "a").stat().st_size
    [need] = disk_needs([(paths, chosen)], shapes)
    assert needed_in_run(paths, chosen) == need.bytes > before - written


def test_too_little_room_is_refused_with_the_numbers(paths: Paths) -> None:
    require_disk(paths, settings("resources.min_free_disk_bytes=0"))
    with pytest.raises(ConfigError, match=r"expected 1000000000.0 GB free under .*runs, found [\d.]+ GB; .*--dry-run"):
        require_disk(paths, settings(f"resources.min_free_disk_bytes={10**18}"))
    assert free_under(paths.runs_dir / "not" / "there") > 0


def test_the_advice_is_of_the_disk_that_is_short(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = r"choose another --runs-dir, set retention\.keep_last, "
    for short, said in ((paths.runs_dir, runs), (cache_directory(), "set HF_HUB_CACHE to a directory with room, ")):
        need = DiskNeed((short,), bytes=2, free=1)
        monkeypatch.setattr(disk, "disk_needs", lambda *_, need=need, **__: [need])
        with pytest.raises(ConfigError, match=f"free some, {said}or set resources"):
            require_disk(paths, settings())


def test_the_table_tells_the_run_from_the_cache() -> None:
    chosen = settings()
    rows = disk_grid(disk_parts(chosen, shapes_of(chosen))).rows
    sums = {row[0]: row[2] for row in rows if row[0]}
    assert list(sums) == ["the run's directory", "the cache"]
    assert ["", "specialist of b", "16.38"] in rows
    assert float(str(sums["the cache"])) == pytest.approx(3 * 16.38, abs=0.02)
