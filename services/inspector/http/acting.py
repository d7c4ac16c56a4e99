"""Acting on what is seen: the inspector changes nothing itself, it passes the request on to the broker."""

from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import APIRouter, Header, Query, Request

from services.inspector.http.api import ExchangeId, known_exchange
from services.inspector.http.broker import BrokerClient
from services.inspector.http.views import ActPage, ExchangeView
from services.inspector.store.store import Store
from shared.contracts.acting import Accepted, ReasonRequest, SilenceRequest
from shared.http.app import ADMIN, READ, JsonRoute
from shared.http.remote import RemoteCalls

MAX_ACTS = 1000

Authorization = Annotated[str | None, Header(include_in_schema=False)]


def act_path(exchange: ExchangeView, act: Literal["flag", "exclude"]) -> str:
    """Where the broker takes this act on this exchange."""
    return f"/v1/feedback/{quote(exchange.key, safe='')}/{act}"


def silence_path(run: str) -> str:
    return f"/v1/runs/{quote(run, safe='')}/silence"


def acting_routes(store: Store, broker: BrokerClient, calls: RemoteCalls, run: str) -> APIRouter:
    """What people did about this run, and routes to do it. 202, or the broker's own refusal."""
    router = APIRouter(prefix="/v1", route_class=JsonRoute)

    @router.get("/acts", dependencies=READ)
    def acts(limit: Annotated[int, Query(ge=1, le=MAX_ACTS)] = 100) -> ActPage:
        """Newest first, those that were refused included."""
        return ActPage(items=tuple(store.log.newest(("acted",), limit)))

    @router.post("/feedback/{exchange_id}/{act}", status_code=202, dependencies=ADMIN)
    @calls.route
    def act_on(
        exchange_id: ExchangeId,
        act: Literal["flag", "exclude"],
        body: ReasonRequest,
        request: Request,
        authorization: Authorization = None,
    ) -> Accepted:
        path = act_path(known_exchange(store, exchange_id), act)
        return broker.act(path, body, request.state.scope, authorization)

    @router.post("/silence", status_code=202, dependencies=ADMIN)
    @calls.route
    def silence(body: SilenceRequest, request: Request, authorization: Authorization = None) -> Accepted:
        return broker.act(silence_path(run), body, request.state.scope, authorization)

    return router
