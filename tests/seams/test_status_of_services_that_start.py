"""`opcod status` while services start: all are asked at once, and who does not answer is named and not waited for."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import typer

from opcod.commands.status import ANSWER_S, StatusView, status
from opcod.local.deployment import Deployment, Endpoint, ensure_key, live_deployment, run_lock
from opcod.local.launcher import Launcher
from shared.config.loading import to_toml
from shared.config.settings import Paths
from shared.errors import StoppedError, UnavailableError
from shared.http.app import create_app
from tests.fakes.access import PLENTY
from tests.fakes.deployment import scripted_settings
from tests.fakes.listening import listening

RUN = "r1"


@pytest.fixture
def silent() -> Iterator[list[str]]:
    """URLs of services that take connections and say nothing, as one that loads a model does."""
    with ExitStack() as servers:
        sockets = [servers.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(4)]
        yield [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


def test_all_are_asked_at_once_and_those_without_an_answer_are_named(
    tmp_path: Path, silent: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / RUN
    run_dir.mkdir()
    (run_dir / "config.toml").write_text(to_toml(scripted_settings()))
    inspector, *students, redis = silent
    with listening(create_app("broker", ready=lambda: None, keys=None, limits=PLENTY)) as broker, run_lock(run_dir):
        Deployment(
            run=RUN,
            run_dir=run_dir,
            mode="run",
            key_file=ensure_key(run_dir),
            redis_url=f"redis://{redis}",
            broker=Endpoint(name="broker", url=broker),
            inspector=Endpoint(name="inspector", url=f"http://{inspector}"),
            students=[Endpoint(name=name, url=f"http://{url}") for name, url in zip("ab", students, strict=True)],
        ).save()
        began = time.monotonic()
        with pytest.raises(typer.Exit) as ended:
            status(as_json=True, runs_dir=tmp_path)
        took_s = time.monotonic() - began
    view = StatusView.model_validate_json(capsys.readouterr().out)
    assert (ended.value.exit_code, view.ready, view.page) == (69, False, f"http://{inspector}")
    assert view.not_ready == ["inspector", "student-a", "student-b", "trainer-a", "trainer-b"]
    assert {view.reasons[name] for name in ("inspector", "student-a", "student-b")} == {f"no answer in {ANSWER_S:g} s"}
    assert f"redis at redis://{redis} did not answer" in view.reasons["trainer-a"]
    assert took_s < 4 * ANSWER_S, "one after the other they take five times as long"


def test_a_start_forgets_where_the_services_of_the_one_before_were(tmp_path: Path) -> None:
    paths, settings = Paths(runs_dir=tmp_path, run=RUN, cache_dir=tmp_path / "cache"), scripted_settings()
    paths.run_dir.mkdir()
    Deployment(
        run=RUN,
        run_dir=paths.run_dir,
        mode="run",
        key_file=paths.run_dir / "key",
        redis_url="redis://127.0.0.1:1",
        broker=Endpoint(name="broker", url="http://127.0.0.1:1"),
    ).save()
    launcher = Launcher(paths, settings, "run", stopped=lambda: True)
    with run_lock(paths.run_dir):
        try:
            with pytest.raises(StoppedError):
                launcher.start(lambda _: None)
        finally:
            launcher.stop()
        with pytest.raises(UnavailableError, match="run r1 is not up yet"):
            live_deployment(tmp_path)
