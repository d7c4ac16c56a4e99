"""How the time of reading a text grows with its length, for tests that hostile texts take no quadratic one."""

import time
from collections.abc import Callable

LINEAR = 9
"""Between the growth of linear time over four times the text, 4, and of quadratic time, 16."""


def growth(read: Callable[[str], object], unit: str, repeats: int) -> float:
    """How much longer four times `repeats` of `unit` take: CPU time of this thread, the least of three."""

    def seconds(text: str) -> float:
        started = time.thread_time()
        read(text)
        return max(time.thread_time() - started, 1e-3)

    return min(seconds(unit * repeats * 4) / seconds(unit * repeats) for _ in range(3))
