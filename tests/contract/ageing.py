"""Time that passes for what a server holds, and for nobody else: leases run out when a test says so, however busy the
machine is."""

from typing import Any, Protocol

from redis import Redis
from redis.exceptions import ResponseError

from shared.bus.keys import Keys
from tests.fakes.bus.memory_server import MemoryServer
from tests.fakes.bus.outliving import pass_s


class Ageing(Protocol):
    def age(self, seconds: float) -> None:
        """Leases of messages and names, heartbeats and places in a line are older by so much."""

    def left_s(self, lease_s: float) -> float:
        """Until the first of the messages in hand is anybody's, of which each is held for `lease_s`."""


class MemoryAgeing:
    def __init__(self, server: MemoryServer) -> None:
        self._server = server

    def age(self, seconds: float) -> None:
        pass_s(self._server, seconds)

    def left_s(self, lease_s: float) -> float:
        return self._server.left_s(lease_s)


class RedisAgeing:
    """A lease of a message is the idle time of a pending entry; of names and heartbeats it is a time to live; a place
    in a line stands with the time at which it was asked for."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def age(self, seconds: float) -> None:
        past_ms = round(seconds * 1000)
        for stream, group, entry in self._pending():
            idle_ms = entry["time_since_delivered"] + past_ms
            place = (stream, group, entry["consumer"], 0, [entry["message_id"]])
            self._client.xclaim(*place, idle=idle_ms, justid=True)
        for key in self._client.scan_iter(match=f"{self._keys.prefix}*", count=1000):
            if (left_ms := self._client.pttl(key)) >= 0:
                self._client.pexpire(key, max(left_ms - past_ms, 0))
        for key in self._client.scan_iter(match=self._keys.asked("*"), count=1000):
            for holder, at_ms in self._client.hgetall(key).items():
                self._client.hset(key, holder, str(int(at_ms) - past_ms))

    def left_s(self, lease_s: float) -> float:
        idle_ms = max((entry["time_since_delivered"] for _, _, entry in self._pending()), default=0)
        return lease_s - float(idle_ms) / 1000

    def _pending(self) -> list[tuple[Any, Any, dict[str, Any]]]:
        """Stream, group and what Redis says of each entry in hand."""
        streams = list(self._client.scan_iter(match=f"{self._keys.prefix}*", count=1000, _type="STREAM"))
        groups = [(stream, group["name"]) for stream in streams for group in self._groups(stream)]
        return [
            (stream, group, entry)
            for stream, group in groups
            for entry in self._client.xpending_range(stream, group, "-", "+", 1000)
        ]

    def _groups(self, stream: Any) -> list[dict[str, Any]]:
        try:
            return self._client.xinfo_groups(stream)
        except ResponseError:
            return []
