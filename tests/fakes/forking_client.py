"""The program of `tests.fakes.forking_python`: stands for a process that is forked elsewhere.

That one has another parent. Where it would end with the one that started it, this does, and takes it along.

Arguments: socket, the real Python, this program's name, and what a Python is called with.
"""

import ctypes
import json
import os
import signal
import socket
import sys
from pathlib import Path

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

PARENT_VARIABLE = "OPCOD_PARENT_PID"  # nothing of ours is imported here: it would take longer than all the rest
PR_SET_PDEATHSIG = 1


def main() -> None:
    address, real, program, *arguments = sys.argv[1:]
    if arguments[:1] != ["-m"]:
        os.execv(real, [real, *arguments])
    if sys.platform == "linux" and os.environ.get(PARENT_VARIABLE) == str(os.getppid()):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        asked = json.dumps([program, arguments[1], arguments[2:], dict(os.environ), str(Path.cwd())]).encode()
        socket.send_fds(server, [len(asked).to_bytes(4, "big")], [0, 1, 2])
        server.sendall(asked)
        for number in FORWARDED:
            signal.signal(number, lambda number, _: server.sendall(bytes([number])))
        answer = server.recv(8)
    if not answer:
        sys.exit("the tests' session that forks in this program's place has ended")
    code = int(answer)
    if code < 0:
        if -code in FORWARDED:  # SIGKILL cannot be set, and no other is
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


main()
