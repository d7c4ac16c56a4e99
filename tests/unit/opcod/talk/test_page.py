"""The address that `opcod run`, `up` and `status` print."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

from opcod.local.deployment import KEY_FILE, Deployment, Endpoint
from opcod.talk.client import Page, page_of
from services.inspector.app import build_app
from services.inspector.ingest import Ingest
from services.inspector.store.sealed import SealedBatches
from services.inspector.store.store import Store
from shared.http.access import new_keys, read_keys
from tests.fakes.listening import listening
from tests.unit.inspector.told import RUN, EventLog, StillClock, config


def deployed(run_dir: Path, url: str | None) -> Deployment:
    return Deployment(
        run=RUN,
        run_dir=run_dir,
        mode="run",
        redis_url="",
        key_file=run_dir / KEY_FILE,
        inspector=Endpoint(name="inspector", url=url) if url else None,
    )


@contextmanager
def inspector(tmp_path: Path, **changes: str) -> Iterator[str]:
    """The URL at which services ask an inspector with keys."""
    (tmp_path / KEY_FILE).write_text(new_keys())
    store, log = Store(tmp_path / "log.sqlite3", RUN), EventLog()
    sealed = SealedBatches(tmp_path, RUN)
    ingest = Ingest(log, store, sealed, name="inspector/0", clock=StillClock(), silent_s=60, block_s=0)
    keyed = config(tmp_path, keys=read_keys(tmp_path / KEY_FILE), **changes)
    with listening(build_app(keyed, store, ingest, log, threading.Event())) as url:
        yield url
    store.close()


def test_the_address_logs_a_browser_in(tmp_path: Path) -> None:
    with inspector(tmp_path) as url, httpx2.Client(trust_env=False, follow_redirects=True) as browser:
        told = page_of(deployed(tmp_path, url))
        assert told is not None and told.logs_in
        page = browser.get(str(told))
        assert (page.status_code, str(page.url)) == (200, f"{url}/")
        assert "Log out" in page.text


def test_where_browsers_have_another_address_for_it_the_link_names_that(tmp_path: Path) -> None:
    public = "https://inspector.example.org"
    with inspector(tmp_path, public_url=public) as url, httpx2.Client(trust_env=False) as browser:
        address = str(page_of(deployed(tmp_path, url)))
        assert address.startswith(f"{public}/login?once=")
        assert browser.get(address.replace(public, url)).status_code == 303


def test_where_nobody_answers_the_plain_address_is_told_as_one_that_asks_for_a_key(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).write_text(new_keys())
    told = page_of(deployed(tmp_path, "http://127.0.0.1:9"))
    assert told == Page("http://127.0.0.1:9", logs_in=False)
    assert str(told).startswith("http://127.0.0.1:9 (it asks for a key")


def test_without_an_inspector_there_is_no_page(tmp_path: Path) -> None:
    assert page_of(deployed(tmp_path, None)) is None
