"""`python -m services.student.engines.vllm.guard COMMAND…`: runs the command for as long as its parent lives.

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

PARENT_POLL_S = 0.5
OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
"""Of the guard's own environment; the server's interpreter has its own packages."""


def main(command: list[str]) -> int:
    """Run until the command ends, the parent is gone, or SIGTERM; returns the command's exit code."""
    parent, asked = os.getppid(), [False]

    def stop(_number: int, _frame: FrameType | None) -> None:
        asked[0] = True

    signal.signal(signal.SIGTERM, stop)
    environment = {name: value for name, value in os.environ.items() if name not in OURS}
    running = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment)
    while running.poll() is None:
        if asked[0] or os.getppid() != parent:
            end_group(running, os.getpgrp())  # kills this process, too, where the server does not end by itself
            break
        time.sleep(PARENT_POLL_S)
    return running.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
