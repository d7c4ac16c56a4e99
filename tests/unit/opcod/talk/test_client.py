"""How the command line talks to services that are up."""

from contextlib import closing
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

from opcod.local.deployment import Deployment, Endpoint, ensure_key
from opcod.talk.client import Client
from shared.config.loading import load_settings, to_toml
from shared.contracts.acting import Accepted, ReasonRequest
from shared.errors import OpcodError
from tests.fakes.listening import listening


def deployment(run_dir: Path, *overrides: str, broker: str | None = None) -> Deployment:
    settings = load_settings(preset="smoke", overrides=overrides, environ={})
    (run_dir / "config.toml").write_text(to_toml(settings))
    return Deployment(
        run="r1",
        run_dir=run_dir,
        mode="run",
        key_file=ensure_key(run_dir),
        redis_url="redis://x",
        broker=Endpoint(name="broker", url=broker) if broker else None,
    )


@pytest.mark.parametrize(("overrides", "at_least_s"), [((), 120), (("serving.request_timeout_s=900",), 900)])
def test_it_waits_longer_than_a_service_takes_for_an_answer(
    tmp_path: Path, overrides: tuple[str, ...], at_least_s: float
) -> None:
    with closing(Client(deployment(tmp_path, *overrides))) as client:
        assert at_least_s < client.timeout_s <= at_least_s + 60


def test_what_is_no_answer_of_the_broker_is_one_line_with_its_address(tmp_path: Path) -> None:
    app = FastAPI()
    app.add_api_route("/page", lambda: PlainTextResponse("<html>of a proxy</html>"))
    events = "event: error\ndata: {}\n\n"
    app.add_api_route("/ask", lambda: PlainTextResponse(events, media_type="text/event-stream"), methods=["POST"])
    with listening(app) as url, closing(Client(deployment(tmp_path, broker=url))) as client:
        with pytest.raises(OpcodError, match=f"^{url}/page answered something else than was asked for"):
            client.broker("GET", "/page", Accepted)
        with pytest.raises(OpcodError, match=f"^{url}/ask answered something else than was asked for"):
            list(client.broker_events("/ask", ReasonRequest(reason="x")))
