"""An app on a real server in a thread."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

READY_S = 10.0


@contextmanager
def listening(app: FastAPI, port: int = 0, connection: type[asyncio.Protocol] = H11Protocol) -> Iterator[str]:
    """Its URL, on a free port if none is given."""
    server = uvicorn.Server(uvicorn.Config(app, port=port, http=connection, log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + READY_S
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=READY_S)
