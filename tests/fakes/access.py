"""Keys and limits for services under test."""

from fastapi import FastAPI
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts

from shared.http.access import AccessKeys, Limits, Scope
from shared.http.app import ADMIN, ASK, READ
from shared.http.guard import OPEN_PATHS
from shared.http.sessions import is_open

LOCAL = "http://localhost"
"""Where a test client asks: without keys a service answers to no other name."""

PLENTY = Limits(max_body_bytes=10_000, requests_per_minute=10_000, concurrent_requests=100)


def one_key(key: str | None) -> AccessKeys | None:
    """A key that may do everything; None for a service without keys."""
    return None if key is None else AccessKeys({key: Scope.ADMIN})


def routes_of(app: FastAPI) -> list[RouteContext]:
    """All that answer requests, those of included routers among them: `app.routes` has a router in place of its own."""
    return [route for route in iter_route_contexts(app.routes) if isinstance(route.original_route, APIRoute)]


def routes_without_scope(app: FastAPI) -> list[str]:
    """Paths that a key of any scope may use because nobody said which it needs; probes and login are not among them."""
    scoped = [dependency for needed in (READ, ASK, ADMIN) for dependency in needed]
    return [
        str(route.path)
        for route in routes_of(app)
        if route.path not in OPEN_PATHS
        and not is_open(str(route.path))
        and not any(dependency in scoped for dependency in route.dependencies)
    ]
