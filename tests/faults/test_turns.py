"""A run whose engines and trainers take turns on one card: who has it, and what becomes of it when the holder dies."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.obs.faults import ALLOWED, FAULT
from tests.fakes.deployment import ScriptedDeployment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

HOLDERS = {f"{service}-{student}-0" for service in ("student", "trainer") for student in ("a", "b")}

Begin = Callable[[], ScriptedDeployment]


@pytest.fixture
def begin(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Begin]:
    monkeypatch.setenv("OPCOD_LOG_JSON", "true")
    begun: list[ScriptedDeployment] = []

    def start() -> ScriptedDeployment:
        begun.append(ScriptedDeployment(tmp_path, "turns", tiny_model, "resources.turns=true", deadline_s=500))
        return begun[-1]

    yield start
    for running in begun:
        running.close()


def turns(running: ScriptedDeployment) -> dict[int, list[tuple[str, str, str]]]:
    """By token: when, who, and what it did with its turn."""
    found: dict[int, list[tuple[str, str, str]]] = {}
    for log in sorted((running.paths.run_dir / "logs").glob("*.log")):
        for line in log.read_text().splitlines():
            if line.startswith("{") and (said := json.loads(line))["event"] in ("turn taken", "turn given back"):
                found.setdefault(said["token"], []).append((said["timestamp"], said["holder"], said["event"]))
    return found


def test_one_at_a_time_and_everybody(begin: Begin, undisturbed: dict[str, str]) -> None:
    running = begin()
    running.assert_done(undisturbed)
    assert running.launcher.restarts == {}
    found = turns(running)
    assert sorted(found) == list(range(1, len(found) + 1))
    # The last one may not have ended yet.
    if len(found[len(found)]) == 1:
        del found[len(found)]
    assert {who for events in found.values() for _, who, _ in events} == HOLDERS
    before = ""
    for token in sorted(found):
        (taken, first, _), (given, second, _) = sorted(found[token])
        assert first == second
        # It begins after the one before has ended.
        assert before <= taken
        before = given


def test_a_holder_that_is_killed_is_followed_by_the_others(
    begin: Begin, undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trainer in the middle of its update, and a student with what it has generated."""
    monkeypatch.setenv(ALLOWED, "1")
    monkeypatch.setenv(FAULT, "trainer.mid-optimizer:kill,student.generated:kill:3")
    running = begin()
    running.assert_done(undisturbed)
    assert set(running.launcher.restarts) >= {"trainer-a", "student-a"}
