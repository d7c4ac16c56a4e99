"""When an engine sleeps that shares its GPU, and when it is awake.

What always holds: it is awake only in its turn, and asleep before the turn is given back; it asks for one only while
there is something to do; and it keeps one from others no longer than MOST_S and what is then under way.
"""

from collections.abc import Callable

from services.student.engines.port import Sleeper
from shared.bus.turns import CardTurn
from shared.clock import Clock

LINGER_S = 1.0
"""Awake with nothing to do: the broker may be about to send the next jobs, and each turn costs seconds."""

MOST_S = 120.0
"""Of a turn, where others wait. Many times what it costs to change, and little beside a step."""


class Rest:
    """Used by the engine's thread alone. The engine is awake, in its turn, as this begins."""

    def __init__(self, engine: Sleeper, turn: CardTurn, clock: Clock, alive: Callable[[], None]) -> None:
        """alive: called before what may take minutes."""
        self._engine = engine
        self._alive = alive
        self._turn = turn
        self._clock = clock
        self._awake = True
        self._busy_s = clock.monotonic_s()

    @property
    def awake(self) -> bool:
        """The engine may be asked."""
        return self._awake

    def over(self) -> bool:
        """Nothing more is to be begun in this turn: it was lost, or others have waited for long enough."""
        if not self._awake or self._turn.lost:
            return True
        return self._clock.monotonic_s() - self._turn.since_s >= MOST_S and self._turn.wanted()

    def settle(self, *, wanted: bool, busy: bool) -> None:
        """Sleep, or wake, if it is time to. wanted: there is something to do; busy: something is under way.

        Raises UnavailableError, and EngineAwayError where the engine is lost.
        """
        now_s = self._clock.monotonic_s()
        if not self._awake:
            if wanted and self._turn.ask():
                # Also where that fails: it is begun anew, for which it needs its turn.
                self._awake, self._busy_s = True, now_s
                self._alive()
                self._engine.wake()
            return
        if wanted or busy:
            self._busy_s = now_s
        idle = now_s - self._busy_s >= LINGER_S
        if not busy and (idle or self.over()):
            self._sleep()

    def leave_lost(self, *, busy: bool) -> None:
        """Sleep if the turn was lost and nothing is under way. Asks the bus for nothing, so that it can be called while
        that is away; somebody else may have the card. Raises EngineAwayError where the engine is lost."""
        if self._awake and self._turn.lost and not busy:
            self._sleep()

    def _sleep(self) -> None:
        self._alive()
        self._engine.sleep()
        self._awake = False
        self._turn.give_back()
