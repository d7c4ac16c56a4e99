"""`python -m services.student.engines.vllm.guard PID COMMAND…`: runs the command for as long as its parent, PID, lives.

What always holds: when the student is gone, however it ended, every process that its server made is ended too, and the
GPU is free for the student's next life. The guard leads a process group of its own, which all of them are in.
"""

import os
import signal
import subprocess
import sys
import time
from types import FrameType

from services.student.engines.vllm.process import end_group
from shared.parents import ending_with_me

PARENT_POLL_S = 0.5
OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
"""Of the guard's own environment; the server's interpreter has its own packages."""


def guarded(command: list[str], student: int) -> list[str]:
    """The command under a guard, which ends the server when its parent, the process `student`, is gone."""
    return [sys.executable, "-m", "services.student.engines.vllm.guard", str(student), *command]


def main(student: int, command: list[str]) -> int:
    """Returns the exit code of a command that ends by itself. When the student is gone, or at SIGTERM, the whole group
    is ended, this process too.

    student: the parent's id, as it may be gone before this process can ask for it.
    """
    # A list, since the handler only notes it: ending a group takes seconds, and a handler must not wait.
    asked = [False]

    def stop(_number: int, _frame: FrameType | None) -> None:
        asked[0] = True

    signal.signal(signal.SIGTERM, stop)
    environment = {name: value for name, value in os.environ.items() if name not in OURS}
    running = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        env=environment,
        preexec_fn=ending_with_me(),
    )
    while running.poll() is None:
        # A process whose parent is gone gets another one, so the id changes, also where SIGKILL ended the parent.
        if asked[0] or os.getppid() != student:
            end_group(running, os.getpgrp())  # SIGTERM to the server; then SIGKILL to all of the group, here it ends
        time.sleep(PARENT_POLL_S)
    return running.wait()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
