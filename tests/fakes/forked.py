"""Service processes that are forked from one that has imported torch already, so that a start takes no five seconds.

They are as `opcod.local.processes.launch` makes them, with their own environment, log, session and exit code, but for
their parent, which is the fork server, and for what an interpreter reads only as it begins: all share one hash seed.
`undisturbed_weights` and the command line's tests start real programs.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

from opcod.local.processes import ProcessSpec
from shared.http.serving import PARENT_VARIABLE

PRELOADED = (
    "peft",
    "shared.bus.redis",
    "shared.config.environment",
    "shared.http.app",
    "shared.http.serving",
    "shared.method.sanitizing",
    "shared.modeling.adapters",
    "shared.modeling.logprobs",
    "shared.obs.presence",
    "shared.problems.loading",
)
"""Nothing of services, whose metrics would then show in every service."""


class Forked:
    """A process of the fork server, with the part of subprocess.Popen that is used of one."""

    def __init__(self, module: str, arguments: Sequence[str], environment: Mapping[str, str], log_file: Path) -> None:
        self.args = [module, *arguments]
        told = (module, list(arguments), dict(environment), log_file)
        self._process = _context().Process(target=_become, args=told, name=" ".join(self.args), daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
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


def fork(spec: ProcessSpec) -> Forked:
    """As `launch`."""
    spec.log_file.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | spec.environment | {PARENT_VARIABLE: "set by the child"}
    return Forked(spec.module, spec.arguments, environment, spec.log_file)


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


def _become(module: str, arguments: list[str], environment: dict[str, str], log_file: Path) -> None:
    """`python -m <module>`, in the child."""
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    if PARENT_VARIABLE in environment:
        os.environ[PARENT_VARIABLE] = str(os.getppid())
    with log_file.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
