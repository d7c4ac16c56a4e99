"""What is deployed starts for real: each container's command as a process, with its environment and file layout.

The compose file runs the preset smoke to its end, with a service of each kind by the real Python; second ones and
commands are forked, as are the pods of the cluster, which come up until all are ready. What must not start does not.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import httpx2
import pytest

from opcod.commands.keys import keys
from shared.config.settings import Paths
from shared.contracts.http import PeersResponse
from shared.contracts.run import RunState, Status
from shared.http.access import read_keys
from tests.deploy.deployed import Container, compose_containers, kubernetes_containers
from tests.deploy.places import FailedError, Place
from tests.fakes.deployment import write_models
from tests.fakes.waiting import wait_until
from tests.unit.modeling.tiny_model import write_tiny_model

RUN = "smoke"
SMOKE = (("OPCOD_RUN", RUN), ("OPCOD_PRESET", "smoke"))
RUN_S = 280.0
SERVICES = ("student-a", "student-b", "trainer-a", "trainer-b", "broker", "inspector")
SCRIPTED = {
    f"OPCOD_SET_STUDENTS__{student}__{setting}": value
    for student in "AB"
    for setting, value in (("ENGINE", "scripted"), ("DTYPE", "float32"), ("SPECIALIZE", "false"))
} | {"OPCOD_SET_LORA__FIRST_LAYER": "1"}
TINY = {
    f"OPCOD_SET_STUDENTS__{student}__{setting}": value
    for student in "AB"
    for setting, value in (("MODEL", "/data/cache/tiny"), ("DTYPE", "float32"), ("SPECIALIZE", "false"))
} | {"OPCOD_SET_LORA__FIRST_LAYER": "1"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The cache's volume, with a tiny model in it."""
    pytest.importorskip("torch")
    write_tiny_model(tmp_path / "cache" / "tiny", context=4096)
    return tmp_path / "cache"


@pytest.fixture
def compose(tmp_path: Path, model: Path, programs: Path) -> Iterator[Place]:
    containers = with_settings(compose_containers("cpu", "cli", variables=SMOKE), TINY)
    forked = ("student-b", "trainer-b")
    place = Place(tmp_path, containers, {"cache": model}, commands=programs / "python", forked=forked)
    yield place
    place.kill()


@pytest.fixture
def cluster(tmp_path: Path, model: Path, programs: Path) -> Iterator[Place]:
    """Its secret is what its operator would make. Students answer from a script, trainers have a tiny model."""
    keys(tmp_path / "secrets")
    volumes = {"data/cache": model, "secrets/": tmp_path / "secrets", "acl/": tmp_path / "secrets"}
    containers = with_settings(kubernetes_containers("laptop-cpu"), SCRIPTED)
    place = Place(tmp_path, containers, volumes, programs / "python")
    yield place
    place.kill()


def with_settings(containers: dict[str, Container], settings: dict[str, str]) -> dict[str, Container]:
    """Settings as an operator would add them, by opcod.env or an overlay."""
    prepare = containers["prepare"]
    return containers | {"prepare": replace(prepare, environment={**prepare.environment, **settings})}


def state_of(place: Place, key: str) -> RunState:
    answer = httpx2.get(f"{place.url('broker')}/v1/runs/{RUN}", headers={"Authorization": f"Bearer {key}"})
    return RunState.model_validate_json(answer.content)


def test_compose_runs_the_smoke_preset_to_its_end_and_answers_its_command_line(compose: Place) -> None:
    for name in ("announce", "inspector", "broker"):
        compose.start(name)
    compose.require_success("announce")
    announced = compose.log("announce").read_text()
    assert "opcod is up" in announced and "http://127.0.0.1:8090/login?once=" in announced
    assert set(SERVICES) <= set(compose.running)
    key = read_keys(compose.directory("secrets") / "key").strongest
    deadline = time.monotonic() + RUN_S
    while (state := state_of(compose, key)).status is not Status.DONE:
        assert state.paused is None and state.failed is None, state
        assert time.monotonic() < deadline, state
        time.sleep(0.5)
    assert state.steps == {"a": 1, "b": 1}
    compose.start("report")
    compose.require_success("report")
    assert (compose.directory("runs") / RUN / "report" / "report.md").read_text().startswith(f"# Run {RUN}")

    status = compose.run("cli", "status")
    assert f"run {RUN} (run): done" in status.lower()
    assert status.count(" ready") == 6
    asked = compose.run("cli", "ask", "A circuit carries 3 A through 4 ohm. What is the voltage?", "--seed", "1")
    assert asked.startswith("a (a@v1) answers:")
    assert "b" in compose.run("cli", "feedback", "tail", "--no-follow")
    assert "no dead letters" in compose.run("cli", "dlq", "list")
    page = compose.directory("runs") / "page"
    assert "exchanges on the page" in compose.run("cli", "bundle", RUN, "--out", str(page))
    assert (page / "index.html").exists()
    assert compose.stop() == dict.fromkeys(("redis", *SERVICES), 0)


