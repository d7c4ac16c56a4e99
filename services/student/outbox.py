"""What this student has to tell the bus and could not yet: finished jobs must survive an outage of Redis.

What always holds: actions run in the order in which they were put, each until it succeeded once.
"""

from collections import deque
from collections.abc import Callable

Action = Callable[[], None]


class Outbox:
    """Used by the engine's thread alone. Actions must be safe to run twice: an answer may be lost after the effect."""

    def __init__(self) -> None:
        self._actions: deque[Action] = deque()

    def __len__(self) -> int:
        return len(self._actions)

    def put(self, action: Action) -> None:
        self._actions.append(action)

    def flush(self) -> None:
        """Run what waits. Raises UnavailableError where the bus does not answer; that action and the rest stay."""
        while self._actions:
            self._actions[0]()
            self._actions.popleft()
