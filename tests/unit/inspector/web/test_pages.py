"""What pages say, without a browser."""

import re
import threading
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from services.inspector.app import build_app
from services.inspector.ingest import Ingest
from services.inspector.store.records import Entry, LoggedEvent
from services.inspector.store.store import Store
from services.inspector.web import rendering
from services.inspector.web.reading import example_problems
from shared.config.loading import load_settings
from shared.contracts.events import StatusChanged
from shared.method import anchoring
from tests.fakes.access import LOCAL
from tests.unit.inspector.told import EventLog, acted, config, feedback, revised


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


@pytest.mark.parametrize(
    ("delivered", "said", "unsaid"),
    [
        ("Multiply.", "The feedback&#39;s prompt turned a wrong answer right.", "The prompt held no feedback"),
        (None, "A wrong answer became right. The prompt held no feedback", "The feedback&#39;s prompt"),
    ],
)
def test_only_feedback_that_was_let_through_turned_an_answer_right(
    delivered: str | None, said: str, unsaid: str, client: TestClient, store: Store
) -> None:
    told = feedback(delivered=delivered, verdict="match:force" if delivered else "no_match")
    store.append([Entry("1-0", told), Entry("2-0", revised())], "2-0")
    page = " ".join(client.get("/feedback/1").text.split())
    assert said in page
    assert unsaid not in page


def test_every_time_says_that_it_is_utc_and_a_state_is_words_wherever_it_stands(
    client: TestClient, store: Store
) -> None:
    ended = StatusChanged(at=2.0, source="broker/0", status="FINAL_EVAL", round=5)
    told: list[LoggedEvent] = [feedback(), acted(1, "flag"), ended]
    store.append([Entry(f"{number}-0", event) for number, event in enumerate(told, 1)], "3-0")
    for path in ("/", "/feedback/1", "/run"):
        times = re.findall("<time>(.*?)</time>", client.get(path).text)
        assert times and all(re.fullmatch(r"1970-01-01 00:00:0\d UTC", time) for time in times), (path, times)
    assert "Final eval, round 5" in client.get("/run").text


def test_pages_know_every_verdict() -> None:
    assert set(rendering.VERDICTS) == set(anchoring.VERDICTS)


def test_examples_are_looked_for_among_the_newest_only(store: Store) -> None:
    told = [feedback("p1", domain="chemistry", question="Old?"), feedback("p2", question="Newer?"), feedback("p3")]
    store.append([Entry(f"{number}-0", event) for number, event in enumerate(told, 1)], "3-0")
    domains = ("physics", "chemistry", "biology")
    assert example_problems(store, domains) == [told[2].question, "Old?"]
    assert example_problems(store, domains, among=2) == [told[2].question]
    store.append([Entry("9-0", feedback("p9", question="word " * 1000))], "9-0")
    assert example_problems(store, domains, among=1) == [], "its address would be too long"