@pytest.fixture
def bare(tmp_path: Path, programs: Path) -> Iterator[Callable[..., Place]]:
    """A deployment of compose without a model; arguments: its preset, settings, and containers that are others."""
    places: list[Place] = []

    def place(preset: str, settings: Mapping[str, str] = SCRIPTED, **changed: Container) -> Place:
        containers = compose_containers("cpu", variables=(("OPCOD_RUN", RUN), ("OPCOD_PRESET", preset)))
        prepared = with_settings(containers | changed, dict(settings))
        places.append(Place(tmp_path, prepared, {}, programs / "python"))
        return places[-1]

    yield place
    for each in places:
        each.kill()


def test_what_cannot_be_prepared_starts_no_service_and_the_reason_comes_last(bare: Callable[..., Place]) -> None:
    place = bare("nosuch")
    with pytest.raises(FailedError, match=r"prepared ended with 2: error: run smoke is not prepared: .*nosuch"):
        place.start("announce")
    assert set(place.running) <= {"keys", "redis", "prepare", "prepared"}


def test_other_settings_for_a_run_that_is_there_start_no_service(bare: Callable[..., Place]) -> None:
    first = bare("smoke")
    first.start("prepared")
    first.require_success("prepared")
    first.kill()
    changed = bare("smoke", {**SCRIPTED, "OPCOD_SET_RUN__SEED": "7"})
    with pytest.raises(FailedError, match=r"(?s)prepared ended with 2: .*OPCOD_RUN in \.env.*run\.seed: 0 -> 7"):
        changed.start("broker")
    assert set(changed.running) <= {"keys", "redis", "prepare", "prepared"}


def test_the_broker_does_not_start_without_its_trainers(bare: Callable[..., Place]) -> None:
    containers = compose_containers("cpu")
    dies = replace(containers["trainer-b"], command=("sh", "-c", "exit 3"), after={}, optional=frozenset())
    gate = containers["trainers"]
    briefly = tuple("1" if before == "--wait" else word for before, word in pairwise(("", *gate.command)))
    serves = replace(gate, command=briefly, after={"trainer-b": gate.after["trainer-b"]})
    place = bare("smoke", **{"trainer-b": dies, "trainers": serves})
    with pytest.raises(
        FailedError, match=r"(?s)trainers ended with 1: waited 1 s; .*expected a service that is ready at http"
    ):
        place.start("trainers")
        place.require_success("trainers")


def test_every_pod_of_the_cluster_becomes_ready_with_the_secret_that_opcod_keys_makes(cluster: Place) -> None:
    for name in ("redis", "prepare"):
        cluster.start(name)
    cluster.require_success("prepare")
    paths = Paths(runs_dir=cluster.directory("data/runs"), run="laptop", cache_dir=cluster.directory("data/cache"))
    write_models(paths, paths.cache_dir / "tiny")
    for name in SERVICES:
        cluster.start(name)
    for name in SERVICES:
        cluster.await_ready(name)
    key = read_keys(cluster.directory("secrets/") / "key").strongest

    def peers() -> list[str | None]:
        answer = httpx2.get(f"{cluster.url('broker')}/v1/peers", headers={"Authorization": f"Bearer {key}"})
        return [peer.url for peer in PeersResponse.model_validate_json(answer.content).peers]

    expected = [cluster.url(name) for name in ("student-a", "student-b")]
    wait_until(lambda: peers() == expected, "both students to say where they are")
    assert cluster.stop() == dict.fromkeys(("redis", *SERVICES), 0)
