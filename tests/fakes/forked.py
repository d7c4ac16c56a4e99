"""Service processes that are forked from one that has imported torch already, so that a start takes no five seconds.

They are as `opcod.local.processes.launch` makes them, with their own environment, log, session and exit code, but for
their parent, which is the fork server, and for what an interpreter reads only as it begins: all share one hash seed.
Where programs have to be real, `launch` starts them, as in the faults' undisturbed run.
"""

import contextlib
import multiprocessing
import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing import connection, forkserver, reduction, resource_tracker
from pathlib import Path
from typing import Any

from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

from opcod.local.processes import ProcessSpec
from shared.parents import PARENT_VARIABLE

PRELOADED = ("peft", "tests.fakes.warmed")

READ_AT_IMPORT = ("HOME", "XDG_CACHE_HOME")
"""Variables that the command line goes by as it is imported (`opcod.options`)."""


# `multiprocessing` looks after all processes at each start: two threads that find one ended lose its exit code.
_LOOKING = threading.Lock()


@dataclass(frozen=True)
class Streams:
    """Descriptors of a process's stdin, stdout and stderr, which are sent to it; the sender keeps its own."""

    stdin: int
    stdout: int
    stderr: int

    def __reduce__(self) -> tuple[Any, ...]:
        numbers = (self.stdin, self.stdout, self.stderr)
        return _received, tuple(reduction.DupFd(number) for number in numbers)

    def take_place(self) -> None:
        for standard, number in enumerate((self.stdin, self.stdout, self.stderr)):
            os.dup2(number, standard)
            os.close(number)
        # The fork server's are of other files: nobody seeks in a pipe.
        sys.stdin = os.fdopen(0, closefd=False)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)


def _received(*sent: Any) -> Streams:
    return Streams(*(each.detach() for each in sent))


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
        told = (module, list(arguments), dict(environment), output, directory or Path.cwd(), executable)
        self._process = _context().Process(target=_become, args=told, name=" ".join(self.args), daemon=True)
        with _LOOKING:
            self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def sentinel(self) -> int:
        """Ready to be read once it has ended."""
        return self._process.sentinel

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self) -> int | None:
        with _LOOKING:
            return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        connection.wait([self.sentinel], timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return code

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


def fork(spec: ProcessSpec, python: str = sys.executable) -> Forked:
    """As `launch`. python: of the processes that it starts itself."""
    spec.log_file.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | spec.environment | {PARENT_VARIABLE: "set by the child"}
    return Forked(spec.module, spec.arguments, environment, spec.log_file, executable=python)


def running() -> dict[int, str]:
    """Of the processes that were forked and have not ended: module and arguments by process id."""
    with _LOOKING:
        forked = multiprocessing.active_children()
    return {process.pid: process.name for process in forked if process.pid is not None}


def end_fork_server() -> list[str]:
    """Where there is one, with the helper that comes with it. Returns what nobody had ended: it is killed."""
    left = multiprocessing.active_children()
    for process in left:
        process.kill()
        process.join()
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]
    return [f"{process.pid}: {process.name}" for process in left]


@cache
def _context() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


def _become(
    module: str,
    arguments: list[str],
    environment: dict[str, str],
    output: Path | Streams,
    directory: Path,
    executable: str,
) -> None:
    """`<executable> -m <module>`, in the child."""
    os.setsid()
    if any(os.environ.get(name) != environment.get(name) for name in READ_AT_IMPORT):
        for name in [name for name in sys.modules if name.startswith("opcod.")]:
            del sys.modules[name]
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    if PARENT_VARIABLE in environment:
        os.environ[PARENT_VARIABLE] = str(os.getppid())
    if isinstance(output, Streams):
        output.take_place()
    else:
        with output.open("ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
    sys.argv = [module, *arguments]
    sys.path.insert(0, str(directory))
    sys.executable = executable
    _forget_what_is_not_of(module)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


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
