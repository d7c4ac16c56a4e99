"""The service processes of a run on one of its nodes: what each is told, started and awaited, watched and stopped."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from opcod.local.deployment import Mode
from opcod.local.gpus import share_out, visible
from opcod.local.names import ServiceName
from opcod.local.nodes import placement
from opcod.local.processes import Launch, ProcessSpec, Supervisor, launch, log_tail
from shared.config.machine import cores_here
from shared.config.settings import Paths, RunSettings
from shared.contracts.models import model_file, prepared_model
from shared.errors import StoppedError, UnavailableError
from shared.gpus import VISIBLE, gpus_here
from shared.http.client import not_ready

# Five seconds on a quiet machine, most of them for importing torch; minutes where several import it on few cores.
READY_TIMEOUT_S = 300.0
# Of a shared volume on a bad day. A model is read whole more than once before a service is ready.
SLOW_READ_BYTES_S = 20e6
POLL_S = 0.2
PROBE_TIMEOUT_S = 5.0

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Told:
    """What all services of a node are told. host: where students and trainers listen, None for `serving.host`.
    groups: variables of trainers whose ranks are on several nodes, by service."""

    redis_url: str
    password_file: Path | None
    key_file: Path
    host: str | None = None
    groups: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


class NodeServices:
    """The services of node `node`. `watch` must be called every second once one is started."""

    def __init__(
        self,
        paths: Paths,
        settings: RunSettings,
        mode: Mode,
        node: int = 0,
        stopped: Callable[[], bool] = lambda: False,
        start_process: Launch = launch,
    ) -> None:
        self.supervisor = Supervisor(start_process=start_process)
        self.gpus = share_out(settings, gpus_here(), node, trainers=mode == "run")
        self.restarts: dict[str, int] = {}
        self._paths = paths
        self._settings = settings
        self._mode = mode
        self._node = node
        self._stopped = stopped
        self._places = placement(settings)

    def is_here(self, name: str) -> bool:
        """Whether that service, or a part of its ranks, is on this node."""
        return self._node in self._places.get(name, (0,))

    def shows_here(self, name: str) -> bool:
        """Of ranks on several nodes those on the first answer for all."""
        return self._places.get(name, (0,))[0] == self._node

    def bring_up(self, names: Sequence[str], told: Told, progress: Progress) -> dict[str, str]:
        """Start those that are here, and wait for all that show themselves; their URLs.

        Raises UnavailableError when one is not ready in time, naming it; StoppedError if asked to.
        """
        for name in names:
            if self.shows_here(name):
                self._url_file(name).unlink(missing_ok=True)
            if self.is_here(name):
                self.supervisor.start(self._spec(name, told))
        # All of them are started by now: they import and load side by side, and are only waited for in turn.
        return {name: self._wait_ready(name, progress) for name in names if self._node == 0 or self.shows_here(name)}

    def watch(self) -> list[str]:
        """Start again what ended; returns the names. Raises ProcessFailedError if something does not stay up."""
        restarted = self.supervisor.check()
        for name in restarted:
            self.restarts[name] = self.restarts.get(name, 0) + 1
        return restarted

    def forget_urls(self, names: Sequence[str]) -> None:
        """Of a life before: nobody is to be asked there."""
        for name in names:
            self._url_file(name).unlink(missing_ok=True)

    def wait(self, name: str, problem: Callable[[], str | None], timeout_s: float = READY_TIMEOUT_S) -> None:
        """Until `problem` is None; what ends meanwhile is started again. The time is that without another reason: a
        trainer that makes steps again says which, and each may take long. Raises as `bring_up`."""
        deadline, before = time.monotonic() + timeout_s, None
        while (reason := problem()) is not None:
            if self._stopped():
                raise StoppedError(f"stopped while waiting for {name}")
            if reason != before:
                deadline, before = time.monotonic() + timeout_s, reason
            if time.monotonic() > deadline:
                log_file = self._paths.run_dir / "logs" / f"{name}.log"
                log = f"; its log ({log_file}) ends:\n{log_tail(log_file)}" if log_file.exists() else ""
                raise UnavailableError(f"waited {timeout_s:.0f} s for {name}: {reason}{log}")
            self.watch()
            if name in self.supervisor.given_up:
                raise self.supervisor.given_up[name]
            time.sleep(POLL_S)

    def _wait_ready(self, name: str, progress: Progress) -> str:
        """The service's URL, once /readyz answers 200."""
        progress(name)
        file = self._url_file(name)
        self.wait(name, lambda: _probe(file), ready_timeout_s(self._paths.run_dir, self._settings, name))
        return file.read_text(encoding="utf-8")

    def _spec(self, name: str, told: Told) -> ProcessSpec:
        service, student, replica = ServiceName.of(name)
        # By what it is given and not by what is here: a service without GPUs computes on the CPU of a machine that has
        # some.
        device = "cuda" if self.gpus.get(name) else "cpu"
        environment = {
            "OPCOD_RUN": self._paths.run,
            "OPCOD_RUN_DIR": str(self._paths.run_dir),
            "OPCOD_CACHE_DIR": str(self._paths.cache_dir),
            "OPCOD_REDIS_URL": told.redis_url,
            "OPCOD_REDIS_PASSWORD_FILE": str(told.password_file or ""),  # not that of another, from our environment
            "OPCOD_KEY_FILE": str(told.key_file),
            "OPCOD_HOST": self._settings.serving.host if told.host is None or not student else told.host,
            "OPCOD_PORT": str(self._port(service, student, replica)),
            "OPCOD_URL_FILE": str(self._url_file(name)),
            "OPCOD_TRAIN": "true" if self._mode == "run" else "false",
            "OMP_NUM_THREADS": str(self._settings.threads_on(device, cores_here())),
            "TOKENIZERS_PARALLELISM": "false",
            # Ours are those of the run.
            "OPCOD_REPLICA": str(replica),
            **dict.fromkeys(("OPCOD_NODES", "OPCOD_NODE_RANK", "OPCOD_RENDEZVOUS"), ""),
            **told.groups.get(name, {}),
        }
        if student:
            environment["OPCOD_STUDENT"] = student
        if name in self.gpus:
            environment[VISIBLE] = visible(self.gpus[name])
        log_file = self._paths.run_dir / "logs" / (name if self.shows_here(name) else f"{name}-node-{self._node}")
        log_file = log_file.with_name(f"{log_file.name}.log")
        return ProcessSpec(name, f"services.{service}", log_file, environment, needed=service != "inspector")

    def _port(self, service: str, student: str, replica: int) -> int:
        match service:
            case "broker":
                return self._settings.serving.broker_port
            case "inspector":
                return self._settings.serving.inspector_port
            case "student":
                first = self._settings.students[student].port
                return first + replica if first else 0
        return 0

    def _url_file(self, name: str) -> Path:
        return self._paths.run_dir / "logs" / f"{name}.url"


def ready_timeout_s(run_dir: Path, settings: RunSettings, name: str) -> float:
    """Who loads a model has time to read it from a slow disk besides, a student that of its vLLM server, too."""
    service, student, _ = ServiceName.of(name)
    if not student or not model_file(run_dir, student).exists():
        return READY_TIMEOUT_S
    weights = prepared_model(run_dir, student).path.glob("*.safetensors")
    reading_s = sum(file.stat().st_size for file in weights) / SLOW_READ_BYTES_S
    slow = service == "student" and settings.students[student].engine == "vllm"
    return READY_TIMEOUT_S + reading_s + (settings.students[student].vllm.start_timeout_s if slow else 0.0)


def _probe(url_file: Path) -> str | None:
    """Why the service that writes this file is not ready, or None."""
    if not url_file.exists():
        return "it has not begun to listen"
    return not_ready(url_file.read_text(encoding="utf-8"), PROBE_TIMEOUT_S)
