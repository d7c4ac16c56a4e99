"""Running a service: one process, one HTTP server, background threads, a clean stop on SIGTERM.

A service is built by its `app.py`; `serve` owns signals, the listening socket and the exit code.
"""

import asyncio
import os
import resource
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from shared.errors import OpcodError
from shared.files.durable import atomic_write
from shared.http.addresses import http_url, listen
from shared.parents import PARENT_VARIABLE

PARENT_POLL_S = 1.0
HEAD_S = 30.0
OPEN_FILES = 65_536
"""Each connection is one; what a login shell gives, 1024 as a rule, is soon used up by idle ones."""

log = structlog.get_logger()


class Worker(threading.Thread):
    """A named thread whose failure ends the process instead of leaving a silent half of it."""

    def __init__(self, name: str, target: Callable[[], None], failed: Callable[[BaseException], None]) -> None:
        super().__init__(name=name, daemon=True)
        self._target_function = target
        self._failed = failed

    def run(self) -> None:
        try:
            self._target_function()
        except BaseException as error:  # noqa: BLE001 - process boundary: what ends a worker ends the service
            self._failed(error)


class _Server(uvicorn.Server):
    """Stops streams and threads at the first signal, and does not raise it again after its own shutdown."""

    def __init__(self, config: uvicorn.Config, stopping: threading.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        self._stopping.set()
        self.should_exit = True


class Connection(H11Protocol):
    """Closed where no request's head has come whole within `head_s`: after it was made, and after each answer. uvicorn
    waits for ever for the first, and begins anew with every byte of a later one."""

    head_s = HEAD_S

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def on_response_complete(self) -> None:
        self._await_head()
        super().on_response_complete()

    def _await_head(self) -> None:
        self.loop.call_later(self.head_s, self._close_unless_asked, self.cycle)

    def _close_unless_asked(self, before: object) -> None:
        # A head that has come whole has made another cycle.
        if self.cycle is before:
            self.transport.close()


def allow_open_files() -> None:
    """Raise the limit of this process to OPEN_FILES, or to what it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    # Some systems refuse a number that they have named as allowed.
    with suppress(OSError, ValueError):
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class Service:
    """Threads around an HTTP app. `stopping` is set on SIGTERM, and when a thread fails."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stopping = threading.Event()
        self.error: BaseException | None = None
        self._threads: list[Worker] = []
        self._server: uvicorn.Server | None = None

    def spawn(self, name: str, target: Callable[[], None]) -> None:
        self._threads.append(Worker(name, target, self._fail))

    def stop(self) -> None:
        """End this service as on SIGTERM."""
        self.stopping.set()
        if self._server is not None:
            self._server.should_exit = True

    def serve(self, app: FastAPI, *, host: str, port: int, url_file: Path | None, grace_s: float = 20.0) -> int:
        """Serve until SIGTERM or a thread fails; returns the exit code. Threads get `grace_s` to finish."""
        allow_open_files()
        listener = listen(host, port)
        url = http_url(host, listener.getsockname()[1])
        config = uvicorn.Config(
            app, http=Connection, log_config=None, access_log=False, timeout_graceful_shutdown=int(grace_s)
        )
        self._server = _Server(config, self.stopping)
        if threading.current_thread() is threading.main_thread():  # before anyone can know that it listens
            signal.signal(signal.SIGTERM, self._server.handle_exit)
        self._watch_parent()
        for thread in self._threads:
            thread.start()
        # The socket listens already: who is faster than the server waits in its queue.
        if url_file is not None:
            atomic_write(url_file, url.encode())
        log.info("listening", url=url)
        self._server.run(sockets=[listener])
        self.stopping.set()
        for thread in self._threads:
            thread.join(timeout=grace_s)
        return self._exit_code()

    def _watch_parent(self) -> None:
        """Under a launcher, end when it is gone, also where the platform does not say so by a signal."""
        parent = os.environ.get(PARENT_VARIABLE)
        if parent is None:
            return

        def watch() -> None:
            while not self.stopping.wait(PARENT_POLL_S):
                # Not whether that process lives: its number may be another's by now.
                if os.getppid() != int(parent):
                    log.warning("the launcher is gone; stopping")
                    self.stop()

        self.spawn("parent-watch", watch)

    def _fail(self, error: BaseException) -> None:
        self.error = error
        log.error("service failed", error=str(error), exc_info=error)
        self.stop()

    def _exit_code(self) -> int:
        if self.error is None:
            return 0
        return self.error.exit_code if isinstance(self.error, OpcodError) else 1
