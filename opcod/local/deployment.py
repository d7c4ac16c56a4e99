"""What is up, and where.

On one machine a file in the run's directory says so, and a lock says whether its launcher lives. In containers and in
a cluster there is no launcher: OPCOD_REDIS_URL names the run's Redis, and the services' heartbeats say where they are.
"""

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from opcod.local.names import ServiceName, student_services
from shared.bus.redis import RedisBus
from shared.bus.redis_url import with_password
from shared.config.environment import service_environment
from shared.config.loading import settings_of
from shared.config.settings import RunSettings
from shared.contracts.heartbeats import Heartbeat
from shared.contracts.run import STATE_FILE
from shared.errors import ConfigError, UnavailableError, reason
from shared.files.durable import atomic_write
from shared.http.access import new_keys, read_keys

DEPLOYMENT_FILE = "deployment.json"
KEY_FILE = "key"
LOCK_FILE = "lock"
REDIS_VARIABLE = "OPCOD_REDIS_URL"

Mode = Literal["run", "up"]


class Endpoint(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    url: str


class Deployment(BaseModel):
    """Addresses of a run's services. pid: of their launcher, if they have one."""

    model_config = ConfigDict(extra="forbid")

    run: str
    run_dir: Path
    mode: Mode
    key_file: Path
    redis_url: str
    redis_password_file: Path | None = None
    pid: int | None = None
    embedded_redis_port: int | None = None
    broker: Endpoint | None = None
    inspector: Endpoint | None = None
    students: list[Endpoint] = []

    def key(self) -> str:
        """A bearer key that its services take, of every scope."""
        return read_keys(self.key_file).strongest

    def bus_url(self) -> str:
        """Where its Redis is, with the password; not to be shown. Raises ConfigError if its file cannot be read."""
        return with_password(self.redis_url, self.redis_password_file) if self.redis_password_file else self.redis_url

    def settings(self) -> RunSettings:
        """Those that the run was begun with. Raises ConfigError if its directory is not here."""
        return settings_of(self.run_dir, begins=False)

    def services(self) -> list[str]:
        """Names of all that must be up, also of what has not said where it is."""
        names = services_of(self.settings(), self.mode)
        # How many replicas there are where no launcher has started them is others' to say.
        return names if self.pid is not None else [name for name in names if ServiceName.of(name).replica == 0]

    def save(self) -> None:
        atomic_write(self.run_dir / DEPLOYMENT_FILE, self.model_dump_json(indent=1).encode())


def services_of(settings: RunSettings, mode: Mode) -> list[str]:
    """The broker, and who works for it: trainers only where the run goes on."""
    trainers = [f"trainer-{name}" for name in settings.names] if mode == "run" else []
    return ["broker", "inspector", *student_services(settings), *trainers]


def read_deployment(run_dir: Path) -> Deployment | None:
    """What the run's launcher last said, whether it lives or not."""
    path = run_dir / DEPLOYMENT_FILE
    try:
        return Deployment.model_validate_json(path.read_bytes())
    # Absent, or of another release: either way nothing that is known to be up.
    except (OSError, ValidationError):
        return None


def live_deployment(runs_dir: Path, run: str | None = None) -> Deployment:
    """The deployment that is up: that of `run`, or the one begun last. Raises UnavailableError if none is.

    Where the environment names a Redis it is the deployment on that one, whatever lies in `runs_dir`.
    """
    if is_elsewhere():
        return _announced(run)
    # A file may be left over from a launcher that was killed: only with the lock does it say what is up.
    candidates = [runs_dir / run] if run else sorted(runs_dir.glob("*"), key=_age, reverse=True)
    locked = [run_dir for run_dir in candidates if is_locked(run_dir)]
    for run_dir in locked:
        deployment = read_deployment(run_dir)
        if deployment is not None:
            return deployment
    if locked:
        raise UnavailableError(
            f"run {locked[0].name} is not up yet: a command prepares or starts it; its logs are in {locked[0] / 'logs'}"
        )
    what = f"run {run} is not up" if run else "no run is up"
    raise UnavailableError(f"{what} under {runs_dir}; start one with `opcod run` or `opcod up <run>`")


def is_elsewhere() -> bool:
    """Whether the services run without a launcher of this machine; then nothing is started here for a question."""
    return REDIS_VARIABLE in os.environ


def refuse_elsewhere(what: str) -> None:
    """Before services are started on this machine. Raises ConfigError where they are containers."""
    if is_elsewhere():
        raise ConfigError(
            f"{what} starts services on this machine, and {REDIS_VARIABLE} says that those of this run are containers: "
            "start them with `docker-compose up`, or `kubectl apply` (docs/deploy.md); an interrupted run goes on"
        )


def _announced(run: str | None) -> Deployment:
    """What the services on the Redis of the environment say of themselves."""
    environment = service_environment()
    if run not in (None, environment.run):
        raise UnavailableError(f"run {run} is not up here; OPCOD_RUN says that run {environment.run} is")
    if environment.key_file is None:
        raise ConfigError("OPCOD_KEY_FILE: expected the bearer keys of the services, it is not set")
    bus = RedisBus(environment.bus_url(), environment.run)
    try:
        # Of several replicas the first that is ready is the one that is named.
        beats = sorted(bus.heartbeats(), key=lambda beat: (beat.service, beat.state != "ready", beat.replica))
    finally:
        bus.close()
    found: dict[str, Heartbeat] = {}
    for beat in beats:
        found.setdefault(beat.service, beat)
    if "broker" not in found:
        raise UnavailableError(
            f"no broker of run {environment.run} has said that it is up; look at its log. OPCOD_RUN names the run, and "
            "another one may be up on this Redis: docker-compose takes it from .env or the shell"
        )
    students = [name for name in found if name.startswith("student-")]
    return Deployment(
        run=environment.run,
        run_dir=environment.run_dir,
        mode="run" if environment.train else "up",
        key_file=environment.key_file,
        redis_url=environment.redis_url,
        redis_password_file=environment.redis_password_file,
        broker=_endpoint("broker", found),
        inspector=_endpoint("inspector", found),
        students=[e for name in students if (e := _endpoint(name, found, name.removeprefix("student-"))) is not None],
    )


def _endpoint(service: str, found: dict[str, Heartbeat], name: str | None = None) -> Endpoint | None:
    beat = found.get(service)
    return Endpoint(name=name or service, url=beat.url) if beat is not None and beat.url is not None else None


def require_run(run_dir: Path) -> None:
    """Raises ConfigError where a run was not even begun, naming those that were."""
    if (run_dir / "config.toml").exists():
        return
    known = ", ".join(sorted(path.parent.name for path in run_dir.parent.glob("*/config.toml")))
    there = f"the runs there: {known}" if known else "`opcod run` starts one"
    raise ConfigError(f"expected a run at {run_dir}, found none; {there}")


def latest_run(runs_dir: Path) -> str:
    """The run begun last; a replay is none, it has no state. Raises ConfigError if there is no run."""
    # What has a config.toml only was prepared, and has not begun.
    runs = [path for path in runs_dir.glob("*") if _is_there(path / STATE_FILE)]
    if not runs:
        raise ConfigError(f"expected a run under {runs_dir}, found none; start one with `opcod run`")
    return max(runs, key=_age).name


def ensure_key(run_dir: Path) -> Path:
    """The run's key file, one key a scope, made at the first start, readable by its owner only."""
    return ensure_secret(run_dir / KEY_FILE, new_keys)


def ensure_secret(path: Path, make: Callable[[], str]) -> Path:
    """A file that only its owner can read; what `make` returns is written where there is none."""
    if not path.exists():
        # With its mode from the start: between a write and a chmod others could read it.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(make())
    return path


def new_password() -> str:
    """Of a Redis: nobody types it."""
    return secrets.token_urlsafe(32)


@contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Held by the one launcher of a run. Raises ConfigError if another has it."""
    taken = f"{run_dir.name} is up already in another process; stop that one, or choose another --run"
    with _lock(run_dir / LOCK_FILE, taken):
        yield


@contextmanager
def node_lock(run_dir: Path, node: int) -> Iterator[None]:
    """Held by the one `opcod join` that is this node of a run. Raises ConfigError if another has it."""
    taken = (
        f"node {node} of {run_dir.name} has joined already in another process; stop that one, or give another --node"
    )
    with _lock(run_dir / f"{LOCK_FILE}-node-{node}", taken):
        yield


@contextmanager
def _lock(path: Path, taken: str) -> Iterator[None]:
    try:
        file = path.open("a")
    except OSError as error:
        raise ConfigError(
            f"expected to write {path}: {reason(error)}; who goes on with a run, or serves it, is to own its directory"
        ) from error
    with file:
        try:
            # The kernel lets go of it when the process ends, however it ends; a file with a pid in it would be left
            # over.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(taken) from error
        except OSError as error:
            raise ConfigError(
                f"expected a file system that locks files under {path.parent}: {error}; without a lock two processes "
                "may take one run; choose a --runs-dir on another one, or have it mounted with locks (Lustre: `flock`)"
            ) from error
        yield


def is_locked(run_dir: Path) -> bool:
    """Whether a launcher holds the run's lock. Writes nothing: a finished run may lie where it can only be read."""
    try:
        file = (run_dir / LOCK_FILE).open("rb")
    except OSError:
        return False
    with file:
        try:
            # Trying is the only way to know: flock tells nobody who holds it. Shared, as that needs no writing where a
            # file system has it for the kernel's other locks.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        # Also where no file can be locked: then only the services themselves can tell.
        except OSError:
            return True
    return False


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    # In a directory of another user's.
    except PermissionError:
        return False


def _age(path: Path) -> float:
    config = path / "config.toml"
    return config.stat().st_mtime if _is_there(config) else 0.0
