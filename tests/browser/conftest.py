from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.chromium import WAIT_MS, Viewer, chromium, viewer
from tests.browser.scripted import scripted_stand
from tests.browser.stand import Stand, new_stand


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One a file: playwright keeps an event loop in this thread while it lives, which others' tests cannot have."""
    expect.set_options(timeout=WAIT_MS)
    with chromium() as started:
        yield started


@pytest.fixture(scope="package")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """A scripted run that is done. Read it only."""
    with scripted_stand(tmp_path_factory.mktemp("recorded")) as stand, stand.serving():
        yield stand


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Stand]:
    """A run in which nothing happened yet."""
    with new_stand(tmp_path) as stand, stand.serving():
        yield stand


@pytest.fixture
def reader(browser: Browser, recorded: Stand) -> Iterator[Viewer]:
    """Looks at the recorded run; whatever it opens may cause no fault."""
    with viewer(browser, recorded.url) as opened:
        yield opened
        assert opened.faults == []


@pytest.fixture
def watcher(browser: Browser, live: Stand) -> Iterator[Viewer]:
    """Looks at the live run; whatever it opens may cause no fault."""
    with viewer(browser, live.url) as opened:
        yield opened
        assert opened.faults == []
