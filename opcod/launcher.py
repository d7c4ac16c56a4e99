"""All services of one run on this machine: started in order, watched, stopped."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import httpx2

from opcod.deployment import Deployment, Endpoint, ensure_key, read_deployment
from opcod.embedded_redis import EmbeddedRedis, end_leftover
from opcod.processes import ProcessSpec, Supervisor, log_tail
from shared.bus.redis import RedisBus
from shared.config.settings import Paths, RunSettings
from shared.errors import UnavailableError

READY_TIMEOUT_S = 300.0
POLL_S = 0.2

Mode = Literal["run", "up"]
Progress = Callable[[str], None]


class Launcher:
    """`start` brings everything up and waits until it is ready; `watch` must then be called every second."""

    def __init__(self, paths: Paths, settings: RunSettings, mode: Mode) -> None:
        self._paths = paths
        self._settings = settings
        self._mode = mode
        self._supervisor = Supervisor()
        self._redis: EmbeddedRedis | None = None
        self.restarts: dict[str, int] = {}
        self.deployment: Deployment | None = None

    # Up and down ---------------------------------------------------------------------------------------
    def start(self, progress: Progress) -> Deployment:
        """Raises UnavailableError when Redis or a service is not ready in time, naming it."""
        progress("redis")
        redis_url = self._start_redis()
        key_file = ensure_key(self._paths.run_dir)
        urls: dict[str, str] = {}
        # The broker comes last: a run begins when everyone who works for it is there.
        for names in (self._workers(), ["broker"]):
            for name in names:
                self._url_file(name).unlink(missing_ok=True)
                self._supervisor.start(self._spec(name, redis_url, key_file))
            urls |= {name: self._wait_ready(name, progress) for name in names}
        self.deployment = Deployment(
            run=self._paths.run,
            run_dir=self._paths.run_dir,
            mode=self._mode,
            pid=os.getpid(),
            redis_url=redis_url,
            broker=Endpoint(name="broker", url=urls["broker"]),
            inspector=Endpoint(name="inspector", url=urls["inspector"]),
            students=[Endpoint(name=s, url=urls[f"student-{s}"]) for s in sorted(self._settings.students)],
        )
        self.deployment.save()
        return self.deployment

    def watch(self) -> list[str]:
        """Start again what ended; returns the names. Raises ProcessFailedError if something does not stay up."""
        restarted = self._supervisor.check()
        if self._redis is not None and self._redis.check():
            restarted.append("redis")
        for name in restarted:
            self.restarts[name] = self.restarts.get(name, 0) + 1
        return restarted

    def stop(self) -> None:
        self._supervisor.stop()
        if self._redis is not None:
            self._redis.stop()

    def pids(self) -> dict[str, int]:
        return self._supervisor.pids()

    # Parts ---------------------------------------------------------------------------------------------
    def _start_redis(self) -> str:
        if self._settings.bus.url is not None:
            bus = RedisBus(self._settings.bus.url, self._paths.run, deadline_s=self._settings.bus.deadline_s)
            bus.ping()
            bus.close()
            return self._settings.bus.url
        before = read_deployment(self._paths.run_dir)
        if before is not None:
            end_leftover(before.redis_url)
        self._redis = EmbeddedRedis(self._paths.run_dir / "redis")
        self._redis.start()
        return self._redis.url

    def _workers(self) -> list[str]:
        students = sorted(self._settings.students)
        trainers = [f"trainer-{s}" for s in students] if self._mode == "run" else []
        return ["inspector", *(f"student-{s}" for s in students), *trainers]

    def _spec(self, name: str, redis_url: str, key_file: Path) -> ProcessSpec:
        service, _, student = name.partition("-")
        threads = str(self._settings.resources.threads)
        environment = {
            "OPCOD_RUN": self._paths.run,
            "OPCOD_RUN_DIR": str(self._paths.run_dir),
            "OPCOD_CACHE_DIR": str(self._paths.cache_dir),
            "OPCOD_REDIS_URL": redis_url,
            "OPCOD_KEY_FILE": str(key_file),
            "OPCOD_HOST": self._settings.serving.host,
            "OPCOD_PORT": str(self._port(service, student)),
            "OPCOD_URL_FILE": str(self._url_file(name)),
            "OPCOD_TRAIN": "true" if self._mode == "run" else "false",
            "OMP_NUM_THREADS": threads,
            "TOKENIZERS_PARALLELISM": "false",
        }
        if student:
            environment["OPCOD_STUDENT"] = student
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
        deadline = time.monotonic() + READY_TIMEOUT_S
        reason = "it has not begun to listen"
        while time.monotonic() < deadline:
            self._supervisor.check()
            url, reason = self._probe(name, reason)
            if url is not None:
                return url
            time.sleep(POLL_S)
        log_file = self._paths.run_dir / "logs" / f"{name}.log"
        raise UnavailableError(
            f"{name} was not ready within {READY_TIMEOUT_S:.0f} s: {reason}; "
            f"its log ({log_file}) ends:\n{log_tail(log_file)}"
        )

    def _probe(self, name: str, reason: str) -> tuple[str | None, str]:
        file = self._url_file(name)
        if not file.exists():
            return None, reason
        url = file.read_text()
        try:
            response = httpx2.get(f"{url}/readyz", timeout=5, trust_env=False)
        except httpx2.HTTPError as error:
            return None, repr(error)
        return (url, "") if response.status_code == 200 else (None, response.text)
