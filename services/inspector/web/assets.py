"""The page's own and vendored files, read once at the start and served from memory: no request names a path on disk."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, HTTPException
from fastapi.responses import Response

from shared.http.sessions import STATIC_PATH

WEB = Path(__file__).parent
TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
ROOTS = ("static", "vendor")


@dataclass(frozen=True)
class Asset:
    data: bytes
    media_type: str
    version: str


class Assets:
    """Files by name, such as `page.css` and `htmx/htmx.min.js`."""

    def __init__(self, web: Path = WEB) -> None:
        found = [(root, path) for root in ROOTS for path in (web / root).rglob("*") if path.suffix in TYPES]
        self._assets = {path.relative_to(web / root).as_posix(): _read(path) for root, path in found}

    def get(self, name: str) -> Asset | None:
        return self._assets.get(name)

    def url(self, name: str) -> str:
        """The address of a file; its content is in it, so that a browser may keep it for good."""
        return f"{STATIC_PATH}{name}?v={self._assets[name].version}"


def asset_routes(assets: Assets) -> APIRouter:
    """Open to everybody: the login form needs them, and they are no secret."""
    router = APIRouter()

    @router.get(STATIC_PATH + "{name:path}", include_in_schema=False)
    async def static(name: str) -> Response:
        asset = assets.get(name)
        if asset is None:
            raise HTTPException(404, f"there is no file {name}")
        headers = {"Cache-Control": "public, max-age=31536000, immutable"}
        return Response(asset.data, media_type=asset.media_type, headers=headers)

    return router


def _read(path: Path) -> Asset:
    data = path.read_bytes()
    return Asset(data, TYPES[path.suffix], hashlib.sha256(data).hexdigest()[:12])
