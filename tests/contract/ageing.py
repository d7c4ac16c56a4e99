"""Time that passes for what a server holds, and for nobody else: leases run out when a test says so, however busy the
machine is."""

from typing import Any, Protocol

from redis import Redis
from redis.exceptions import ResponseError

from shared.bus.keys import Keys
from tests.fakes.bus.memory_server import MemoryServer
from tests.fakes.student import HandClock


class Ageing(Protocol):
    def age(self, seconds: float) -> None:
        """Leases of messages and names, heartbeats and places in a line are older by so much."""

    def unrenewed_s(self) -> float:
        """How long ago the messages in hand were renewed, the oldest one; 0 where there is none."""


class MemoryAgeing:
    def __init__(self, server: MemoryServer, clock: HandClock) -> None:
        self._server = server
        self._clock = clock

    def age(self, seconds: float) -> None:
        with self._server.changed:
            self._clock.now_s += seconds

    def unrenewed_s(self) -> float:
        with self._server.changed:
            groups = [group for queue in self._server.queues.values() for group in queue.groups.values()]
            renewed = [entry.renewed_s for group in groups for entry in group.pending.values()]
            return self._clock.now_s - min(renewed, default=self._clock.now_s)


class RedisAgeing:
    """A lease of a message is the idle time of a pending entry; of names and heartbeats it is a time to live; a place
    in a line stands with the time at which it was asked for."""

    def __init__(self, client: "Redis[bytes]", keys: Keys) -> None:
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

    def unrenewed_s(self) -> float:
        return max((entry["time_since_delivered"] / 1000 for _, _, entry in self._pending()), default=0.0)

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
