"""What the inspector says of itself in its heartbeat."""

from services.inspector.config import InspectorConfig
from services.inspector.ingest import Ingest
from shared.clock import Clock
from shared.contracts.heartbeats import Heartbeat
from shared.obs.presence import own_url


def inspector_heartbeat(config: InspectorConfig, ingest: Ingest, clock: Clock) -> Heartbeat:
    return Heartbeat(
        service="inspector",
        replica=config.replica,
        state="ready" if ingest.problem() is None else "starting",
        url=own_url(config.advertised_url, config.url_file),
        at=clock.wall_s(),
    )
