"""What the inspector takes of the run's settings and its environment, checked."""

from dataclasses import dataclass
from pathlib import Path

from shared.config.environment import ServiceEnvironment
from shared.config.settings import RunSettings
from shared.http.access import AccessKeys, Limits
from shared.http.app import check_binding

MAX_VIEWERS = 64
MAX_BUS_DEADLINE_S = 2.0
STORE = Path("inspector") / "log.sqlite3"


@dataclass(frozen=True)
class InspectorConfig:
    """bus_deadline_s: shorter than other services', as ingest asks again by itself and readiness must tell soon.
    silent_s: how long one turn of ingest may take before it counts as stuck. public_url: what login links begin with,
    None where a browser reaches it as services do."""

    run: str
    run_dir: Path
    replica: str
    redis_url: str
    bus_deadline_s: float
    heartbeat_s: float
    host: str
    port: int
    url_file: Path | None
    advertised_url: str | None
    keys: AccessKeys | None
    limits: Limits
    settings: RunSettings
    max_viewers: int = MAX_VIEWERS
    public_url: str | None = None

    @property
    def store_path(self) -> Path:
        return self.run_dir / STORE

    @property
    def silent_s(self) -> float:
        return 4 * self.bus_deadline_s + 10.0


def inspector_config(environment: ServiceEnvironment) -> InspectorConfig:
    """Raises ConfigError, also when it would listen beyond loopback without keys."""
    settings, keys = environment.settings(), environment.keys()
    check_binding(environment.host, keys)
    return InspectorConfig(
        run=environment.run,
        run_dir=environment.run_dir,
        replica=environment.replica,
        redis_url=environment.bus_url(),
        bus_deadline_s=min(settings.bus.deadline_s, MAX_BUS_DEADLINE_S),
        heartbeat_s=settings.bus.heartbeat_s,
        host=environment.host,
        port=environment.port or settings.serving.inspector_port,
        url_file=environment.url_file,
        advertised_url=environment.advertised_url,
        public_url=environment.public_url,
        keys=keys,
        limits=settings.serving.limits,
        settings=settings,
    )
