"""What is asked of the machine before anything is written."""

from pathlib import Path

import pytest

from opcod.planning import disk
from opcod.prepare.checks import check_engines, check_settings, notes_before
from shared.config.loading import load_settings
from shared.config.settings import Paths
from shared.errors import ConfigError, ModelError
from shared.problems.rejection import SAMPLES
from tests.fakes.deployment import scripted_settings
from tests.unit.modeling.tiny_model import write_tiny_model


def test_only_what_takes_steps_needs_the_disk_for_them(tmp_path: Path) -> None:
    settings = scripted_settings(f"resources.min_free_disk_bytes={10**18}")
    paths = Paths(runs_dir=tmp_path / "runs", run="full", cache_dir=tmp_path / "cache")
    with pytest.raises(ConfigError, match=r"expected 1000000000\.0 GB free"):
        check_settings(paths, settings)
    check_settings(paths, settings, "up", takes_steps=False)
    assert not paths.run_dir.exists()


def test_specialists_that_the_cache_has_no_room_for_are_refused_before_they_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "free_under", lambda _: 10**8)
    settings = load_settings(preset="laptop", environ={})
    paths = Paths(runs_dir=tmp_path / "runs", run="made", cache_dir=tmp_path / "cache")
    with pytest.raises(ConfigError, match=r"GB free under .*cache.*, found 0\.1 GB; .* choose another --cache-dir"):
        check_settings(paths, settings, takes_steps=False)


def test_of_one_student_alone_no_other_one_s_model_and_engine_are_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    other = ("model=Qwen/Qwen3-8B", "engine=vllm", f"vllm.python={tmp_path}/none")
    students = ["lora.first_layer=0", f"students.a.model={model}", *(f"students.b.{each}" for each in other)]
    settings = load_settings(preset="smoke", overrides=students, environ={})
    paths = Paths(runs_dir=tmp_path / "runs", run="r1", cache_dir=tmp_path / "cache")
    monkeypatch.setattr(disk, "free_under", lambda _: 10**8)
    check_settings(paths, settings, takes_steps=False, students=("a",))
    with pytest.raises(ConfigError, match="GB free"):
        check_settings(paths, settings, takes_steps=False)


@pytest.mark.model
def test_who_serves_a_run_needs_no_gpus_for_trainers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    ranks = load_settings(preset="smoke", overrides=["trainer.ranks=2"], environ={})
    spread = load_settings(preset="smoke", overrides=["trainer.ranks=4", "resources.nodes=2"], environ={})
    for settings in (ranks, spread):
        with pytest.raises(ConfigError, match=r"trainer-\w needs \d GPUs, this machine has 1"):
            check_engines(settings, "run")
        check_engines(settings, "up")


def test_what_comes_before_a_run_is_told_what_the_run_would_say(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "thinking")
    (model / "chat_template.jinja").write_text("{{ messages[-1].content }}<think>")
    both = [f"students.{name}.{value}" for name in "ab" for value in (f"model={model}", "chat_template=none")]
    settings = load_settings(preset="smoke", overrides=both, environ={})
    paths = Paths(runs_dir=tmp_path / "runs", run="r1", cache_dir=tmp_path / "cache")
    for students, named in ((None, "ab"), (("b",), "b")):
        told = notes_before(paths, settings, students)
        assert [note.partition(" before it answers")[0] for note in told] == [f"student {s} thinks" for s in named]


@pytest.mark.model
def test_answers_that_nobody_can_draw_are_refused_before_a_model_is_fetched(tmp_path: Path) -> None:
    students = [
        f"students.{name}.{value}"
        for name in "ab"
        for value in ("engine=vllm", f"vllm.url=unix:/tmp/{name}", f"model={tmp_path}/none", "specialize=true")
    ]
    settings = load_settings(preset="smoke", overrides=[*students, "specialize.source=self"], environ={})
    paths = Paths(runs_dir=tmp_path / "runs", run="r1", cache_dir=tmp_path / "cache")
    with pytest.raises(ConfigError, match=r"students\.a\.vllm\.url: expected none .* `opcod specialize --student a"):
        check_settings(paths, settings, "prepare")
    (paths.cache_dir / SAMPLES).mkdir(parents=True)
    (paths.cache_dir / SAMPLES / "key.jsonl").touch()
    with pytest.raises(ModelError, match="a model directory or a hub id"):
        check_settings(paths, settings, "prepare")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("serving.host=192.0.2.1",), "serving.host: cannot listen on 192.0.2.1:0: "),
        (("students.a.port=18101", "students.b.port=18101"), "students.a.port: port 18101 is given to two services"),
        (
            ("students.a.port=18101", "students.a.replicas=2", "students.b.port=18102"),
            "students.a.port + 1: port 18102 is given to two services",
        ),
        (
            ("students.a.port=18101", "students.a.replicas=2", "serving.broker_port=18102"),
            "serving.broker_port: port 18102 is given to two services",
        ),
        (
            ("students.a.port=65535", "students.a.replicas=2"),
            "students.a.port + 1: expected a port below 65536, got 65536",
        ),
    ],
)
def test_every_service_has_a_port_of_its_own_on_a_host_that_is_here(
    tmp_path: Path, overrides: tuple[str, ...], said: str
) -> None:
    paths = Paths(runs_dir=tmp_path / "runs", run="ports", cache_dir=tmp_path / "cache")
    with pytest.raises(ConfigError) as refused:
        check_settings(paths, scripted_settings(*overrides))
    assert said in str(refused.value)
