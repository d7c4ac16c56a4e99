"""What this student says of itself in its heartbeat: where it answers, what it serves and how it is."""

import threading

from services.student.board import Board
from services.student.config import StudentConfig
from shared.clock import Clock
from shared.contracts.heartbeats import Heartbeat
from shared.obs.presence import own_url


def student_heartbeat(config: StudentConfig, board: Board, clock: Clock, stopping: threading.Event) -> Heartbeat:
    """From `stopping` on it drains: nobody should send it more."""
    serving = board.serving
    return Heartbeat(
        service=f"student-{config.student}",
        replica=config.replica,
        state="draining" if stopping.is_set() else board.state,
        url=own_url(config.advertised_url, config.url_file),
        version=serving.live,
        versions=serving.versions,
        free_slots=board.free_slots,
        rendering=board.rendering,
        at=clock.wall_s(),
    )
