"""All services of one run on this machine, and what those on other nodes need: started in order, watched, stopped."""

import os
import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import redis

from opcod.local.deployment import (
    DEPLOYMENT_FILE,
    Deployment,
    Endpoint,
    Mode,
    ensure_key,
    ensure_secret,
    new_password,
    read_deployment,
    services_of,
)
from opcod.local.embedded_redis import end_leftover
from opcod.local.gpus import starts
from opcod.local.nodes import (
    JOIN_TIMEOUT_S,
    MEETING_FILE,
    Meeting,
    absent,
    groups_of,
    on_one_node,
    own_address,
    read_address,
    rendezvous_of,
)
from opcod.local.processes import GRACE_S, Launch, ProcessSpec, launch
from opcod.local.services import PROBE_TIMEOUT_S, NodeServices, Progress, Told
from shared.bus.redis import RedisBus
from shared.bus.redis_link import one_try
from shared.bus.redis_url import with_password
from shared.config.settings import Paths, RunSettings
from shared.files.text import expanded

REDIS = "redis"
PASSWORD_FILE = "redis-password"
POLL_S = 0.2

LEAVE_S = 10.0
"""That the other nodes have to end their services, beyond the grace that each of these has."""


class Launcher:
    """`start` brings everything up and waits until it is ready; `watch` must then be called every second."""

    def __init__(
        self,
        paths: Paths,
        settings: RunSettings,
        mode: Mode,
        stopped: Callable[[], bool] = lambda: False,
        start_process: Launch = launch,
        rendezvous: str | None = None,
    ) -> None:
        """rendezvous: `host` or `host:port` at which other nodes reach this one, of a run on several. Raises
        ConfigError."""
        self._paths = paths
        # Serving a run is one machine's.
        self._settings = settings if mode == "run" else on_one_node(settings)
        self._mode = mode
        self._meet = self._meeting_point(rendezvous)
        self._services = NodeServices(paths, self._settings, mode, 0, stopped, start_process)
        self._redis_port: int | None = None
        self._meeting: Meeting | None = None
        self.gpus = self._services.gpus
        self.deployment: Deployment | None = None
        self.events_before = "0"
        """Id of the newest event that was there before the services: what comes later is news."""

    @property
    def restarts(self) -> dict[str, int]:
        return self._services.restarts

    # Up and down ---------------------------------------------------------------------------------------
    def start(self, progress: Progress) -> Deployment:
        """Raises UnavailableError when Redis or a service is not ready in time, naming it; StoppedError if asked to."""
        self._end_last_start()
        progress("redis")
        redis_url = self._start_redis()
        self.events_before = self._newest_event(redis_url)
        key_file = ensure_key(self._paths.run_dir)
        told = self._gathered(Told(redis_url, self._password_file(), key_file), progress)
        urls: dict[str, str] = {}
        # The broker comes last: a run begins when everyone who works for it is there.
        for names in (*starts(self._settings, self.gpus, self._workers()), ["broker"]):
            urls |= self._services.bring_up(names, told, progress)
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
        return self._services.watch()

    def stop(self) -> None:
        """The services first, all at once, on all nodes; Redis when none of them needs it any more."""
        (self._paths.run_dir / MEETING_FILE).unlink(missing_ok=True)
        supervisor = self._services.supervisor
        supervisor.stop([name for name in supervisor.pids() if name != REDIS])
        # Of one that died without a word the address stays.
        deadline = time.monotonic() + GRACE_S + LEAVE_S
        while self._are_others_here() and time.monotonic() < deadline:
            time.sleep(POLL_S)
        supervisor.stop([REDIS])

    def pids(self) -> dict[str, int]:
        return self._services.supervisor.pids()

    # Several nodes -------------------------------------------------------------------------------------
    def _meeting_point(self, rendezvous: str | None) -> tuple[str, int] | None:
        """The address of this node, and the first port of trainers; None where it is the only one."""
        if self._settings.resources.nodes == 1:
            return None
        host, port = rendezvous_of(rendezvous, self._settings)
        return own_address(host), port

    def _gathered(self, told: Told, progress: Progress) -> Told:
        """Once every other node has come; what services are told then."""
        if self._meet is None:
            return told
        run_dir, (address, port) = self._paths.run_dir, self._meet
        self._services.forget_urls(self._workers())
        self._meeting = meeting = Meeting(
            id=uuid.uuid4().hex,
            address=address,
            port=port,
            redis_url=told.redis_url,
            redis_password_file=told.password_file,
            key_file=told.key_file,
        )
        meeting.save(run_dir)
        progress("the other nodes")
        self._services.wait("the other nodes", lambda: absent(run_dir, self._others(), meeting), JOIN_TIMEOUT_S)
        groups = groups_of(self._settings, 0, meeting, run_dir)
        return Told(told.redis_url, told.password_file, told.key_file, address, groups)

    def _are_others_here(self) -> bool:
        run_dir, meeting = self._paths.run_dir, self._meeting
        return meeting is not None and any(read_address(run_dir, node, meeting) for node in self._others())

    def _others(self) -> range:
        return range(1, self._settings.resources.nodes)

    # Parts ---------------------------------------------------------------------------------------------
    def _end_last_start(self) -> None:
        """A Redis that a killed launcher left, and where its services were: nobody is to ask for them there.

        Its meeting stays until ours replaces it: nodes that are still up take none for the end of the run.
        """
        before = read_deployment(self._paths.run_dir)
        if before is not None and before.embedded_redis_port is not None:
            end_leftover(before.embedded_redis_port, self._paths.run_dir / REDIS, before.redis_password_file)
        (self._paths.run_dir / DEPLOYMENT_FILE).unlink(missing_ok=True)
        if self._meet is None:
            (self._paths.run_dir / MEETING_FILE).unlink(missing_ok=True)

    def _start_redis(self) -> str:
        if self._settings.bus.url is not None:
            return self._settings.bus.url
        self._redis_port = _free_port()
        log_file = self._paths.run_dir / "logs" / f"{REDIS}.log"
        arguments = ["--port", str(self._redis_port), "--data-dir", str(self._paths.run_dir / REDIS)]
        host = "127.0.0.1"
        if self._meet is not None:
            host, password = self._meet[0], self._embedded_password()
            ensure_secret(password, new_password)
            arguments += ["--address", host, "--password-file", str(password)]
        self._services.supervisor.start(ProcessSpec(REDIS, "opcod.local.embedded_redis", log_file, arguments=arguments))
        url = f"redis://{host}:{self._redis_port}"
        self._services.wait(REDIS, lambda: silent(url, self._password_file()))
        return url

    def _newest_event(self, redis_url: str) -> str:
        file = self._password_file()
        url = redis_url if file is None else with_password(redis_url, file)
        bus = RedisBus(url, self._paths.run, deadline_s=self._settings.bus.deadline_s)
        try:
            return bus.last_event_id()
        finally:
            bus.close()

    def _embedded_password(self) -> Path:
        return self._paths.run_dir / PASSWORD_FILE

    def _password_file(self) -> Path | None:
        file = self._settings.bus.password_file
        if file is not None:
            return expanded(file).resolve()
        return self._embedded_password() if self._meet is not None and self._settings.bus.url is None else None

    def _workers(self) -> list[str]:
        return [name for name in services_of(self._settings, self._mode) if name != "broker"]


def silent(url: str, password_file: Path | None) -> str | None:
    """Why the Redis at `url` does not answer, or None."""
    # Asked again by us, and sooner than redis-py would.
    client = redis.Redis.from_url(
        url if password_file is None else with_password(url, password_file),
        socket_timeout=PROBE_TIMEOUT_S,
        socket_connect_timeout=PROBE_TIMEOUT_S,
        retry=one_try(),
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
