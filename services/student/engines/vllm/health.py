"""Whether a vLLM server is well, as a pure function of what was seen of it. The clock is the caller's.

HEALTHY answers, and holds what it was given. SUSPECT missed an answer. DEAD ended, or kept silent for too long.
RESTARTING was started and does not answer yet. STALE answers, and holds none of its versions. FAILED was started too
often. The one transition that must not exist: from RESTARTING, or after versions were lost, to HEALTHY without one
having been loaded again; a server that came back with its base weights would answer as if it were the trained one.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

RESTART_WINDOW_S = 3600.0


class Condition(StrEnum):
    HEALTHY = "healthy"
    SUSPECT = "suspect"
    DEAD = "dead"
    RESTARTING = "restarting"
    STALE = "stale"
    FAILED = "failed"


class Seen(StrEnum):
    """ANSWERED, with all versions that it should hold; EMPTY, without one of them; SILENT; ENDED; STARTED by us;
    LOADED a version.
    """

    ANSWERED = "answered"
    EMPTY = "answered without a version that it was given"
    SILENT = "silent"
    ENDED = "ended"
    STARTED = "started"
    LOADED = "loaded"


@dataclass(frozen=True)
class Bounds:
    """hang_s: silence that means dead. start_s: from a start to the first answer. max_restarts: in RESTART_WINDOW_S."""

    hang_s: float
    start_s: float
    max_restarts: int


@dataclass(frozen=True)
class Idleness:
    """From since_s to until_s a server that answered said at each look that no request runs or waits in it."""

    since_s: float
    until_s: float

    def has_lost(self, sent_s: float, bounds: Bounds) -> bool:
        """Whether a request that was sent then, and is not answered yet, is in it no more."""
        return self.until_s - max(self.since_s, sent_s) >= bounds.hang_s


def idle_after(before: Idleness | None, requests: float | None, now_s: float) -> Idleness | None:
    """requests: that the server says it has; None: it does not say, or did not answer."""
    if requests != 0:
        return None
    return Idleness(now_s if before is None else before.since_s, now_s)


@dataclass(frozen=True)
class Health:
    """since_s: when it last answered, or was started. restarts: when, of the last hour."""

    condition: Condition
    since_s: float
    restarts: tuple[float, ...] = ()

    @property
    def answers(self) -> bool:
        """Requests may be sent; STALE takes versions only."""
        return self.condition in (Condition.HEALTHY, Condition.SUSPECT, Condition.STALE)


def after(health: Health, seen: Seen, now_s: float, bounds: Bounds) -> Health:
    """The health once `seen` was seen; DEAD asks for a restart, which is told with STARTED."""
    condition = health.condition
    if condition is Condition.FAILED:
        return health
    if seen is Seen.STARTED:
        return _started(health, now_s, bounds)
    # A dead server that answers after all is not believed: only a start leads on.
    if condition is Condition.DEAD:
        return health
    match seen:
        case Seen.ENDED:
            return replace(health, condition=Condition.DEAD)
        case Seen.SILENT:
            return _silent(health, now_s, bounds)
        case Seen.LOADED:
            # From STALE alone: a load proves nothing about a server that has just missed an answer.
            return replace(health, condition=Condition.HEALTHY) if condition is Condition.STALE else health
        case Seen.EMPTY:
            return replace(health, condition=Condition.STALE, since_s=now_s)
    # ANSWERED. After a restart it answers with its base weights: STALE, until a version was loaded again.
    restarted = condition in (Condition.RESTARTING, Condition.STALE)
    return replace(health, condition=Condition.STALE if restarted else Condition.HEALTHY, since_s=now_s)


def _started(health: Health, now_s: float, bounds: Bounds) -> Health:
    recent = (*(at for at in health.restarts if now_s - at < RESTART_WINDOW_S), now_s)
    if len(recent) > bounds.max_restarts:
        return replace(health, condition=Condition.FAILED, restarts=recent)
    return Health(Condition.RESTARTING, now_s, recent)


def _silent(health: Health, now_s: float, bounds: Bounds) -> Health:
    """Silence while it starts is no fault before the time to start is over; STALE stays STALE."""
    starting = health.condition is Condition.RESTARTING
    if now_s - health.since_s >= (bounds.start_s if starting else bounds.hang_s):
        return replace(health, condition=Condition.DEAD)
    return replace(health, condition=Condition.SUSPECT) if health.condition is Condition.HEALTHY else health
