"""Supervising the processes of a deployment on one machine.

What always holds: a process that ends on its own is started again, at once for the first time and then after growing
pauses, unless it ends too often or with an exit code that says trying again is useless: that ends the others, too, but
for one that they do without; stopping goes SIGTERM, then
SIGKILL after a grace, and only to processes started here.
"""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import structlog

from shared.errors import EXIT_USAGE, ConfigError, OpcodError, StoppedError
from shared.parents import environment_of_a_child

RESTART_WINDOW_S = 120.0
MAX_RESTARTS = 5
FIRST_PAUSE_S = 1.0
"""Before the second start in a window, then 2, 4, 8 s: what a service misses at its start, as space on a disk or a name
that resolves, may take a while to come back. The first is at once: a process that was killed misses nothing."""

SILENT_S = 2 * 3600.0
"""Between two signs of life of a process that ends by itself: lines after each chunk of answers and every few updates.
Its whole work has no limit, as it takes minutes or days by the model and the machine."""

GRACE_S = 30.0
POLL_S = 0.2
REPORT_EVERY_S = 15.0

log = structlog.get_logger()


@dataclass(frozen=True)
class ProcessSpec:
    """`python -m <module>` with `environment` on top of ours; output goes to `log_file`. needed: whether the others
    have no use without it."""

    name: str
    module: str
    log_file: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    arguments: Sequence[str] = ()
    needed: bool = True


class LiveProcess(Protocol):
    """What supervising needs of a process, all of which subprocess.Popen has."""

    @property
    def pid(self) -> int: ...

    @property
    def args(self) -> Any: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, sig: int) -> None: ...

    def kill(self) -> None: ...


Launch = Callable[[ProcessSpec], LiveProcess]


