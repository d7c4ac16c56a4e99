"""Errors as a page for who reads pages: the same words that the API says in JSON."""

import json
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from services.inspector.web.rendering import Pages


def show_errors_as_pages(app: FastAPI, pages: Pages) -> None:
    """Wraps the app's handlers of errors; what a script asks for stays JSON."""
    for kind, handler in list(app.exception_handlers.items()):
        app.add_exception_handler(kind, _shown(handler, pages))


def _shown(handler: Any, pages: Pages) -> Any:
    async def shown(request: Request, error: Exception) -> Response:
        answer: Response = await handler(request, error)
        if "text/html" not in request.headers.get("accept", "") or request.url.path.startswith("/v1/"):
            return answer
        message = json.loads(bytes(answer.body))["error"]["message"]
        scope = getattr(request.state, "scope", None)
        return pages.page("error.html", scope=scope, status_code=answer.status_code, message=message)

    return shown
