"""Following a run from its launcher: restarts, progress, and when it stands."""

import contextlib
import time
from collections.abc import Callable

from opcod.local.launcher import Launcher
from opcod.local.progress import RunProgress
from shared.bus.redis import RedisBus
from shared.contracts.run import RunState, Status
from shared.errors import UnavailableError

POLL_S = 1.0
EVENTS_AT_ONCE = 500


class Follower:
    """Polls the run's Redis once a second; reads state and events, writes nothing."""

    def __init__(self, launcher: Launcher, bus: RedisBus, progress: RunProgress, *, after: str) -> None:
        self._launcher = launcher
        self._bus = bus
        self._progress = progress
        self._cursor = after
        self.state: RunState | None = None

    def until(self, stopped: Callable[[], bool]) -> RunState | None:
        """Until the run is DONE, FAILED or paused, or `stopped`; returns its last state.

        Raises ProcessFailedError when a service does not stay up.
        """
        while not stopped():
            for name in self._launcher.watch():
                self._progress.say(f"{name} ended and was started again")
            with contextlib.suppress(UnavailableError):  # the launcher starts Redis again; the services wait for it
                self._look()
            if self.state is not None and _stands(self.state):
                break
            time.sleep(POLL_S)
        return self.state

    def _look(self) -> None:
        text = self._bus.load_state()
        if text is not None:
            self.state = RunState.model_validate_json(text)
            self._progress.update(self.state, self._bus.heartbeats())
        found = self._bus.read_events(self._cursor, count=EVENTS_AT_ONCE, block_s=0)
        if found:
            self._cursor = found[-1][0]
            self._progress.events([event for _, event in found])


def _stands(state: RunState) -> bool:
    return state.paused is not None or state.status in (Status.DONE, Status.FAILED)
