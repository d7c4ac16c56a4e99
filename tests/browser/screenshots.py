"""`make screenshots RUN=runs/<run> BESIDE="<run> <run>"`: the page's main views of recorded runs, as docs/images."""

import argparse
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from services.inspector.app import build_app
from services.inspector.config import InspectorConfig
from services.inspector.ingest import Ingest
from services.inspector.store.filters import ExchangeFilter
from services.inspector.store.sealed import SealedBatches
from services.inspector.store.store import Store
from services.inspector.store.traces import Traces
from services.inspector.tracing import TraceReader
from services.inspector.web.folding import feed_rows
from shared.clock import SystemClock
from shared.config.environment import ServiceEnvironment
from shared.config.loading import read_toml, validate
from shared.errors import NotFoundError
from tests.browser.chromium import ARGUMENTS, on_path
from tests.fakes.bus.memory import MemoryBus
from tests.fakes.bus.memory_server import MemoryServer
from tests.fakes.listening import listening

IMAGES = Path(__file__).parents[2] / "docs" / "images"
WIDE, PHONE = {"width": 1200, "height": 850}, {"width": 375, "height": 760}
SETTLE_MS = 800
WAIT_MS = 120_000
"""A long page with many charts takes its time on a busy machine."""


def main(run: Path, beside: list[str]) -> None:
    """Reads the runs, writes nothing into them. beside: names of others in the same folder."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as copied, sync_playwright() as playwright:
        store = Store(Path(shutil.copytree(run / "inspector", Path(copied) / "inspector")) / "log.sqlite3", run.name)
        chromium = playwright.chromium.launch(executable_path=on_path(), args=ARGUMENTS)
        TraceReader(store, Traces(run, run.name)).look()
        with serving(run, store) as url:
            exchange = f"/feedback/{telling_exchange(store, run)}"
            group = f"/feedback/{telling_group(store)}/group"
            runs = "&".join(f"run={name}" for name in (run.name, *beside))
            for scheme in ("light", "dark"):
                take(chromium, f"{url}/", f"feed-{scheme}", scheme)
                take(chromium, url + exchange, f"exchange-{scheme}", scheme, whole=True)
                take(chromium, f"{url}/run", f"run-{scheme}", scheme, whole=True)
            take(chromium, f"{url}/", "feed-phone", "dark", size=PHONE)
            take(chromium, f"{url}/?shown=distributions", "distributions-light", "light")
            take(chromium, url + group, "group-light", "light", whole=True)
            take(chromium, f"{url}/runs?{runs}", "runs-light", "light", whole=True)
            take(chromium, f"{url}/ask", "ask-light", "light")
            take(chromium, f"{url}/run?beside={beside[0]}", "beside-light", "light", whole=True)
        store.close()


@contextmanager
def serving(run: Path, store: Store) -> Iterator[str]:
    settings = validate(read_toml(run / "config.toml"))
    environment = ServiceEnvironment(run=run.name, run_dir=run, cache_dir=run, redis_url="")
    config = InspectorConfig(environment, settings, None)
    bus, stopping = MemoryBus(MemoryServer()), threading.Event()
    sealed = SealedBatches(run, run.name)
    ingest = Ingest(bus, store, sealed, name="inspector/0", clock=SystemClock(), silent_s=60.0)
    with listening(build_app(config, store, ingest, bus, stopping)) as url:
        yield url
        stopping.set()


def telling_exchange(store: Store, run: Path) -> int:
    """The newest whose answer was fixed and that has a trace, or just the newest."""
    traces = Traces(run, run.name)
    for wanted in (ExchangeFilter(change="fixed"), ExchangeFilter()):
        for exchange in store.newest_exchanges(wanted, before=None, limit=200):
            try:
                traces.of(exchange)
            except NotFoundError:
                continue
            return exchange.id
    return store.newest_exchanges(ExchangeFilter(), before=None, limit=1)[0].id


def telling_group(store: Store) -> int:
    """The newest in which some answers are right and some wrong, as far as one looks; else the newest."""
    newest = store.newest_exchanges(ExchangeFilter(), before=None, limit=2000)
    mixed = (row for row in feed_rows(newest) if len({exchange.correct for exchange in row.exchanges}) > 1)
    return next((row.lowest for row in mixed), newest[0].id)


def take(
    browser: Browser, url: str, name: str, scheme: str, *, size: dict[str, int] = WIDE, whole: bool = False
) -> None:
    context = browser.new_context(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    page.goto(url)
    if page.locator("[data-chart], #charts").count():
        # Drawn once their figures have come, which on a busy machine is after any settling.
        page.locator(".uplot canvas").first.wait_for()
    page.wait_for_timeout(SETTLE_MS)
    tokens = page.locator(".heat .token")
    if tokens.count():
        heats = tokens.evaluate_all("all => all.map((token) => Number(token.className.slice(-1)))")
        tokens.nth(heats.index(max(heats))).hover()
    picture = Image.open(BytesIO(page.screenshot(full_page=whole))).convert("RGB")
    # A palette makes a third of the bytes; dithering would put dots into plain grounds.
    picture.quantize(256, kmeans=2, dither=Image.Dither.NONE).save(IMAGES / f"{name}.png", optimize=True)
    context.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="Its directory.")
    parser.add_argument("beside", nargs="+", help="Names of other runs in the same folder.")
    given = parser.parse_args()
    main(given.run.resolve(), given.beside)
