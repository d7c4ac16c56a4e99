"""Children that end with their parent, however it dies, and how a process of ours begins and ends under one.

Linux sends a child a signal when the thread that made it ends, so children are made by a thread that lives as long as
its process. Elsewhere nothing happens here, and whoever must not be left over asks for its parent by itself.
"""

import atexit
import ctypes
import gc
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module

from shared.errors import OpcodError

PARENT_VARIABLE = "OPCOD_PARENT_PID"
"""Who started this process, where that is a launcher of ours."""

SAFE_PATH = "PYTHONSAFEPATH"
"""Set, a Python does not import from the working directory: a user's may hold a `random.py`, or what was downloaded."""

_PR_SET_PDEATHSIG = 1
# Opened here: between fork and exec is no time for it.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def environment_of_a_child() -> dict[str, str]:
    """This process's, for a Python of ours that it starts."""
    return {**os.environ, PARENT_VARIABLE: str(os.getpid()), SAFE_PATH: "1"}


def end_with(parent: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Signal `number` to this process when `parent`, which must have made it, ends; it ends now if that is gone."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, number)
    # It may have ended before prctl was called: then the signal was missed, and does not come any more.
    if os.getppid() != parent:
        os._exit(0)


def ending_with_me() -> Callable[[], None]:
    """A `preexec_fn` for programs that are not ours. The caller must have one thread, as fork copies locks.

    They get SIGKILL: another signal might come while our handlers are still in place of theirs, and be lost.
    """
    parent = os.getpid()
    return lambda: end_with(parent, signal.SIGKILL)


def run_module(module: str) -> None:
    """`run_service` of the `main` of a module. No garbage is looked for while that is imported: where it imports torch,
    that would be a quarter of the time."""
    gc.disable()
    main: Callable[[], int] = import_module(module).main
    gc.enable()
    run_service(main)


def run_service(main: Callable[[], int]) -> None:
    """Entry of every `__main__`: an OpcodError becomes one clear line and its exit code. Under a launcher the process
    ends with it: nothing may go on training unseen."""
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is not None:
        end_with(int(parent))
    # What is imported stays, and is looked at by no collection; nor is all that is alive as the interpreter ends, which
    # would be as long again.
    gc.freeze()
    atexit.register(gc.freeze)
    try:
        sys.exit(main())
    except OpcodError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
