"""An app on a real server in a thread, and a port at which there is none."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from tests.fakes.waiting import wait_until

ENDED_S = 10.0


@contextmanager
def listening(app: FastAPI, port: int = 0, connection: type[asyncio.Protocol] = H11Protocol) -> Iterator[str]:
    """Its URL, on a free port if none is given."""
    server = uvicorn.Server(uvicorn.Config(app, port=port, http=connection, log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started, "the server to start", pause_s=0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(ENDED_S)


@contextmanager
def deaf_port() -> Iterator[int]:
    """A port that refuses every connection, and meanwhile is nobody else's: it is held, and not listened on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
