"""Service processes that are forked from one that has imported torch already, so that a start takes no five seconds.

They are as `opcod.local.processes.launch` makes them, with their own environment, log, session and exit code, but for
their parent, which is the session's fork server, and for what an interpreter reads only as it begins: all share one
hash seed. Where programs have to be real, `launch` starts them, as in the faults' undisturbed run.
"""

import contextlib
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple

from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

from opcod.local.processes import ProcessSpec
from shared.parents import PARENT_VARIABLE

ADDRESS = "OPCOD_TEST_FORK_SERVER"
"""A variable that the workers of a session inherit: the path of the fork server's socket."""

READ_AT_IMPORT = ("HOME", "XDG_CACHE_HOME")
"""Variables that the command line goes by as it is imported (`opcod.options`)."""

_forked: dict[int, "Forked"] = {}
"""By process id, until they have ended: one that nobody holds any more goes on."""


class Streams(NamedTuple):
    """Descriptors of a process's stdin, stdout and stderr, which are sent to it; the sender keeps its own."""

    stdin: int
    stdout: int
    stderr: int


class Told(NamedTuple):
    """What a process is to be. executable: what it takes for its Python, for processes of its own."""

    module: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    directory: Path
    executable: str


class Forked:
    """A process of the fork server, with the part of subprocess.Popen that is used of one.

    output: its log, or all its streams. executable: what it takes for its Python, for processes of its own.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        output: Path | Streams,
        directory: Path | None = None,
        executable: str = sys.executable,
    ) -> None:
        self.args = [module, *arguments]
        told = Told(module, list(arguments), dict(environment), directory or Path.cwd(), executable)
        if isinstance(output, Streams):
            self._link = _asked(told, output)
        else:
            with output.open("ab") as log, Path(os.devnull).open("rb") as nothing:
                self._link = _asked(told, Streams(nothing.fileno(), log.fileno(), log.fileno()))
        self.pid: int = self._link.recv()
        self._code: int | None = None
        # Two threads may find that it has ended, and it is told once.
        self._looking = threading.Lock()
        _forked[self.pid] = self

    @property
    def sentinel(self) -> Connection:
        """Ready to be read once it has ended."""
        return self._link

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self) -> int | None:
        with self._looking:
            if self._code is None and self._link.poll():
                self._code = self._link.recv()
                _forked.pop(self.pid, None)
            return self._code

    def wait(self, timeout: float | None = None) -> int:
        wait([self._link], timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended, and is about to be told
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _asked(told: Told, streams: Streams) -> Connection:
    """The connection to the fork server that is the process."""
    caller = socket.socket(socket.AF_UNIX)
    try:
        caller.connect(os.environ[ADDRESS])
        socket.send_fds(caller, [b"s"], streams)
    except OSError:
        caller.close()
        raise
    link = Connection(caller.detach())
    link.send(tuple(told))
    return link


def fork(spec: ProcessSpec, python: str = sys.executable) -> Forked:
    """As `launch`. python: of the processes that it starts itself."""
    spec.log_file.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | spec.environment | {PARENT_VARIABLE: "set by the child"}
    return Forked(spec.module, spec.arguments, environment, spec.log_file, executable=python)


def running() -> dict[int, str]:
    """Of the processes that were forked for this one and have not ended: module and arguments by process id."""
    return {pid: " ".join(each.args) for pid, each in list(_forked.items()) if each.poll() is None}


def end_forked() -> list[str]:
    """Returns what nobody had ended: it is killed."""
    left = running()
    for pid in left:
        process = _forked[pid]
        process.kill()
        process.wait()
    return [f"{pid}: {name}" for pid, name in left.items()]


def become(told: Told, streams: Streams) -> None:
    """`<executable> -m <module>`, in the child."""
    os.setsid()
    if any(os.environ.get(name) != told.environment.get(name) for name in READ_AT_IMPORT):
        for name in [name for name in sys.modules if name.startswith("opcod.")]:
            del sys.modules[name]
    os.environ.clear()
    os.environ.update(told.environment)
    os.chdir(told.directory)
    if PARENT_VARIABLE in told.environment:
        os.environ[PARENT_VARIABLE] = str(os.getppid())
    for standard, number in enumerate(streams):
        os.dup2(number, standard)
        os.close(number)
    # The fork server's are of other files: nobody seeks in a pipe.
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    sys.argv = [told.module, *told.arguments]
    sys.path.insert(0, str(told.directory))
    sys.executable = told.executable
    _forget_what_is_not_of(told.module)
    runpy.run_module(told.module, run_name="__main__", alter_sys=True)


def _forget_what_is_not_of(module: str) -> None:
    """Of all that the fork server imported: metrics of other services, and the module that is yet to be run."""
    own = ".".join(module.split(".")[:2])
    others = [name for name in sys.modules if name.startswith("services.") and not name.startswith(f"{own}.")]
    for each in (value for name in others for value in vars(sys.modules[name]).values()):
        if isinstance(each, MetricWrapperBase):
            with contextlib.suppress(KeyError):  # known by two names
                REGISTRY.unregister(each)
    if not hasattr(sys.modules.get(module), "__path__"):
        sys.modules.pop(module, None)
