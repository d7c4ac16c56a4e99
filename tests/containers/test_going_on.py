"""What a person does with a deployment after the first `up`: a run goes on from wherever it was left."""

import pytest

from tests.containers.project import LASTING, Project
from tests.fakes.deployment import assert_applied_once

STEPS = 4
SETTINGS = {"OPCOD_SET_RUN__STEPS_PER_ROUND": str(STEPS)}


def test_stopped_taken_down_and_without_its_redis_a_run_goes_on(project: Project) -> None:
    project.set(SETTINGS)
    project.begin("interrupted")
    project.until_step(1)
    project.compose("stop")
    assert {service: project.state(service)["ExitCode"] for service in LASTING} == dict.fromkeys(LASTING, 0)

    project.up()
    project.until_step(2)
    project.down()

    project.up()
    project.until_step(3)
    project.down()
    project.engine.docker("volume", "rm", f"{project.name}_redis")

    project.up()
    assert project.until_done().steps == {"a": STEPS, "b": STEPS}
    for student in "ab":
        assert_applied_once(project.run_dir(), student, STEPS)


def test_another_run_beside_the_first_is_served_without_training(project: Project) -> None:
    project.begin("served", OPCOD_TRAIN="false")
    assert project.command("ask", "What is 3 A times 4 ohm?", "--seed", "1").startswith("a (a@v0) answers:")
    up = project.compose("ps", "--services").split()
    assert not [service for service in up if service.startswith("trainer-")]
    assert project.run_state() is not None


def test_what_cannot_be_prepared_ends_up_with_the_reason_in_a_log(project: Project) -> None:
    with pytest.raises(AssertionError, match=r"(?s)docker-compose .*up --detach ended with 1:.*prepared"):
        project.begin("never", OPCOD_PRESET="nosuch")
    assert "run never is not prepared" in (reason := project.compose("logs", "prepared")) and "nosuch" in reason
    assert project.compose("ps", "--services", "--status", "running").split() == ["redis"]


def test_a_trainer_that_ends_at_its_start_ends_up_with_the_reason_in_a_log(project: Project) -> None:
    """Though the engine starts it again, without end."""
    project.set({}, commands={"trainer-b": ["sh", "-c", "exit 3"]})
    with pytest.raises(AssertionError, match=r"(?s)docker-compose .*up --detach ended with 1:.*trainers"):
        project.begin("dies", OPCOD_START_S="90")
    assert "waited 90 s" in (reason := project.compose("logs", "trainers")) and "http://trainer-b:8200/readyz" in reason
    assert int(project.container("trainer-b")["RestartCount"]) > 0
    assert "broker" not in project.compose("ps", "--services", "--status", "running").split()
