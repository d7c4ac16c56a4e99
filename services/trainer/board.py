"""What a trainer says of itself: on /readyz, and in its heartbeat."""

from dataclasses import dataclass
from pathlib import Path

from shared.clock import Clock
from shared.contracts.heartbeats import Heartbeat
from shared.presence import own_url

READY_STATES = ("ready", "training")


@dataclass
class Board:
    """Written by the trainer's thread, read by others. `version` is what the last applied step made."""

    state: str = "starting"
    version: str | None = None
    rendering: str | None = None

    def problem(self) -> str | None:
        """Why it is not ready, or None."""
        return None if self.state in READY_STATES else self.state


def trainer_heartbeat(board: Board, clock: Clock, *, student: str, replica: str, url_file: Path | None) -> Heartbeat:
    return Heartbeat(
        service=f"trainer-{student}",
        replica=replica,
        state=board.state,
        url=own_url(url_file),
        version=board.version,
        rendering=board.rendering,
        at=clock.wall_s(),
    )
