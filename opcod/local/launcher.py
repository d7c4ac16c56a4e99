"""All services of one run on this machine: started in order, watched, stopped."""

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import redis

from opcod.local.deployment import DEPLOYMENT_FILE, Deployment, Endpoint, Mode, ensure_key, read_deployment, services_of
from opcod.local.embedded_redis import end_leftover
from opcod.local.gpus import share_out, starts, visible
from opcod.local.processes import Launch, ProcessSpec, Supervisor, launch, log_tail
from shared.bus.redis import RedisBus
from shared.bus.redis_link import one_try
from shared.config.machine import cores_here
from shared.config.settings import Paths, RunSettings
from shared.contracts.models import model_file, prepared_model
from shared.errors import StoppedError, UnavailableError
from shared.files.text import expanded
from shared.gpus import VISIBLE, gpus_here
from shared.http.client import not_ready

# Five seconds on a quiet machine, most of them for importing torch; minutes where several import it on few cores.
READY_TIMEOUT_S = 300.0
# Of a shared volume on a bad day. A model is read whole more than once before a service is ready.
SLOW_READ_BYTES_S = 20e6
POLL_S = 0.2
PROBE_TIMEOUT_S = 5.0
REDIS = "redis"

Progress = Callable[[str], None]


class Launcher:
    """`start` brings everything up and waits until it is ready; `watch` must then be called every second."""

    def __init__(
        self,
        paths: Paths,
        settings: RunSettings,
        mode: Mode,
        stopped: Callable[[], bool] = lambda: False,
        start_process: Launch = launch,
    ) -> None:
        self._paths = paths
        self._settings = settings
        self._mode = mode
        self._supervisor = Supervisor(start_process=start_process)
        self._stopped = stopped
        self._redis_port: int | None = None
        self.gpus = share_out(settings, gpus_here())
        self.restarts: dict[str, int] = {}
        self.deployment: Deployment | None = None
        self.events_before = "0"
        """Id of the newest event that was there before the services: what comes later is news."""

    # Up and down ---------------------------------------------------------------------------------------
    def start(self, progress: Progress) -> Deployment:
        """Raises UnavailableError when Redis or a service is not ready in time, naming it; StoppedError if asked to."""
        self._end_last_start()
        progress("redis")
        redis_url = self._start_redis()
        self.events_before = self._newest_event(redis_url)
        key_file = ensure_key(self._paths.run_dir)
        urls: dict[str, str] = {}
        # The broker comes last: a run begins when everyone who works for it is there.
        for names in (*starts(self._settings, self.gpus, self._workers()), ["broker"]):
            for name in names:
                self._url_file(name).unlink(missing_ok=True)
                self._supervisor.start(self._spec(name, redis_url, key_file))
            urls |= {name: self._wait_ready(name, progress) for name in names}
        self.deployment = Deployment(
            run=self._paths.run,
            run_dir=self._paths.run_dir,
            mode=self._mode,
            pid=os.getpid(),
            key_file=key_file,
            redis_url=redis_url,
            redis_password_file=self._password_file(),
            embedded_redis_port=self._redis_port,
            broker=Endpoint(name="broker", url=urls["broker"]),
            inspector=Endpoint(name="inspector", url=urls["inspector"]),
            students=[Endpoint(name=s, url=urls[f"student-{s}"]) for s in sorted(self._settings.students)],
        )
        self.deployment.save()
        return self.deployment

    def watch(self) -> list[str]:
        """Start again what ended; returns the names. Raises ProcessFailedError if something does not stay up."""
        restarted = self._supervisor.check()
        for name in restarted:
            self.restarts[name] = self.restarts.get(name, 0) + 1
        return restarted

    def stop(self) -> None:
        """The services first, all at once; Redis when none of them needs it any more."""
        self._supervisor.stop([name for name in self._supervisor.pids() if name != REDIS])
        self._supervisor.stop([REDIS])

    def pids(self) -> dict[str, int]:
        return self._supervisor.pids()

    # Parts ---------------------------------------------------------------------------------------------
    def _end_last_start(self) -> None:
        """A Redis that a killed launcher left, and where its services were: nobody is to ask for them there."""
        before = read_deployment(self._paths.run_dir)
        if before is not None and before.embedded_redis_port is not None:
            end_leftover(before.embedded_redis_port, self._paths.run_dir / REDIS)
        (self._paths.run_dir / DEPLOYMENT_FILE).unlink(missing_ok=True)

    def _start_redis(self) -> str:
        if self._settings.bus.url is not None:
            return self._settings.bus.url
        self._redis_port = _free_port()
        log_file = self._paths.run_dir / "logs" / f"{REDIS}.log"
        arguments = ("--port", str(self._redis_port), "--data-dir", str(self._paths.run_dir / REDIS))
        self._supervisor.start(ProcessSpec(REDIS, "opcod.local.embedded_redis", log_file, arguments=arguments))
        url = f"redis://127.0.0.1:{self._redis_port}"
        self._wait(REDIS, lambda: _pings(url))
        return url

    def _newest_event(self, redis_url: str) -> str:
        url = self._settings.bus.secret_url() or redis_url
        bus = RedisBus(url, self._paths.run, deadline_s=self._settings.bus.deadline_s)
        try:
            return bus.last_event_id()
        finally:
            bus.close()

    def _password_file(self) -> Path | None:
        file = self._settings.bus.password_file
        return None if file is None else expanded(file).resolve()

    def _workers(self) -> list[str]:
        return [name for name in services_of(self._settings, self._mode) if name != "broker"]

    def _spec(self, name: str, redis_url: str, key_file: Path) -> ProcessSpec:
        service, _, student = name.partition("-")
        device = "cuda" if self.gpus.get(name) else "cpu"
        environment = {
            "OPCOD_RUN": self._paths.run,
            "OPCOD_RUN_DIR": str(self._paths.run_dir),
            "OPCOD_CACHE_DIR": str(self._paths.cache_dir),
            "OPCOD_REDIS_URL": redis_url,
            "OPCOD_REDIS_PASSWORD_FILE": str(self._password_file() or ""),  # not that of another, from our environment
            "OPCOD_KEY_FILE": str(key_file),
            "OPCOD_HOST": self._settings.serving.host,
            "OPCOD_PORT": str(self._port(service, student)),
            "OPCOD_URL_FILE": str(self._url_file(name)),
            "OPCOD_TRAIN": "true" if self._mode == "run" else "false",
            "OMP_NUM_THREADS": str(self._settings.threads_on(device, cores_here())),
            "TOKENIZERS_PARALLELISM": "false",
        }
        if student:
            environment["OPCOD_STUDENT"] = student
        if name in self.gpus:
            environment[VISIBLE] = visible(self.gpus[name])
        log_file = self._paths.run_dir / "logs" / f"{name}.log"
        return ProcessSpec(name, f"services.{service}", log_file, environment)

    def _port(self, service: str, student: str) -> int:
        match service:
            case "broker":
                return self._settings.serving.broker_port
            case "inspector":
                return self._settings.serving.inspector_port
            case "student":
                return self._settings.students[student].port
        return 0

    def _url_file(self, name: str) -> Path:
        return self._paths.run_dir / "logs" / f"{name}.url"

    def _wait_ready(self, name: str, progress: Progress) -> str:
        """The service's URL, once /readyz answers 200."""
        progress(name)
        file = self._url_file(name)
        self._wait(name, lambda: _probe(file), ready_timeout_s(self._paths.run_dir, self._settings, name))
        return file.read_text(encoding="utf-8")

    def _wait(self, name: str, problem: Callable[[], str | None], timeout_s: float = READY_TIMEOUT_S) -> None:
        """Until `problem` is None; what ends meanwhile is started again. The time is that without another reason: a
        trainer that makes steps again says which, and each may take long."""
        deadline, before = time.monotonic() + timeout_s, None
        while (reason := problem()) is not None:
            if self._stopped():
                raise StoppedError(f"stopped while waiting for {name}")
            if reason != before:
                deadline, before = time.monotonic() + timeout_s, reason
            if time.monotonic() > deadline:
                log_file = self._paths.run_dir / "logs" / f"{name}.log"
                raise UnavailableError(
                    f"{name} was not ready within {timeout_s:.0f} s: {reason}; "
                    f"its log ({log_file}) ends:\n{log_tail(log_file)}"
                )
            self.watch()
            time.sleep(POLL_S)


def ready_timeout_s(run_dir: Path, settings: RunSettings, name: str) -> float:
    """Who loads a model has time to read it from a slow disk besides, a student that of its vLLM server, too."""
    service, _, student = name.partition("-")
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


def _pings(url: str) -> str | None:
    # Asked again by us, and sooner than redis-py would.
    client = redis.Redis.from_url(
        url, socket_timeout=PROBE_TIMEOUT_S, socket_connect_timeout=PROBE_TIMEOUT_S, retry=one_try()
    )
    try:
        client.ping()
    except redis.RedisError as error:
        return str(error)
    finally:
        client.close()
    return None


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
