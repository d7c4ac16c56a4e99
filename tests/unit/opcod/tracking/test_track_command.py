"""`opcod track` of a run that is over, or ends meanwhile: what its inspector kept goes out as it came in."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from opcod.commands.track import track
from opcod.talk.exchanges import LastingExchanges, StoredExchanges
from opcod.tracking.figures import figures
from services.inspector.config import STORE
from services.inspector.store.filters import ExchangeFilter
from services.inspector.store.records import Entry, Gap
from services.inspector.store.store import Store
from shared.contracts.events import Event, Revised
from shared.errors import ConfigError, UnavailableError
from tests.fakes.broker import RUN
from tests.unit.opcod.tracking.test_trackers import Library


def keep(run_dir: Path, log: list[Event]) -> None:
    """What the run's inspector leaves of the log."""
    (run_dir / STORE).parent.mkdir(parents=True)
    (run_dir / "config.toml").touch()
    store = Store(run_dir / STORE, RUN)
    gap = Gap(at=1.0, source="inspector", after="0", before="1-0", reason="trimmed")
    store.append([Entry("1-0.gap", gap)], "0")
    for number, event in enumerate(log, start=1):
        store.append([Entry(f"{number}-0", event)], f"{number}-0")
    store.close()


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    library = Library("trackio", "init", "log", "Table", "finish")
    monkeypatch.setitem(sys.modules, "trackio", library)
    return library


def assert_sent(library: Library, log: list[Event]) -> None:
    wanted = [dict(found.values) for event in log if (found := figures(event)) is not None]
    sent = [args[0] for args, _ in library.of("log")]
    assert [each for each in sent if not any("revised" in name for name in each)] == wanted
    again = {next(iter(each))[0] for each in sent if any("revised" in name for name in each)}
    assert again <= {event.student for event in log if isinstance(event, Revised)}
    assert len(library.of("finish")) == 1


def test_a_run_that_is_over_is_sent_whole_and_its_gaps_are_passed_over(
    log: list[Event], library: Library, tmp_path: Path
) -> None:
    keep(tmp_path / RUN, log)
    track(to="trackio", run_name=RUN, exchanges=0, follow=False, runs_dir=tmp_path)
    assert_sent(library, log)


class Ending:
    """A run that is up, whose bus and inspector are gone once `told` events were read."""

    run = RUN

    def __init__(self, log: list[Event], told: int) -> None:
        self._pages = [[(f"{number}-0", event) for number, event in enumerate(log[:told], start=1)]]

    def bus_url(self) -> str:
        return "redis://nowhere"

    def read_events(self, after: str, *, count: int, block_s: float) -> list[tuple[str, Event]]:  # noqa: ARG002
        if not self._pages:
            raise UnavailableError("the bus is gone")
        return self._pages.pop()

    def close(self) -> None:
        """As a bus has it."""


@pytest.fixture
def ending(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Event], int], None]:
    def end(log: list[Event], told: int) -> None:
        run = Ending(log, told)
        monkeypatch.setattr("opcod.commands.track.live_deployment", lambda *_: run)
        monkeypatch.setattr("opcod.commands.track.RedisBus", lambda *_: run)

    return end


@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_what_a_run_that_ends_took_along_is_read_from_its_directory(
    log: list[Event],
    library: Library,
    ending: Callable[[list[Event], int], None],
    tmp_path: Path,
    share: float,
) -> None:
    keep(tmp_path / RUN, log)
    ending(log, int(share * len(log)))
    track(to="trackio", run_name=RUN, exchanges=0, follow=True, runs_dir=tmp_path)
    assert_sent(library, log)


def test_a_run_whose_bus_is_gone_before_its_end_is_no_run_that_is_over(
    log: list[Event], library: Library, ending: Callable[[list[Event], int], None], tmp_path: Path
) -> None:
    begun = log[: len(log) // 2]
    keep(tmp_path / RUN, begun)
    ending(begun, len(begun) // 2)
    with pytest.raises(UnavailableError, match="the bus is gone"):
        track(to="trackio", run_name=RUN, exchanges=0, follow=True, runs_dir=tmp_path)
    assert_sent(library, begun)


class Gone:
    """The exchanges of an inspector that went away."""

    of = "an inspector"

    def newest(self, *_: object) -> NoReturn:
        raise UnavailableError("the inspector is gone")

    trace = export = newest


def test_exchanges_of_an_inspector_that_goes_away_come_from_the_directory(told: StoredExchanges) -> None:
    opened: list[str] = []

    def stored() -> StoredExchanges:
        opened.append(told.of)
        return told

    lasting = LastingExchanges(Gone(), stored)
    wanted = told.newest(ExchangeFilter(), 5)
    assert lasting.newest(ExchangeFilter(), 5) == wanted and len(wanted) == 5
    assert lasting.newest(ExchangeFilter(), 1) == wanted[:1]
    assert opened == [told.of] == [lasting.of]
    with pytest.raises(UnavailableError, match="the inspector is gone"):
        LastingExchanges(Gone(), Gone).newest(ExchangeFilter(), 5)


def test_a_run_that_is_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a run at"):
        track(to="trackio", run_name="nowhere", exchanges=0, follow=False, runs_dir=tmp_path)
