"""What a service says that it uses: cores and memory of a real process and its child, GPUs of a stand-in's."""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psutil
import pytest

from shared.contracts.heartbeats import Heartbeat
from shared.errors import UnavailableError
from shared.gpus import CardReading
from shared.obs.presence import Presence
from shared.obs.usage import CHILDREN_S, UsageMeter, gpus_given
from tests.fakes.bus.memory import MemoryBus
from tests.fakes.bus.memory_server import MemoryServer
from tests.fakes.student import HandClock

HELD, USED_S = 40_000_000, 0.3
CHILD = f"""
import os, time
began = time.process_time()
held = b"x" * {HELD}
while time.process_time() - began < {USED_S}: pass
print(os.getpid(), flush=True)
input()
"""
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE)
input()
child.communicate(b"\\n")
print("ended", flush=True)
input()
"""


@contextmanager
def started() -> Iterator[subprocess.Popen[bytes]]:
    """A process whose child holds memory and has used the processor for a while."""
    command = [sys.executable, "-c", PARENT, CHILD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None and parent.stdin is not None
        assert parent.stdout.readline()
        yield parent
        parent.kill()


def test_cores_do_not_follow_a_clock_that_is_set() -> None:
    clock = HandClock()
    meter = UsageMeter(clock=clock)
    assert meter.read() is not None
    clock.set_by_s, clock.now_s = -3600.0, clock.now_s + 10
    began_s = time.process_time()
    while time.process_time() - began_s < 0.2:  # the kernel tells it in hundredths
        pass
    read = meter.read()
    assert read is not None and 0.01 <= read.cores < 1


def test_a_process_counts_with_its_children_and_with_those_that_have_ended() -> None:
    with started() as parent:
        assert parent.stdout is not None and parent.stdin is not None
        meter = UsageMeter(parent.pid)
        first = meter.read()
        assert first is not None and first.bytes > HELD and first.cores > 0
        parent.stdin.write(b"\n")
        parent.stdin.flush()
        assert parent.stdout.readline() == b"ended\n"
        later, whole_life = meter.read(), UsageMeter(parent.pid).read()
        assert later is not None and later.bytes < first.bytes - HELD / 2
        lives_s = time.time() - psutil.Process(parent.pid).create_time()
        assert whole_life is not None and whole_life.cores * lives_s >= USED_S
        assert (first.gpus, first.gpu_bytes) == (None, None)


def test_a_child_that_begins_later_counts_once_children_are_listed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Listing them reads every process of the machine, which a heartbeat must not do each time."""
    listed: list[int] = []
    children = psutil.Process.children

    def counted(process: psutil.Process, *, recursive: bool) -> list[psutil.Process]:
        listed.append(process.pid)
        return children(process, recursive=recursive)

    monkeypatch.setattr(psutil.Process, "children", counted)
    clock = HandClock()
    meter = UsageMeter(clock=clock)
    before = meter.read()
    with started():
        clock.now_s += CHILDREN_S / 2
        soon = meter.read()
        clock.now_s += CHILDREN_S / 2
        later = meter.read()
    assert before is not None and soon is not None and later is not None
    assert soon.bytes < before.bytes + HELD / 2 < later.bytes
    assert len(listed) == 2
    # What it used since the last list counts over all that time.
    assert USED_S / CHILDREN_S * 0.9 <= later.cores < 1


def test_nothing_is_said_of_a_process_that_is_gone() -> None:
    with started() as parent:
        meter = UsageMeter(parent.pid)
        assert meter.read() is not None
        parent.kill()
        parent.wait()
        assert meter.read() is None, "though its child goes on for a moment"


class Cards:
    """Two GPUs, of which one does not tell how busy it is; then a driver that does not answer."""

    asked = 0

    def read(self) -> Sequence[CardReading]:
        self.asked += 1
        if self.asked > 1:
            raise UnavailableError("the driver is busy")
        return [CardReading("H100", 80, 30, None, 0.75), CardReading("H100", 80, 12, None)]


def test_gpus_are_summed_and_left_out_while_their_driver_does_not_answer() -> None:
    meter = UsageMeter(gpus=Cards())
    first, second = meter.read(), meter.read()
    assert first is not None and (first.gpus, first.gpu_bytes) == (0.75, 42)
    assert second is not None and (second.gpus, second.gpu_bytes) == (None, None)


def test_a_process_without_gpus_has_none_to_ask() -> None:
    reader = gpus_given()
    assert reader is None or all(card.bytes > 0 for card in reader.read())


def test_every_heartbeat_says_what_is_used() -> None:
    bus = MemoryBus(MemoryServer())
    Presence(bus, lambda: Heartbeat(service="broker", replica="0", state="ready", at=1.0), period_s=5).beat()
    [beat] = bus.heartbeats()
    assert beat.usage is not None and beat.usage.bytes > 1_000_000


def test_a_heartbeat_of_before_is_read() -> None:
    old = Heartbeat(service="broker", replica="0", state="ready", at=1.0).model_dump(mode="json", exclude={"usage"})
    assert Heartbeat.model_validate(old).usage is None
