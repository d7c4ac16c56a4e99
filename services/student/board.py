"""What the other threads may know of the engine's thread, and the heartbeat that is made of it.

What always holds: the engine's thread writes; everyone else reads whole immutable values, so nobody ever sees half of a
swap.
"""

import threading
from dataclasses import dataclass, field, replace

from services.student.config import StudentConfig
from shared.clock import Clock
from shared.contracts.heartbeats import Heartbeat
from shared.obs.presence import own_url

IDLE_BOUND_S = 60.0
"""Longest that a turn of the loop without generation may take; the bus gives up on a call long before."""

ANSWER_SILENCE_S = 600.0
"""Longest that an answer to a person may bring nothing new: a long prompt on a CPU is read within it."""


@dataclass(frozen=True)
class Serving:
    """live: the version that answers to the student's name; None until it is loaded. versions: checksums of all; since:
    when each of them was loaded, seconds since the epoch."""

    live: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    problem: str | None = "the engine is starting"
    since: dict[str, float] = field(default_factory=dict)


class Board:
    """Thread-safe without a lock: every field is replaced as a whole."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._expected_s = clock.monotonic_s() + IDLE_BOUND_S
        self.serving = Serving()
        self.free_slots: int | None = None
        self.bus_problem: str | None = None
        self.engine_problem: str | None = None
        self.draining = False
        self.guides = False
        """Whether the engine can keep to a JSON schema."""
        self.rendering: str | None = None
        self.context: int | None = None
        """Tokens of a prompt and its answer together, at most."""

    def beat(self, allowance_s: float = 0.0) -> None:
        """The loop is alive, and beats again within `allowance_s` plus the bound of an idle turn."""
        self._expected_s = self._clock.monotonic_s() + allowance_s + IDLE_BOUND_S

    def beat_of_answer(self) -> None:
        """More of an answer to a person is there: however long it becomes, its end need not be waited for."""
        self.beat(ANSWER_SILENCE_S)

    def show(self, serving: Serving) -> None:
        self.serving = replace(serving, versions=dict(serving.versions), since=dict(serving.since))

    def not_ready(self) -> str | None:
        """Why requests should go elsewhere, or None."""
        # A process on its way out first, or a slow last batch would read as a fault.
        late_s = self._clock.monotonic_s() - self._expected_s
        if self.draining:
            return "draining"
        if late_s > 0:
            return f"the engine's loop is stuck: expected a sign of life {late_s:.0f} s ago"
        # A stuck loop before everything else that it would have to tell: what it said last is out of date.
        if self.serving.live is None:
            return self.serving.problem or "no version is loaded yet"
        return self.engine_problem or self.bus_problem

    @property
    def state(self) -> str:
        """One word for the heartbeat."""
        if self.draining:
            return "draining"
        if self.serving.live is None:
            return "starting"
        return "ready" if self.not_ready() is None else "degraded"


def student_heartbeat(config: StudentConfig, board: Board, clock: Clock, stopping: threading.Event) -> Heartbeat:
    """Where this student answers, what it serves and how it is. From `stopping` on it drains: nobody should ask it."""
    serving = board.serving
    return Heartbeat(
        service=f"student-{config.student}",
        replica=config.environment.replica,
        state="draining" if stopping.is_set() else board.state,
        url=own_url(config.environment.advertised_url, config.environment.url_file),
        version=serving.live,
        versions=serving.versions,
        served_since=serving.since,
        free_slots=board.free_slots,
        rendering=board.rendering,
        at=clock.wall_s(),
    )
