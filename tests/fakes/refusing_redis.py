"""A Redis that is there and says "not now": a proxy before a real one, which refuses every command when told."""

import socket
import threading
from contextlib import suppress
from typing import BinaryIO

GREETING = frozenset({b"HELLO", b"CLIENT", b"AUTH", b"SELECT"})
"""What a client sends as it connects; servers refuse the rest."""


class RefusingRedis:
    """refusal: the answer to everything, such as "LOADING Redis is loading", or None."""

    def __init__(self, upstream_port: int) -> None:
        self.refusal: str | None = None
        self.refused = 0
        self._upstream_port = upstream_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._upstream_port)) as upstream, suppress(OSError):
            threading.Thread(target=_pump, args=(upstream, client), daemon=True).start()
            commands = client.makefile("rb")
            while (words := _command(commands)) is not None:
                if self.refusal is not None and words[0].upper() not in GREETING:
                    self.refused += 1
                    client.sendall(f"-{self.refusal}\r\n".encode())
                else:
                    sizes = [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
                    upstream.sendall(b"*%d\r\n" % len(words) + b"".join(sizes))


def _command(stream: BinaryIO) -> list[bytes] | None:
    """The next command's words, as clients send them: an array of strings. None at the end."""
    head = stream.readline()
    if not head:
        return None
    words = []
    for _ in range(int(head[1:])):
        size = int(stream.readline()[1:])
        words.append(stream.read(size + 2)[:size])
    return words


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_RDWR)
