"""docker-compose.yml on an engine, under a name of its own: what a person types, and what then is."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx2
import yaml

from shared.contracts.run import RunState, Status
from shared.http.access import AccessKeys, read_keys
from tests.containers.engine import GENTLE, Engine, run
from tests.deploy.deployed import ROOT
from tests.deploy.tools import tool
from tests.fakes.deployment import assert_applied_once
from tests.fakes.valkey import free_port
from tests.fakes.waiting import wait_until

SERVICES = ("student-a", "student-b", "trainer-a", "trainer-b", "broker", "inspector")
LASTING = ("redis", *SERVICES)
"""Those that go on until they are stopped."""

BUILT_S = 1200.0
UP_S = 600.0
DONE_S = 900.0


@dataclass(frozen=True)
class Event:
    """What the engine told of a container. action: start, die, `health_status: healthy`. code: of one that died."""

    at_s: float
    service: str
    action: str
    code: int | None


class Project:
    """One set of volumes, in which runs are made one after the other. name: the project's. root: for its files.
    build_arguments: of the images."""

    def __init__(self, engine: Engine, root: Path, name: str, build_arguments: Mapping[str, str]) -> None:
        self.engine = engine
        self._tree = ROOT
        self.build_arguments = build_arguments
        self.name = name
        self._root = root
        ports = {"OPCOD_API_PORT": str(free_port()), "OPCOD_PAGE_PORT": str(free_port())}
        self.api, self.page = (f"http://127.0.0.1:{port}" for port in ports.values())
        self._always = ports | {"OPCOD_PRESET": "smoke"}
        self._variables = self._always
        self._settings = root / "settings.yml"
        self.set({})

    # What a person types ------------------------------------------------------------------------------
    def compose(self, *arguments: str, timeout_s: float = UP_S) -> str:
        """One command of docker-compose; what it wrote to stdout. Fails the test with the end of what else it wrote."""
        files = ["--file", str(self._tree / "docker-compose.yml"), "--file", str(self._settings)]
        options = ["--project-directory", str(self._tree), "--project-name", self.name, "--ansi", "never", *files]
        environment = self.engine.environment | self._variables
        return run([*GENTLE, tool("docker-compose"), *options, "--profile", "cpu", *arguments], environment, timeout_s)

    @contextmanager
    def of_tree(self, tree: Path) -> Iterator[None]:
        """Meanwhile that source's compose file and images."""
        self._tree = tree
        try:
            yield
        finally:
            self._tree = ROOT

    def build(self) -> None:
        arguments = [f"--build-arg={name}={value}" for name, value in self.build_arguments.items()]
        self.compose("build", *arguments, timeout_s=BUILT_S)

    def choose(self, name: str, **variables: str) -> None:
        """Later commands are about the run of that name."""
        self._variables = self._always | variables | {"OPCOD_RUN": name}

    def begin(self, name: str, **variables: str) -> str:
        """`up -d` of a run of that name, until all is up; what was announced. Later commands are about this run."""
        self.choose(name, **variables)
        return self.up()

    def up(self) -> str:
        """Goes on with the run; what was announced."""
        self.compose("up", "--detach")
        self.until_ended("announce")
        return self.compose("logs", "--no-log-prefix", "announce")

    def down(self, *options: str) -> None:
        """Of every profile."""
        self.compose("--profile", "monitor", "down", *options)

    def set(
        self,
        settings: Mapping[str, str],
        of_students: Mapping[str, str] = MappingProxyType({}),
        commands: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        """Settings of the runs that are begun from now on, as in opcod.env. of_students: their environment besides.
        commands: what services do in place of what they are for."""
        environments = {"prepare": settings, "student-a": of_students, "student-b": of_students}
        services: dict[str, dict[str, Any]] = {name: {"environment": dict(each)} for name, each in environments.items()}
        for service, command in commands.items():
            services.setdefault(service, {})["command"] = list(command)
        self._settings.write_text(yaml.safe_dump({"services": services}))

    def command(self, *arguments: str) -> str:
        """`docker-compose run --rm cli …`"""
        return self.compose("run", "--rm", "--no-TTY", "cli", *arguments)

    def execute(self, service: str, *command: str) -> str:
        return self.compose("exec", "--no-TTY", service, *command)

    # What the engine says -----------------------------------------------------------------------------
    def container(self, service: str) -> dict[str, Any]:
        (found,) = json.loads(self.engine.docker("inspect", self.container_name(service)))
        return dict(found)

    def container_name(self, service: str) -> str:
        return f"{self.name}-{service}-1"

    def state(self, service: str) -> dict[str, Any]:
        return dict(self.container(service)["State"])

    def healthy(self, service: str) -> bool:
        state = self.state(service)
        return state["Running"] and state["Health"]["Status"] == "healthy"

    def until_healthy(self, *services: str) -> None:
        wait_until(lambda: all(map(self.healthy, services)), f"{services} to be healthy", deadline_s=UP_S, pause_s=0.5)

    def until_ended(self, service: str) -> None:
        wait_until(lambda: self.state(service)["Status"] == "exited", f"{service} to end", deadline_s=UP_S, pause_s=0.5)
        assert self.state(service)["ExitCode"] == 0, self.compose("logs", service)[-2000:]

    def kill(self, service: str) -> None:
        """SIGKILL from outside. `docker kill` would be a person's doing, after which the engine restarts nothing."""
        os.kill(self.state(service)["Pid"], signal.SIGKILL)

    def cut(self, service: str, *, for_s: float) -> None:
        """For so long the network inside does not reach it."""
        network, name = f"{self.name}_inside", self.container_name(service)
        self.engine.docker("network", "disconnect", network, name)
        time.sleep(for_s)
        self.engine.docker("network", "connect", "--alias", service, network, name)

    @contextmanager
    def events(self) -> Iterator[list[Event]]:
        """What happens to this project's containers meanwhile; the list is full once it is left."""
        filters = [f"label=com.docker.compose.project={self.name}", "event=start", "event=die", "event=health_status"]
        options = [part for each in filters for part in ("--filter", each)]
        told = self._root / "events"
        seen: list[Event] = []
        with told.open("wb") as output:
            command = ["docker", "events", *options, "--format", "{{json .}}"]
            watching = subprocess.Popen(command, env=self.engine.environment, stdout=output)
        try:
            yield seen
            time.sleep(1)  # the engine tells of it a moment later
        finally:
            watching.terminate()
            watching.wait()
        seen += [_event(json.loads(line)) for line in told.read_text().splitlines()]

    def volume(self, name: str) -> Path:
        """Where it is seen from here, by root."""
        place = self.engine.docker("volume", "inspect", "--format", "{{.Mountpoint}}", f"{self.name}_{name}").strip()
        return self.engine.root / place.removeprefix("/")

    def run_dir(self) -> Path:
        return self.volume("runs") / self._variables["OPCOD_RUN"]

    # What the product says ----------------------------------------------------------------------------
    @cached_property
    def keys(self) -> AccessKeys:
        """As they lie on the volume of secrets, which all runs share."""
        file = self._root / "key"
        file.write_text(self.execute("broker", "cat", "/data/secrets/key"))
        file.chmod(0o600)
        return read_keys(file)

    def ask_api(self, path: str, key: str | None) -> httpx2.Response:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return httpx2.get(self.api + path, headers=headers, timeout=10)

    def run_state(self) -> RunState | None:
        """None while the broker does not say."""
        try:
            answer = self.ask_api(f"/v1/runs/{self._variables['OPCOD_RUN']}", self.keys.strongest)
        except (httpx2.TransportError, AssertionError):
            return None
        return RunState.model_validate_json(answer.content) if answer.status_code == 200 else None

    def until_step(self, step: int) -> None:
        """Until both students have done that many."""

        def reached() -> bool:
            state = self.run_state()
            return state is not None and min(state.steps.values(), default=0) >= step

        wait_until(reached, f"step {step} of both students", deadline_s=DONE_S, pause_s=1)

    def assert_stopped_whole(self) -> None:
        """Stopped in the middle of the run, each student has every step that the broker knew of, applied once."""
        state = self.run_state()
        assert state is not None, "the broker does not answer"
        self.compose("stop")
        for student, steps in state.steps.items():
            done = len(list((self.run_dir() / "weights" / student).iterdir()))
            assert done >= steps
            assert_applied_once(self.run_dir(), student, done)

    def until_done(self) -> RunState:
        deadline = time.monotonic() + DONE_S
        while (state := self.run_state()) is None or state.status is not Status.DONE:
            assert state is None or (state.paused is None and state.failed is None), state
            assert time.monotonic() < deadline, f"not done within {DONE_S:.0f} s: {state}"
            time.sleep(1)
        return state


def _event(told: dict[str, Any]) -> Event:
    attributes = told["Actor"]["Attributes"]
    code = attributes.get("exitCode")
    service = attributes["com.docker.compose.service"]
    return Event(told["timeNano"] / 1e9, service, told["Action"], None if code is None else int(code))
