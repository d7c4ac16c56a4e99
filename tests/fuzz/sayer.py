"""A server that says what it was told to, whatever was asked."""

import socketserver
import threading
from types import TracebackType
from typing import Any, Self

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from tests.fuzz.mutation import damaged

DEEDS = ("socket.connect", "socket.getaddrinfo")
"""That asking is there to do."""


class _Said(socketserver.StreamRequestHandler):
    server: "Sayer"

    def handle(self) -> None:
        length = 0
        for line in iter(self.rfile.readline, b"\r\n"):
            if not line:
                return
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        self.rfile.read(length)
        self.wfile.write(self.server.answer)


class Sayer(socketserver.ThreadingTCPServer):
    """answer: the bytes that whoever asks next gets, head and body."""

    daemon_threads = True
    answer = b""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Said)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has heard enough closes the connection."""


@st.composite
def an_answer(draw: DrawFn, body: bytes, mime: bytes) -> bytes:
    """The body under a head, at times of another status, encoded otherwise than it says, or damaged."""
    status = draw(st.sampled_from((b"200 OK",) * 6 + (b"400 Bad", b"404 No", b"500 Oh", b"302 Go", b"204 None")))
    more = draw(st.sampled_from((b"",) * 6 + (b"content-encoding: gzip\r\n", b"location: //x\r\n")))
    head = b"HTTP/1.1 %s\r\ncontent-type: %s\r\n%scontent-length: %d\r\nconnection: close\r\n\r\n"
    whole = head % (status, mime, more, len(body)) + body
    return draw(damaged(whole)) if draw(st.integers(0, 3)) == 0 else whole
