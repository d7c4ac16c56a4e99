"""What the inspector takes of the run's settings and its environment, checked."""

from dataclasses import dataclass
from pathlib import Path

from shared.config.environment import ServiceConfig, ServiceEnvironment
from shared.http.access import check_binding

MAX_BUS_DEADLINE_S = 2.0
STORE = Path("inspector") / "log.sqlite3"


@dataclass(frozen=True)
class InspectorConfig(ServiceConfig):
    """The inspector as a service."""

    @property
    def port(self) -> int:
        return self.environment.port or self.settings.serving.inspector_port

    @property
    def bus_deadline_s(self) -> float:
        """Shorter than other services', as ingest asks again by itself and readiness must tell soon."""
        return min(self.settings.bus.deadline_s, MAX_BUS_DEADLINE_S)

    @property
    def store_path(self) -> Path:
        return self.environment.run_dir / STORE

    @property
    def silent_s(self) -> float:
        """How long one turn of ingest may take before it counts as stuck."""
        return 4 * self.bus_deadline_s + 10.0


def inspector_config(environment: ServiceEnvironment) -> InspectorConfig:
    """Raises ConfigError, also when it would listen beyond loopback without keys."""
    settings, keys = environment.settings(), environment.keys()
    check_binding(environment.host, keys)
    return InspectorConfig(environment, settings, keys)
