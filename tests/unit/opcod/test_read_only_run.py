"""A finished run that can only be read, with what its launcher left over: it is not up, and all of it can be read."""

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opcod.local.deployment import Deployment, Endpoint, ensure_key
from services.inspector.config import STORE
from shared.files.state import write_state_file
from tests.fakes.bundled import HOSTILE, write_run
from tests.fakes.command import call_opcod
from tests.fakes.final_state import final_state

RUN = "r1"
GONE = Endpoint(name="broker", url="http://127.0.0.1:9")


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tests run as root, to whom all is allowed: the refusal of a file system that may only be read is put in place."""
    run_dir = tmp_path / "runs" / RUN
    write_run(run_dir)
    write_state_file(run_dir, final_state(run=RUN))
    key_file = ensure_key(run_dir)
    (run_dir / "lock").touch()
    left = Deployment(run=RUN, run_dir=run_dir, mode="run", key_file=key_file, redis_url="redis://127.0.0.1:9")
    left.model_copy(update={"pid": 1, "broker": GONE, "inspector": GONE}).save()
    # SQLite writes beside its log, and cannot: this leads to itself.
    shared = (run_dir / STORE).with_name(f"{STORE.name}-shm")
    shared.symlink_to(shared.name)

    def refusing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if str(file).startswith(f"{run_dir}/") and set(mode) & set("wax+"):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(file))
            return real(file, mode, *arguments, **options)

        return call

    monkeypatch.setattr(io, "open", refusing(io.open))
    return run_dir


def test_what_is_left_over_says_of_no_run_that_it_is_up(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call_opcod(monkeypatch, "status", "--runs-dir", str(run_dir.parent)) == 69
    assert "no run is up" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("feedback", "tail", "--run", RUN, "--json"), "a.s1.p7.0"),
        (("feedback", "export"), "a.s1.p7.0"),
        (("feedback", "show", "a.s1.p0.0", "--json"), "reads like a paraphrase"),
        (("bundle", RUN, "--out", "bundle"), f"({len(HOSTILE) + 1} of {len(HOSTILE) + 1} exchanges on the page)"),
    ],
)
def test_what_happened_can_be_read(
    run_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
    command: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(run_dir.parent.parent)
    assert call_opcod(monkeypatch, *command, "--runs-dir", str(run_dir.parent)) == 0
    assert said in capfdbinary.readouterr().out.decode()
