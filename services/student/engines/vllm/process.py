"""One life of the server's process: started, looked at, and ended with everything that it made."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

GRACE_S = 5.0
"""From SIGTERM to SIGKILL; nothing in the server is worth waiting for."""


class ServerProcess:
    """A command in a process group of its own; its output goes to the end of `log_file`.

    scratch: a directory that is removed when it is ended.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], log_file: Path, scratch: Path | None = None
    ) -> None:
        self._scratch = scratch
        self._ended = False
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with log_file.open("ab") as output:
            self._running = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(environment),
                # A group of its own, so that it is ended as a whole, and Ctrl-C in a terminal does not reach it.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Also the id of its group."""
        return self._running.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._running.poll()

    def end(self) -> None:
        """Returns when nothing of the group is left; once more changes nothing, as its id may be another's by then."""
        if self._ended:
            return
        end_group(self._running, self.pid)
        self._ended = True
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)


def end_group(leader: subprocess.Popen[bytes], group: int) -> None:
    """SIGTERM to `leader`, and SIGKILL to its whole group when it has ended, or does not."""
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        leader.send_signal(signal.SIGTERM)
        leader.wait(timeout=GRACE_S)
    # Always, though the leader has ended: its children may not have, and they hold the GPU's memory.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
    leader.wait()
