"""Whatever ends or loses its network during a run, every step is applied once."""

from functools import partial

from shared.contracts.run import Status
from tests.containers.project import LASTING, UP_S, Project
from tests.fakes.waiting import wait_until

STEPS = 500
"""More than there is time for, however slow a busy machine's engine is to hurt one container after the other."""

AFTERWARDS = 2
"""Steps of both students once all have been hurt."""

ORDER = sorted(LASTING, key="inspector".__ne__)
"""A run waits for any of them but the inspector, so that the others are hurt while it is under way."""

LEASE_S = 6
SETTINGS = {
    "OPCOD_SET_RUN__STEPS_PER_ROUND": str(STEPS),
    # The disk is asked for what they keep.
    "OPCOD_SET_RETENTION__KEEP_LAST": "2",
    "OPCOD_SET_BUS__LEASE_S": str(LEASE_S),
    "OPCOD_SET_BUS__LEADER_LEASE_S": "3",
}
EVERYTHING_AGAIN = """\
from redis import Redis
bus = Redis.from_url("redis://opcod@redis:6379/0", password=open("/data/secrets/redis-password").read().strip())
streams = [key for key in bus.scan_iter("opcod:*") if bus.type(key) == b"stream"]
print(sum(bool(bus.xadd(key, fields)) for key in streams for _, fields in bus.xrange(key)))
"""
"""A program for a container: whatever any queue holds is published once more."""


def begin(project: Project, name: str) -> None:
    """A run of some steps, under way."""
    project.set(SETTINGS)
    project.begin(name)


def assert_whole(project: Project) -> None:
    """It goes on, and when it is stopped every step was applied once, and nothing given up."""
    state = project.run_state()
    assert state is not None, "the broker does not answer"
    project.until_step(max(state.steps.values()) + AFTERWARDS)
    assert "no dead letters" in project.command("dlq", "list")
    project.assert_stopped_whole()


def assert_under_way(project: Project) -> None:
    state = project.run_state()
    assert state is None or state.status is not Status.DONE, "the run ended before all was hurt"


def test_every_container_killed_with_a_second_trainer_and_every_message_twice(project: Project) -> None:
    begin(project, "killed")
    second = project.compose("run", "--detach", "--no-deps", "--env", "OPCOD_REPLICA=second", "trainer-a").strip()
    for service in ORDER:
        assert_under_way(project)
        project.kill(service)
        wait_until(partial(restarted, project, service), f"the engine to restart {service}", deadline_s=UP_S)
        project.until_healthy("broker", "redis")
        assert int(project.execute("broker", "python", "-c", EVERYTHING_AGAIN)) > 0
    # `stop` leaves it, and it would go on while the others end.
    project.engine.docker("rm", "--force", second)
    assert_whole(project)


def restarted(project: Project, service: str) -> bool:
    return int(project.container(service)["RestartCount"]) == 1


def test_every_container_cut_off_for_longer_than_a_lease(project: Project) -> None:
    begin(project, "cut")
    for service in ORDER:
        assert_under_way(project)
        project.cut(service, for_s=LEASE_S + 2)
        project.until_healthy(*LASTING)
    assert_whole(project)
