"""What was made last and may be wanted again, up to a bound.

What always holds: the sum of the weights of what is kept is at most the limit; what was used longest ago goes first.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """Of values that follow from their key alone. weigh: what one takes of the limit. For one thread."""

    def __init__(self, limit: int, weigh: Callable[[Value], int] = lambda _: 1) -> None:
        self._limit = limit
        self._weigh = weigh
        self._kept: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._weight = 0

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of `key`, made if it is not kept. What `make` raises goes through, and nothing is kept."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key][0]
        value = make()
        self._kept[key] = value, self._weigh(value)
        self._weight += self._kept[key][1]
        while self._weight > self._limit:
            _, (_, weight) = self._kept.popitem(last=False)
            self._weight -= weight
        return value
