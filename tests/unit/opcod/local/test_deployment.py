"""What is up: the key, the lock, and which deployment answers."""

import os
import stat
from pathlib import Path

import pytest

from opcod.local.deployment import (
    Deployment,
    Endpoint,
    ensure_key,
    is_locked,
    latest_run,
    live_deployment,
    read_deployment,
    run_lock,
)
from shared.config.loading import load_settings, to_toml
from shared.errors import ConfigError, UnavailableError


def begun(runs_dir: Path, run: str, at: float = 1.0) -> Path:
    """A run's directory with its files."""
    run_dir = runs_dir / run
    run_dir.mkdir(parents=True)
    (run_dir / "config.toml").write_text("")
    (run_dir / "state.json").write_text("{}")
    os.utime(run_dir / "config.toml", (at, at))
    endpoint = Endpoint(name="broker", url="http://127.0.0.1:1")
    Deployment(
        run=run, run_dir=run_dir, mode="run", key_file=run_dir / "key", redis_url="redis://x", broker=endpoint
    ).save()
    return run_dir


def test_the_key_is_made_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = ensure_key(tmp_path)
    key = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(key.strip()) >= 32
    assert ensure_key(tmp_path).read_text() == key
    other = tmp_path / "other"
    other.mkdir()
    assert ensure_key(other).read_text() != key


def test_a_run_has_one_launcher(tmp_path: Path) -> None:
    run_dir = begun(tmp_path, "r1")
    with run_lock(run_dir):
        assert is_locked(run_dir)
        for _ in range(2):
            with pytest.raises(ConfigError, match="r1 is up already"), run_lock(run_dir):
                pytest.fail("two launchers hold the lock")
    assert not is_locked(run_dir)


def test_a_run_that_may_not_be_written_is_not_taken(tmp_path: Path) -> None:
    run_dir = begun(tmp_path, "r1")
    # A directory in the lock's place is refused to everybody, also to root, for whom no file is write-protected.
    (run_dir / "lock").mkdir()
    said = pytest.raises(ConfigError, match=r"expected to write .*lock: .*; who goes on with a run")
    with said, run_lock(run_dir):
        pytest.fail("taken")


def test_a_directory_of_somebody_else_hides_no_run_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = begun(tmp_path, "r1")
    closed = begun(tmp_path, "closed", at=2.0)
    real = os.stat

    def stat_(path: object, **options: bool) -> os.stat_result:
        if str(path).startswith(f"{closed}/"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, **options)  # type: ignore[arg-type]

    # Tests run as root, to whom all is allowed.
    monkeypatch.setattr(os, "stat", stat_)
    assert latest_run(tmp_path) == "r1"
    with run_lock(run_dir):
        assert live_deployment(tmp_path).run == "r1"


def test_replicas_must_be_up_where_a_launcher_has_started_them(tmp_path: Path) -> None:
    run_dir = begun(tmp_path, "r1")
    settings = load_settings(preset="smoke", overrides=["students.a.replicas=2"], environ={})
    (run_dir / "config.toml").write_text(to_toml(settings))
    found = read_deployment(run_dir)
    assert found is not None
    one_each = ["broker", "inspector", "student-a", "student-b", "trainer-a", "trainer-b"]
    assert found.services() == one_each
    started = found.model_copy(update={"pid": 1})
    assert started.services() == [*one_each[:3], "student-a-1", *one_each[3:]]


def test_a_deployment_is_read_back_with_its_key(tmp_path: Path) -> None:
    run_dir = begun(tmp_path, "r1")
    ensure_key(run_dir)
    found = read_deployment(run_dir)
    assert found is not None
    assert (found.run, found.broker) == ("r1", Endpoint(name="broker", url="http://127.0.0.1:1"))
    assert f"admin {found.key()}\n" in (run_dir / "key").read_text()


@pytest.mark.parametrize("content", [None, "torn", '{"run": "r1"}'])
def test_no_deployment_no_error(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "deployment.json").write_text(content)
    assert read_deployment(tmp_path) is None


def test_the_newest_run_that_is_up_answers(tmp_path: Path) -> None:
    dirs = [begun(tmp_path, name, at) for name, at in (("r1", 1.0), ("r2", 2.0), ("r3", 3.0))]
    with run_lock(dirs[0]), run_lock(dirs[1]):
        assert live_deployment(tmp_path).run == "r2"
        assert live_deployment(tmp_path, "r1").run == "r1"
        with pytest.raises(UnavailableError, match="run r3 is not up under"):
            live_deployment(tmp_path, "r3")


@pytest.mark.parametrize("run", [None, "r2"])
def test_a_run_that_is_being_started_is_told_from_one_that_is_not_up(tmp_path: Path, run: str | None) -> None:
    begun(tmp_path, "r1")
    run_dir = begun(tmp_path, "r2", 2.0)
    (run_dir / "deployment.json").unlink()
    with run_lock(run_dir), pytest.raises(UnavailableError, match=f"run r2 is not up yet.*{run_dir / 'logs'}"):
        live_deployment(tmp_path, run)
    assert not (tmp_path / "r1" / "lock").exists(), "looking leaves nothing behind"


@pytest.mark.parametrize(("run", "what"), [(None, "no run is up"), ("r9", "run r9 is not up")])
def test_nothing_up_says_how_to_start(tmp_path: Path, run: str | None, what: str) -> None:
    begun(tmp_path, "r1")
    with pytest.raises(UnavailableError, match=f"^{what} under .*opcod up") as caught:
        live_deployment(tmp_path, run)
    assert caught.value.exit_code == 69


def test_the_latest_run_is_the_one_begun_last(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found none"):
        latest_run(tmp_path)
    begun(tmp_path, "new", 5.0)
    begun(tmp_path, "old", 1.0)
    (tmp_path / "sundry").mkdir()
    (begun(tmp_path, "replay", 9.0) / "state.json").unlink()
    assert latest_run(tmp_path) == "new"
