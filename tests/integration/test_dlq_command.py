"""`opcod dlq` on a real server: poison is seen, shown, put back and dropped."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from opcod.local.deployment import Deployment, run_lock
from opcod.main import app
from services.broker.machine.moves import IssueEval
from shared.bus.keys import BROKER, LEADER, RESULTS, STUDENTS, jobs
from shared.bus.port import Commit
from shared.bus.redis import RedisBus
from shared.contracts.acting import Control
from shared.contracts.jobs import Job, JobKind
from shared.contracts.run import RunState
from tests.fakes.student import make_job
from tests.fakes.valkey import ValkeyServer
from tests.fakes.world import World, small_plan

RUN = "r1"
POISON = b"\xff not an envelope"
REASON = "[/x] [old] :x:"
"""As a model or a file may have it; it stands in the table as it is."""


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[RedisBus]:
    """Of a run that is up under `tmp_path`, with a poisoned queue."""
    (tmp_path / "valkey").mkdir()
    server = ValkeyServer(data_dir=str(tmp_path / "valkey"), persist=True, appendonly="no")
    server.start()
    run_dir = tmp_path / RUN
    run_dir.mkdir()
    (run_dir / "config.toml").write_text("")
    Deployment(run=RUN, run_dir=run_dir, mode="run", key_file=run_dir / "key", redis_url=server.connection_url).save()
    opened = RedisBus(server.connection_url, RUN)
    opened.create_queue(RESULTS, BROKER)
    opened.link.client.xadd(opened.keys.queue(RESULTS), {"m": POISON})
    opened.publish(RESULTS, Control(id="1", action="pause", reason="asked"))
    for delivery in opened.take([(RESULTS, BROKER)], "broker-0", limit=4, block_s=0):
        opened.dead_letter(delivery, REASON)
    with run_lock(run_dir):
        yield opened
    opened.close()
    server.stop()


def dlq(tmp_path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["dlq", *arguments, "--runs-dir", str(tmp_path)])


def letters(tmp_path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in dlq(tmp_path, "list", "--json").output.splitlines()]


@pytest.mark.usefixtures("bus")
def test_they_are_listed_and_shown_whole(tmp_path: Path) -> None:
    poisoned, valid = letters(tmp_path)
    assert (poisoned["queue"], poisoned["raw"]) == (RESULTS, "\\xff not an envelope")
    assert "does not fit its schema" in poisoned["reason"]
    assert (valid["message"], valid["reason"]) == ("Control control.1", REASON)
    assert json.loads(dlq(tmp_path, "show", valid["id"]).output) == valid
    listed = dlq(tmp_path, "list").output
    assert poisoned["id"] in listed
    assert REASON in listed


def test_retry_puts_it_back_and_drop_deletes_it(bus: RedisBus, tmp_path: Path) -> None:
    poisoned, valid = letters(tmp_path)
    assert dlq(tmp_path, "retry", valid["id"]).output == f"{valid['id']}: back on results\n"
    (again,) = bus.take([(RESULTS, BROKER)], "broker-0", limit=4, block_s=0)
    assert (again.message, again.attempt) == (Control(id="1", action="pause", reason="asked"), 1)
    assert dlq(tmp_path, "drop", poisoned["id"]).exit_code == 0
    assert dlq(tmp_path, "list").output == "no dead letters\n"


def bury(bus: RedisBus, job: Job) -> str:
    """Taken and given up, as by a student; returns the letter's id."""
    queue = (jobs("a", job.kind), STUDENTS)
    bus.create_queue(*queue)
    bus.publish(queue[0], job)
    (taken,) = bus.take([queue], "student-a-0", limit=1, block_s=0)
    assert bus.dead_letter(taken, "started 3 times without an end")
    return bus.dead_letters()[-1].entry_id


def keep_state(bus: RedisBus, state: RunState) -> None:
    fence = bus.acquire_lease(LEADER, "broker/0", ttl_s=60)
    assert fence is not None
    bus.commit(Commit(fence=fence, revision=state.revision, state=state.model_dump_json()))


def test_a_job_is_put_back_only_while_the_run_waits_for_it(bus: RedisBus, tmp_path: Path) -> None:
    """One that was given up goes on by resuming the run, which the refusal says."""
    world = World(small_plan())
    world.start()
    keep_state(bus, world.state)
    job, _ = make_job(JobKind.EVAL, 1)
    given_up = bury(bus, job.model_copy(update={"id": "r1.a.validation.c99"}))
    awaited = bury(bus, job.model_copy(update={"id": world.of(IssueEval)[0].job_id}))

    refused = dlq(tmp_path, "retry", given_up)
    assert getattr(refused.exception, "exit_code", None) == 2
    assert f"`opcod run --resume {RUN}`" in str(refused.exception)
    assert given_up in {letter.entry_id for letter in bus.dead_letters()}, "it stays, to be looked at and dropped"

    assert dlq(tmp_path, "retry", awaited).output == f"{awaited}: back on jobs:a:eval\n"
    assert bus.queue_depth("jobs:a:eval", STUDENTS) == (1, 0)


@pytest.mark.usefixtures("bus")
@pytest.mark.parametrize("verb", ["show", "retry", "drop"])
def test_an_unknown_id_is_named(tmp_path: Path, verb: str) -> None:
    result = dlq(tmp_path, verb, "1-1")
    assert getattr(result.exception, "exit_code", None) == 2
    assert "there is no '1-1'" in str(result.exception)
    assert len(letters(tmp_path)) == 2
