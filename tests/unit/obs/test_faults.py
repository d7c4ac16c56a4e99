"""Fault points: silent unless allowed and asked for, at the passing that was asked for, and once."""

import errno
from collections import Counter
from pathlib import Path

import pytest

from shared.errors import ConfigError
from shared.obs.faults import ALLOWED, FAULT, MARKS, POINTS, Fault, InjectedError, fault_point, parse_faults


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(ALLOWED, "1")
    monkeypatch.setenv("OPCOD_RUN_DIR", str(tmp_path))
    monkeypatch.delenv("OPCOD_STUDENT", raising=False)
    monkeypatch.setattr("shared.obs.faults._passed", Counter())
    return tmp_path


def test_it_strikes_at_the_passing_asked_for_and_once(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FAULT, "broker.before-seal:error:2,broker.after-seal:enospc")
    fault_point("broker.before-seal")
    with pytest.raises(InjectedError, match=r"broker\.before-seal"):
        fault_point("broker.before-seal")
    with pytest.raises(OSError, match="No space left") as full:
        fault_point("broker.after-seal")
    assert full.value.errno == errno.ENOSPC
    for _ in range(3):
        fault_point("broker.before-seal")
        fault_point("broker.after-seal")
    assert {path.name for path in (run_dir / MARKS).iterdir()} == {"broker.before-seal", "broker.after-seal"}


def test_a_process_that_comes_after_is_spared_and_another_student_is_not(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run_dir / MARKS).mkdir()
    (run_dir / MARKS / "trainer.before-ack-a").touch()
    monkeypatch.setenv(FAULT, "trainer.before-ack:error,trainer.before-publish:error")
    monkeypatch.setenv("OPCOD_STUDENT", "a")
    fault_point("trainer.before-ack")
    monkeypatch.setenv("OPCOD_STUDENT", "b")
    with pytest.raises(InjectedError):
        fault_point("trainer.before-publish")


def test_nothing_strikes_unless_it_is_allowed(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FAULT, "broker.before-seal:error")
    for value in ("", "0", "true"):
        monkeypatch.setenv(ALLOWED, value)
        fault_point("broker.before-seal")
    assert list(run_dir.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["broker.before-lunch:kill", "broker.before-seal", "broker.before-seal:maim", "broker.before-seal:kill:0"]
)
def test_what_is_no_fault_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected <point>:<action>"):
        parse_faults(text)


def test_faults_are_read() -> None:
    text = "student.generated:stop, trainer.before-step:kill:3"
    assert parse_faults(text) == [Fault("student.generated", "stop"), Fault("trainer.before-step", "kill", 3)]
    assert parse_faults("") == []


def test_every_point_stands_in_the_code_once() -> None:
    services = Path(__file__).resolve().parents[3] / "services"
    source = "".join(path.read_text() for path in services.rglob("*.py"))
    assert {point: source.count(f'fault_point("{point}")') for point in POINTS} == dict.fromkeys(POINTS, 1)
