"""A request as a server hands it to an app: any bytes that HTTP lets through, without a client that would mend them."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from fastapi import FastAPI

Headers = Sequence[tuple[bytes, bytes]]

ANSWER_S = 20.0
"""Longer than any deadline of the services under test."""


@dataclass(frozen=True)
class Answer:
    """`body`: of an endless stream, its beginning."""

    status: int
    headers: dict[str, str]
    body: bytes


async def ask(app: FastAPI, method: str, target: str, headers: Headers, body: bytes) -> Answer:
    """target: path and query as they stand in the request's first line, in ASCII."""
    raw_path, _, query = target.partition("?")
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(raw_path),
        "raw_path": raw_path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [*headers, (b"content-length", b"%d" % len(body))],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {},
    }
    exchange = _Exchange(method, body)
    async with asyncio.timeout(ANSWER_S):
        await app(scope, exchange.receive, exchange.send)
    return Answer(exchange.status, exchange.headers, b"".join(exchange.parts))


class _Exchange:
    """The two ends that an app gets. Who only reads leaves a stream after its first part."""

    def __init__(self, method: str, body: bytes) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.parts: list[bytes] = []
        self._leaves_streams = method == "GET"
        self._body: bytes | None = body
        self._over = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        body, self._body = self._body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        await self._over.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]}
            return
        self.parts.append(message.get("body", b""))
        stream = self.headers.get("content-type", "").startswith("text/event-stream")
        if not message.get("more_body", False) or (stream and self._leaves_streams):
            self._over.set()
