"""What a run was begun with, as it goes on and as it is read: its settings, and `problems.json`."""

import json
import tomllib
from contextlib import nullcontext
from pathlib import Path

import pytest
import tomli_w

from opcod.local.deployment import Deployment
from opcod.prepare.checks import check_name
from opcod.prepare.run_directory import create_run, kept_settings, new_run_name, pin_problems, stored_settings
from shared.config.loading import load_settings, settings_of
from shared.config.settings import Paths, RunSettings
from shared.errors import ConfigError
from shared.problems.pinned import problems_of_run, read_manifest
from tests.fakes.sciknoweval import plain, two_domains, write


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths(runs_dir=tmp_path, run="r1", cache_dir=tmp_path / "cache")
    made.run_dir.mkdir()
    return made


def settings_for(directory: Path) -> RunSettings:
    overrides = [
        f"problems.source=sciknoweval:{directory}",
        "problems.format=mcq",
        "problems.validation_per_domain=3",
        "students.a.domain=optics",
        "students.b.domain=acids",
    ]
    return load_settings(preset="smoke", overrides=overrides, environ={})


def test_a_run_goes_on_with_the_same_problems_only(paths: Paths, tmp_path: Path) -> None:
    directory = two_domains(tmp_path / "data")
    settings = settings_for(directory)
    assert read_manifest(paths.run_dir) is None
    pin_problems(paths, settings)
    written = read_manifest(paths.run_dir)
    assert written is not None
    assert written.provenance is not None
    assert written.provenance.source == settings.problems.source
    pin_problems(paths, settings)
    write(directory, "optics", plain(0, 12, "lens"), plain(12, 5, "lens"))
    with pytest.raises(ConfigError, match=r"r1 was begun with other problems: test had 8 with sha256 .* has 9 with"):
        pin_problems(paths, settings)
    with pytest.raises(ConfigError, match="r1 was begun with other problems"):
        problems_of_run(paths.run_dir, settings)
    assert read_manifest(paths.run_dir) == written


def test_a_manifest_that_is_none_is_refused(paths: Paths) -> None:
    (paths.run_dir / "problems.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"expected the manifest of the run's problems in .*problems.json"):
        read_manifest(paths.run_dir)


@pytest.mark.parametrize(("tested", "refused"), [("8", True), ("160", False)])
def test_a_run_whose_evaluations_were_chosen_otherwise_is_not_gone_on_with(
    paths: Paths, tested: str, refused: bool
) -> None:
    limits = ("evaluation.validation_problems=50", f"evaluation.test_problems={tested}")
    settings = load_settings(preset="laptop", overrides=limits, environ={})
    pin_problems(paths, settings)
    pin_problems(paths, settings)
    file = paths.run_dir / "problems.json"
    told = json.loads(file.read_text())
    for part in told["partitions"].values():
        for domain in part["domains"].values():
            del domain["kind_of_each"]
    file.write_text(json.dumps(told))
    with pytest.raises(ConfigError, match="chose other problems") if refused else nullcontext():
        pin_problems(paths, settings)
    # To be asked anew, in one way for all versions, they need not have been chosen so.
    assert problems_of_run(paths.run_dir, settings).test


@pytest.mark.parametrize(
    ("preset", "config", "begins"),
    [
        ("smoke", None, "smoke-2"),
        ("smoke", "mine.toml", "smoke-2"),
        (None, "somewhere/mine.toml", "mine-2"),
        (None, "my ü settings (1).toml", "my-settings-1-2"),
        (None, "ü.toml", "run-2"),
        (None, "x" * 100 + ".toml", "x" * 40 + "-2"),
        (None, None, "run-2"),
    ],
)
def test_a_new_run_is_called_as_what_it_is_begun_with(preset: str | None, config: str | None, begins: str) -> None:
    name = new_run_name(preset, Path(config) if config else None)
    assert name.startswith(begins)
    check_name(name)


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("students.a.vllm", "arguments", '["--enable-lora"]', "expected no --enable-lora"),
        ("students.a.vllm", "url", '"http://host:99999"', "expected host and port alone"),
        ("resources", "gpus", "{ student-a = [1, 1] }", "expected each GPU once"),
        ("resources", "placement", "{ student-a = [7] }", "expected nodes out of 0 to 0"),
        ("gate", "hysteresis", "0.9", "at most gate.tau"),
    ],
)
def test_a_run_that_began_before_a_setting_was_refused_is_still_read_but_not_begun_again(
    paths: Paths, section: str, key: str, value: str, said: str
) -> None:
    rewrite(paths, section, key, value)
    read = stored_settings(paths)
    assert read.names == ("a", "b")
    run, key_file = paths.run, paths.run_dir / "key"
    up = Deployment(run=run, run_dir=paths.run_dir, mode="up", key_file=key_file, redis_url="redis://127.0.0.1:1")
    assert up.settings() == read
    for begin in (lambda: kept_settings(paths, None, None, None), lambda: settings_of(paths.run_dir)):
        with pytest.raises(ConfigError, match=said):
            begin()


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("students.a.vllm", "environment", '{ HF_TOKEN = "x" }', "expected no secret such as HF_TOKEN"),
        ("students.a.vllm", "url", '"http://u:p@host:80"', "expected a URL without user and password"),
        ("gate", "hysterisis", "0.0", "unknown key gate.hysterisis"),
    ],
)
def test_what_would_be_shown_or_cannot_be_understood_is_refused_of_a_run_that_is_read(
    paths: Paths, section: str, key: str, value: str, said: str
) -> None:
    rewrite(paths, section, key, value)
    with pytest.raises(ConfigError, match=said):
        stored_settings(paths)


def rewrite(paths: Paths, section: str, key: str, value: str) -> None:
    """A run, in whose config.toml that setting then stands."""
    create_run(paths, load_settings(preset="smoke", environ={}))
    file = paths.run_dir / "config.toml"
    tree = tomllib.loads(file.read_text())
    place = tree
    for name in section.split("."):
        place = place[name]
    place[key] = tomllib.loads(f"it = {value}")["it"]
    file.write_text(tomli_w.dumps(tree))
