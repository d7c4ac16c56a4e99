"""What pages say, without a browser."""

import threading
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from services.inspector.app import build_app
from services.inspector.ingest import Ingest
from services.inspector.store.store import Store
from shared.config.loading import load_settings
from tests.fakes.access import LOCAL
from tests.unit.inspector.told import EventLog, config


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["run.method=grpo", "gate.mode=cognizance"], "Nobody tutors in this run: run.method is grpo."),
        (["gate.mode=never"], "Nobody tutors in this run: gate.mode is never."),
        ([], "No feedback yet."),
    ],
)
def test_where_nobody_tutors_no_feedback_is_waited_for(
    settings: list[str], said: str, store: Store, ingest: Ingest, log: EventLog, tmp_path: Path
) -> None:
    loaded = load_settings(preset="smoke", overrides=settings, environ={})
    app = build_app(config(tmp_path, settings=loaded), store, ingest, log, threading.Event())
    client = TestClient(app, base_url=LOCAL)
    for path in ("/", "/run"):
        page = client.get(path).text
        assert said in page
        assert ("yet. The first" in page) == (path == "/" and not settings)
