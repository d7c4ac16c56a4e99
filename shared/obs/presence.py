"""A service's heartbeat on the bus: the same thread in every service, each saying its own words.

What always holds: of two processes with the same name of service and replica, which would take each other's work, the
second does not begin. One that was killed is no hindrance: on the same machine it is known at once to be gone,
elsewhere when its heartbeat runs out.
"""

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import structlog

from shared.bus.port import Bus
from shared.contracts.heartbeats import Heartbeat, ProcessId
from shared.errors import ConfigError, OpcodError
from shared.obs.usage import UsageMeter

MISSED_BEATS = 3

log = structlog.get_logger()


class Presence:
    """One heartbeat every `period_s`; gone when MISSED_BEATS of them are missed.

    meter: of what the service uses. admitted: set once the name is this process's.
    """

    def __init__(
        self, bus: Bus, heartbeat: Callable[[], Heartbeat], *, period_s: float, meter: UsageMeter | None = None
    ) -> None:
        self.admitted = threading.Event()
        self._bus = bus
        self._heartbeat = heartbeat
        self._period_s = period_s
        self._meter = meter or UsageMeter()
        self._process = this_process()

    def run(self, stopping: threading.Event) -> None:
        """Take the name, beat until `stopping`, and once more then: what the service says may have changed, and another
        may have the name. Raises ConfigError if another process has it."""
        self._take_name(stopping)
        if not self.admitted.is_set():
            return
        while not stopping.is_set():
            self.beat()
            stopping.wait(self._period_s)
        self.beat(last=True)

    def beat(self, *, last: bool = False) -> None:
        """Whatever the server says costs a beat, no more: work does not hang on being seen."""
        # The last one names no process: who comes next need not wait until it has run out.
        own = {"process": None if last else self._process, "usage": self._meter.read()}
        said = self._heartbeat().model_copy(update=own)
        try:
            self._bus.beat(said, ttl_s=MISSED_BEATS * self._period_s)
        except OpcodError as error:
            log.warning("heartbeat missed", error=str(error))

    def _take_name(self, stopping: threading.Event) -> None:
        """Until nobody else has it: a heartbeat that stands still runs out, one that goes on is somebody's."""
        before: Heartbeat | None = None
        while True:
            try:
                other = self._other()
            except OpcodError as error:
                log.warning("heartbeats not read; the name may be another's", error=str(error))
            else:
                if other is None:
                    self.admitted.set()
                    return
                if before is not None and other.at != before.at:
                    raise _name_taken(other)
                before = other
            # Twice in a period: then a beat that goes on has moved before the wait for it to run out is over.
            if stopping.wait(self._period_s / 2):
                return

    def _other(self) -> Heartbeat | None:
        """The heartbeat of another process of our name, unless that is known to be gone."""
        ours = self._heartbeat()
        for beat in self._bus.heartbeats():
            if (beat.service, beat.replica) == (ours.service, ours.replica) and beat.process is not None:
                return None if beat.process == self._process or _is_gone(beat.process) else beat
        return None


def this_process() -> ProcessId:
    pid = os.getpid()
    return ProcessId(host=socket.gethostname(), kernel=_kernel(), pid=pid, began=_began(pid) or "")


def _name_taken(other: Heartbeat) -> ConfigError:
    process = other.process
    where = f"process {process.pid} on {process.host}" if process is not None else "another process"
    return ConfigError(
        f"expected no other {other.service} with the name {other.replica!r}, {where} is up with it, and the two would "
        "take each other's work; stop that one, or give this one a name of its own by OPCOD_REPLICA"
    )


def _is_gone(process: ProcessId) -> bool:
    """Known to be; of another machine or container nothing is known."""
    return process.kernel == _kernel() and _began(process.pid) != process.began


def _kernel() -> str:
    """Where process ids count: this boot of the machine, and the namespace that containers have of their own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _began(pid: int) -> str | None:
    """When the process was made, in words that no clock moves where the platform has them; None if there is none."""
    try:
        with Path(f"/proc/{pid}/stat").open(encoding="utf-8", errors="replace") as stat:
            # The name of the program stands in brackets and may hold blanks and brackets itself. Behind it, field 22 is
            # the start in ticks since boot, which no setting of the clock moves; a zombie (Z) has ended.
            state, *fields = stat.read().rpartition(")")[2].split()
        return None if state == "Z" else fields[18]
    except OSError:
        pass
    try:
        return str(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None


def own_url(advertised: str | None, url_file: Path | None) -> str | None:
    """Where others reach this process: as it was told, else where it listens, known once it has written that down."""
    if advertised is not None or url_file is None:
        return advertised
    try:
        return url_file.read_text(encoding="utf-8") or None
    except OSError:
        return None
