"""Where a service finds its run: the few things that differ between a laptop, compose and a cluster.

Everything else is in the run's own `config.toml`, the same for all services.
"""

from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.config.loading import read_toml, validate
from shared.config.settings import RunSettings
from shared.errors import ConfigError

RUN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class ServiceEnvironment(BaseSettings):
    """Read from OPCOD_* variables.

    key_file: the bearer key that callers must send; without one the service only binds to loopback.
    replica: stable across restarts; it names this process's consumer on the queues.
    """

    model_config = SettingsConfigDict(env_prefix="OPCOD_", extra="ignore")

    run: str = Field(pattern=RUN_NAME)
    run_dir: Path
    cache_dir: Path
    redis_url: str
    key_file: Path | None = None
    student: str | None = None
    replica: str = "0"
    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)
    url_file: Path | None = Field(default=None, description="The service writes its own URL there once it listens.")
    log_json: bool = True
    train: bool = Field(default=True, description="Off: serve the latest weights, do not go on with the run.")

    def settings(self) -> RunSettings:
        """The run's settings from its config.toml. Raises ConfigError."""
        return validate(read_toml(self.run_dir / "config.toml"))

    def key(self) -> str | None:
        """Raises ConfigError if the key file is named but cannot be read, or is empty."""
        if self.key_file is None:
            return None
        try:
            key = self.key_file.read_text().strip()
        except OSError as error:
            raise ConfigError(f"cannot read the key file {self.key_file}: {error}") from error
        if not key:
            raise ConfigError(f"expected a bearer key in {self.key_file}, found an empty file")
        return key


def service_environment() -> ServiceEnvironment:
    """Raises ConfigError naming each missing or wrong variable."""
    try:
        return ServiceEnvironment()
    except ValidationError as error:
        wrong = [f"OPCOD_{str(item['loc'][0]).upper()}: {item['msg']}" for item in error.errors()]
        raise ConfigError("this service is started with OPCOD_* variables; " + "; ".join(wrong)) from error
