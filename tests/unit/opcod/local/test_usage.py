"""What is made of what a driver says about GPUs, and what is said where there is none."""

import os
import subprocess
import sys
from collections.abc import Sequence

from opcod.local.usage import OTHERS, Peaks, owners_of, watching
from shared.errors import UnavailableError
from shared.gpus import CardReading

CARDS = [CardReading("H100", 80, 3, {}), CardReading("H100", 80, 1, {})]


def reading(used: int, **processes: int) -> CardReading:
    return CardReading("H100", 80, used, {int(name.removeprefix("p")): size for name, size in processes.items()})


def test_the_most_of_each_service_is_kept_whoever_of_its_processes_held_it() -> None:
    peaks = Peaks(CARDS)
    owners = {10: "student-a", 11: "student-a", 20: "trainer-a"}
    peaks.see([reading(50, p10=5, p11=30, p20=12, p99=3), reading(1)], owners)
    peaks.see([reading(40, p11=20, p20=17), reading(9, p20=8)], owners)
    first, second = peaks.cards
    assert (first.before, first.used, first.services) == (3, 50, {"student-a": 35, "trainer-a": 17, OTHERS: 3})
    assert (second.before, second.used, second.services) == (1, 9, {"trainer-a": 8})


def test_a_driver_that_tells_no_processes_apart_tells_the_card_s_sum() -> None:
    peaks = Peaks(CARDS)
    peaks.see([CardReading("H100", 80, 44, None), CardReading("H100", 80, 2, None)], {10: "student-a"})
    assert [(card.used, card.services) for card in peaks.cards] == [(44, {}), (2, {})]


def test_processes_that_a_service_started_are_its_own_and_one_that_ended_is_nobody_s() -> None:
    inner = (
        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import sys; print(1, flush=True); input()'])"
    )
    with subprocess.Popen([sys.executable, "-c", inner], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as outer:
        assert outer.stdout is not None and outer.stdout.readline()
        owners = owners_of({"student-a": outer.pid, "broker": 2**22})
        assert len(owners) == 2 and owners[outer.pid] == "student-a" and set(owners.values()) == {"student-a"}
        outer.communicate(b"\n")


class Breaks:
    """Tells once, and then no more."""

    asked = 0

    def read(self) -> Sequence[CardReading]:
        self.asked += 1
        if self.asked > 1:
            raise UnavailableError("the driver is busy")
        return CARDS


def test_a_driver_that_does_not_answer_meanwhile_ends_nothing() -> None:
    reader = Breaks()
    peaks, look = watching(reader)
    look({"student-a": os.getpid()})
    assert reader.asked == 2 and [card.used for card in peaks.cards] == [3, 1]
