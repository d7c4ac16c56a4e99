"""HTTP routes for acting on a run: flag and exclude an exchange, silence a tutor.

A request is checked against the run as it is now, and then becomes a message on `results` as any other; what came of
it is an event `acted`, since a batch may be sealed in between.
"""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from fastapi import APIRouter, HTTPException, Request

from services.broker.exchange.batches import adopt, is_sealed
from services.broker.machine.acting import Refusal, refusal_of
from services.broker.machine.plan import Plan
from shared.bus.keys import RESULTS
from shared.bus.port import Bus
from shared.contracts.acting import (
    Accepted,
    Act,
    ActAsked,
    ExchangeAct,
    ExchangeRef,
    ReasonRequest,
    SilenceAct,
    SilenceRequest,
)
from shared.contracts.run import RunState
from shared.errors import StorageError
from shared.files.batches import read_group
from shared.files.store import LocalStore
from shared.http.app import ADMIN, asked_by
from shared.http.bodies import JsonRoute
from shared.http.remote import RemoteCalls


def acting_routes(
    state: Callable[[], RunState], plan: Plan, bus: Bus, calls: RemoteCalls, run_dir: Path, *, train: bool
) -> APIRouter:
    """`train` off: the run is only served, so there is nothing to act on. Answers 202, 404 or 409."""
    router = APIRouter(prefix="/v1", route_class=JsonRoute, dependencies=ADMIN)
    store = LocalStore(run_dir)

    @router.post("/runs/{run}/silence", status_code=202)
    @calls.route
    def silence(run: str, body: SilenceRequest, request: Request) -> Accepted:
        if run != plan.run:
            raise HTTPException(404, f"this deployment serves run {plan.run}, not {run!r}")
        return ask(SilenceAct(id=uuid.uuid4().hex, tutor=body.tutor, by=asked_by(request), reason=body.reason))

    @router.post("/feedback/{key:path}/flag", status_code=202)
    @calls.route
    def flag(key: str, body: ReasonRequest, request: Request) -> Accepted:
        return ask(exchange_act("flag", key, body, request))

    @router.post("/feedback/{key:path}/exclude", status_code=202)
    @calls.route
    def exclude(key: str, body: ReasonRequest, request: Request) -> Accepted:
        return ask(exchange_act("exclude", key, body, request))

    def exchange_act(act: Literal["flag", "exclude"], key: str, body: ReasonRequest, request: Request) -> ExchangeAct:
        try:
            exchange = ExchangeRef.parse(key)
        except ValueError as error:
            raise HTTPException(404, str(error)) from error
        return ExchangeAct(id=uuid.uuid4().hex, act=act, exchange=exchange, by=asked_by(request), reason=body.reason)

    def ask(act: Act) -> Accepted:
        if not train:
            raise HTTPException(409, f"run {plan.run} is only served here; `opcod run --resume {plan.run}` goes on")
        refusal = refusal_of(state(), plan, act, sealed=_lies_sealed(store, plan, act)) or _unknown(store, plan, act)
        if refusal is not None:
            raise HTTPException(404 if refusal.kind == "missing" else 409, refusal.reason)
        bus.publish(RESULTS, ActAsked(act=act))
        return Accepted(accepted=act.id)

    return router


def _lies_sealed(store: LocalStore, plan: Plan, act: Act) -> bool:
    if not isinstance(act, ExchangeAct) or act.exchange.student not in plan.students:
        return False
    return is_sealed(store, act.exchange.student, act.exchange.step)


def _unknown(store: LocalStore, plan: Plan, act: Act) -> Refusal | None:
    """A flag on a sealed exchange must be of one that the batch holds."""
    if not isinstance(act, ExchangeAct):
        return None
    exchange = act.exchange
    missing = Refusal("missing", f"the batch of {exchange.student}, step {exchange.step} has no {exchange.key}")
    try:
        sealed = adopt(store, exchange.student, exchange.step, plan.run)
        if sealed is None:
            planned = {problem.id for problem in plan.step_problems(exchange.student, exchange.step)}
            return None if exchange.problem_id in planned else missing
        group = read_group(store, sealed.manifest, exchange.problem_id)
    except StorageError:
        return missing
    return None if any(sample.index == exchange.sample for sample in group.samples) else missing