def launch(spec: ProcessSpec) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, so that Ctrl-C reaches only the launcher."""
    # Logs, too, are UTF-8.
    environment = {**environment_of_a_child(), **spec.environment, "PYTHONUTF8": "1"}
    spec.log_file.parent.mkdir(parents=True, exist_ok=True)
    with spec.log_file.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", spec.module, *spec.arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )


class ProcessFailedError(OpcodError):
    """A process that does not stay up; the message holds the end of its log."""


@dataclass
class Process:
    """One supervised process and the times at which it ended by itself. due_s: of its next start, once ended."""

    spec: ProcessSpec
    running: LiveProcess
    ends: list[float] = field(default_factory=list)
    due_s: float | None = None


class Supervisor:
    """Starts, watches and stops processes. `check` must be called every second or so. given_up: those that do not stay
    up and that the others do without, each with the reason.

    start_process: makes a process of its own of a spec.
    """

    def __init__(self, first_pause_s: float = FIRST_PAUSE_S, start_process: Launch = launch) -> None:
        self._first_pause_s = first_pause_s
        self._start_process = start_process
        self._processes: dict[str, Process] = {}
        self.given_up: dict[str, ProcessFailedError] = {}

    def start(self, spec: ProcessSpec) -> None:
        self._processes[spec.name] = Process(spec, self._start_process(spec))

    def check(self) -> list[str]:
        """Start again what ended; returns the names. Raises ProcessFailedError when that is useless, and the others
        need it."""
        restarted: list[str] = []
        for name, process in list(self._processes.items()):
            code = process.running.poll()
            if code is None:
                continue
            if process.due_s is None:
                # Not slept here: while one waits for its next start, the others are watched.
                try:
                    pause_s = self._pause_s(process, code)
                except ProcessFailedError as error:
                    self._give_up(name, error)
                    continue
                process.due_s = time.monotonic() + pause_s
                log.warning("process ended", process=name, exit_code=code, again_in_s=pause_s)
            if time.monotonic() >= process.due_s:
                process.running, process.due_s = self._start_process(process.spec), None
                restarted.append(name)
        return restarted

    def pids(self) -> dict[str, int]:
        return {name: process.running.pid for name, process in self._processes.items()}

    def stop(self, names: Sequence[str] | None = None, grace_s: float = GRACE_S) -> None:
        """SIGTERM to those named (default: all); SIGKILL to what is left after `grace_s`. They are forgotten."""
        stopping = [self._processes.pop(name) for name in list(self._processes) if names is None or name in names]
        running = [process.running for process in stopping if process.running.poll() is None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        _end(running, grace_s)

    def _give_up(self, name: str, error: ProcessFailedError) -> None:
        if self._processes[name].spec.needed:
            raise error
        del self._processes[name]
        self.given_up[name] = error
        log.warning("process given up; the others go on without it", process=name, reason=str(error))

    def _pause_s(self, process: Process, code: int) -> float:
        """Until its next start. Raises ProcessFailedError when that is useless."""
        now = time.monotonic()
        process.ends = [at for at in process.ends if now - at < RESTART_WINDOW_S]
        process.ends.append(now)
        # It refused its settings, and would find the same ones at its next start.
        if code == EXIT_USAGE or len(process.ends) > MAX_RESTARTS:
            tail = log_tail(process.spec.log_file)
            raise ProcessFailedError(
                f"{process.spec.name} ended with exit code {code} and does not stay up; its log "
                f"({process.spec.log_file}) ends:\n{tail}"
            )
        return 0.0 if len(process.ends) == 1 else self._first_pause_s * 2.0 ** (len(process.ends) - 2)


def _end(told: Sequence[LiveProcess], grace_s: float) -> None:
    """Wait for processes that were told to end, and kill what does not until `grace_s` have passed."""
    # One grace for all of them: they were told together, and end beside each other.
    deadline = time.monotonic() + grace_s
    for process in told:
        try:
            # Behind the deadline, too, a moment: who has ended meanwhile is not said to have been killed.
            process.wait(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("process did not stop in time; killing it", pid=process.pid, command=process.args)
            process.kill()
            process.wait()


def until_ended(
    running: Sequence[subprocess.Popen[bytes]],
    what: str,
    *,
    timeout_s: float,
    report: Callable[[], None],
    stopped: Callable[[], bool],
    progress: Callable[[], object] = lambda: None,
) -> None:
    """Wait for processes that end by themselves, calling `report` every 15 s; what still runs at the end is stopped.

    progress: where they are; whenever it changes, `timeout_s` begins anew. Raises StoppedError once `stopped` says so,
    and OpcodError after `timeout_s`.
    """
    changed = said = time.monotonic()
    seen = progress()
    try:
        while any(process.poll() is None for process in running):
            now = time.monotonic()
            if (here := progress()) != seen:
                seen, changed = here, now
            if now - said > REPORT_EVERY_S:
                said = now
                report()
            if stopped():
                raise StoppedError(f"stopped while {what}; the next start begins with it again")
            if now - changed > timeout_s:
                raise OpcodError(f"{what}: expected it to end or to go on within {timeout_s:.0f} s, and it did neither")
            time.sleep(POLL_S)
        if stopped() and any(process.returncode for process in running):  # Ctrl-C reached them, too
            raise StoppedError(f"stopped while {what}; the next start begins with it again")
    finally:
        for process in running:
            if process.poll() is None:
                process.terminate()
        _end(running, GRACE_S)


def require_success(what: str, code: int, log_file: Path) -> None:
    """Raises ConfigError (exit code 2) or OpcodError with the end of its log unless `code` is 0."""
    if code != 0:
        kind = ConfigError if code == EXIT_USAGE else OpcodError
        raise kind(f"{what} ended with exit code {code}:\n{log_tail(log_file)}")


def result_line(log_file: Path, begins: str) -> str:
    """The last line of a log that begins so, for programs; libraries may have had a word after it, as their processes
    ended. Raises OpcodError with the end of the log where there is none."""
    with log_file.open(encoding="utf-8", errors="replace") as lines:
        found = [line for line in lines if line.startswith(begins)]
    if not found:
        raise OpcodError(
            f"expected a line of {log_file} to begin with {begins}, none does; it ends:\n{log_tail(log_file)}"
        )
    return found[-1]


def log_tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log, for an error message."""
    with contextlib.suppress(OSError):
        return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    return "(no log)"
