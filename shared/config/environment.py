"""Where a service finds its run: the few things that differ between a laptop, compose and a cluster.

Everything else is in the run's own `config.toml`, the same for all services.
"""

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.bus.redis_url import with_password
from shared.config.loading import settings_of
from shared.config.settings import RunSettings
from shared.errors import ConfigError
from shared.http.access import AccessKeys, read_keys

RUN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class ServiceEnvironment(BaseSettings):
    """Read from OPCOD_* variables.

    key_file: the bearer keys that callers must send one of; without it the service only binds to loopback.
    redis_password_file: added to `redis_url`, so that no password stands in an environment.
    replica: stable across restarts; it names this process's consumer on the queues.
    """

    # Empty counts as absent: that is how a compose file passes on a variable that nobody has set.
    model_config = SettingsConfigDict(env_prefix="OPCOD_", extra="ignore", env_ignore_empty=True)

    run: str = Field(pattern=RUN_NAME)
    run_dir: Path
    cache_dir: Path
    redis_url: str
    redis_password_file: Path | None = None
    key_file: Path | None = None
    student: str | None = None
    replica: str = "0"
    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)
    url_file: Path | None = Field(default=None, description="The service writes its own URL there once it listens.")
    advertised_url: str | None = Field(default=None, description="Where others reach this service.")
    public_url: str | None = Field(default=None, description="Where a person's browser reaches this service.")
    log_json: bool = True
    train: bool = Field(
        default=True,
        description="Off: serve the latest weights, do not go on with the run; `opcod prepare` then asks for no disk.",
    )
    nodes: int = Field(default=1, ge=1, description="That this trainer's ranks are on, equally many on each.")
    node_rank: int = Field(default=0, ge=0, description="Which of them this one is, from 0.")
    rendezvous: str | None = Field(default=None, description="host:port of the first of several nodes.")

    def settings(self) -> RunSettings:
        """The run's settings from its config.toml. Raises ConfigError."""
        return settings_of(self.run_dir)

    def keys(self) -> AccessKeys | None:
        """Raises ConfigError if the key file is named but cannot be read, or holds no key."""
        return None if self.key_file is None else read_keys(self.key_file)

    def student_in(self, settings: RunSettings) -> str:
        """The student that this process is for. Raises ConfigError if the run has no such one."""
        if self.student not in settings.students:
            raise ConfigError(f"OPCOD_STUDENT: expected one of {', '.join(settings.students)}, got {self.student!r}")
        return self.student

    def bus_url(self) -> str:
        """`redis_url` with the password of the file. Raises ConfigError if that cannot be read or is empty."""
        if self.redis_password_file is None:
            return self.redis_url
        return with_password(self.redis_url, self.redis_password_file)


@dataclass(frozen=True)
class ServiceConfig:
    """What a process is told; each service adds what it derives of it."""

    environment: ServiceEnvironment
    settings: RunSettings
    keys: AccessKeys | None


def service_environment() -> ServiceEnvironment:
    """Raises ConfigError naming each missing or wrong variable."""
    try:
        return ServiceEnvironment()
    except ValidationError as error:
        wrong = [f"OPCOD_{str(item['loc'][0]).upper()}: {item['msg']}" for item in error.errors()]
        raise ConfigError("this service is started with OPCOD_* variables; " + "; ".join(wrong)) from error
