"""The pages that send something on to the broker: a question to the peers, an act about an exchange."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Form, Header, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.sse import format_sse_event
from starlette.concurrency import run_in_threadpool

from services.inspector.http.acting import act_path, silence_path
from services.inspector.http.api import ExchangeId, known_exchange
from services.inspector.web.differences import Change, change_of
from services.inspector.web.pages import Site
from services.inspector.web.reading import example_problems
from services.inspector.web.rendering import link
from shared.contracts.acting import MAX_REASON_CHARS, ReasonRequest, SilenceRequest
from shared.contracts.http import Advised, Answered, AnsweredAgain, AskRequest, Stage
from shared.contracts.messages import Worded
from shared.errors import OpcodError
from shared.http.access import Scope
from shared.http.app import ADMIN, ASK, READ
from shared.http.sse import EVENT_STREAM, EventStream, Frames, unless_gone

MAX_QUESTION = 20_000

Told = AsyncGenerator[Stage | str, None]


@dataclass(frozen=True)
class ShownStage:
    """A stage as the page shows it. change: from the first answer, where this is the revised one."""

    stage: Stage | str
    change: Change | None = None


Question = Annotated[str, Form(max_length=MAX_QUESTION)]
Name = Annotated[str, Form(max_length=100)]


def writing_routes(site: Site) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/ask", dependencies=READ)
    def ask_form(request: Request, problem: Annotated[str, Query(max_length=MAX_QUESTION)] = "") -> HTMLResponse:
        examples = example_problems(site.store, site.run.domains) if not problem else []
        return site.pages.page(
            "ask.html", scope=request.state.scope, problem=problem, first="", tutor="", shown=[], examples=examples
        )

    @router.post("/ask", dependencies=ASK)
    async def ask(
        request: Request,
        problem: Question = "",
        first: Name = "",
        tutor: Name = "",
        accept: Annotated[str, Header()] = "",
    ) -> Response:
        """Stage by stage for htmx, as one page for a browser without scripts."""
        scope: Scope = request.state.scope
        stages = _stages(site, problem, first, tutor, scope)
        if EVENT_STREAM in accept:
            # Not open_stream: htmx gives up a minute after it asked, where no answer has begun.
            return EventStream(_frames(site, stages))
        said = await unless_gone(request, _whole(stages))
        return site.pages.page(
            "ask.html", scope=scope, problem=problem, first=first, tutor=tutor, shown=said, examples=[]
        )

    @router.post("/feedback/{exchange_id}/act", dependencies=ADMIN)
    @site.calls.route
    def act(
        request: Request,
        exchange_id: ExchangeId,
        act: Annotated[Literal["flag", "exclude", "silence"], Form()],
        reason: Annotated[Worded, Form(max_length=MAX_REASON_CHARS)],
    ) -> RedirectResponse:
        """Passed on to the broker; what comes of it is an event, which the page shows when it is loaded again."""
        exchange = known_exchange(site.store, exchange_id)
        if act == "silence":
            silence = SilenceRequest(reason=reason, tutor=exchange.tutor, student=exchange.student)
            site.broker.act(silence_path(exchange.run), silence, request.state.scope)
        else:
            site.broker.act(act_path(exchange, act), ReasonRequest(reason=reason), request.state.scope)
        return RedirectResponse(link(f"/feedback/{exchange_id}", {"asked": act}), 303)

    return router


async def _stages(site: Site, problem: str, first: str, tutor: str, scope: Scope) -> Told:
    """What the peers say, and in the place of what did not come the reason."""
    if not problem.strip():
        yield "Expected a problem, got none; write one into the field."
        return
    request = AskRequest(problem=problem.strip(), first=first or None, tutor=tutor or None)
    try:
        async with aclosing(site.broker.stages(request, scope)) as stages:
            async for stage in stages:
                yield stage
    except OpcodError as error:
        yield str(error)
    except HTTPException as refused:
        yield str(refused.detail)


async def _shown(told: Told) -> AsyncGenerator[ShownStage, None]:
    first, feedback = "", None
    async with aclosing(told) as stages:
        async for stage in stages:
            change = None
            match stage:
                case Answered():
                    first = stage.text
                case Advised():
                    feedback = stage.delivered
                case AnsweredAgain():
                    change = await run_in_threadpool(change_of, first, stage.text, feedback)
            yield ShownStage(stage, change)


async def _frames(site: Site, told: Told) -> Frames:
    async with aclosing(_shown(told)) as stages:
        async for shown in stages:
            yield format_sse_event(data_str=site.pages.render("stage.html", shown=shown))


async def _whole(told: Told) -> list[ShownStage]:
    async with aclosing(_shown(told)) as stages:
        return [shown async for shown in stages]
