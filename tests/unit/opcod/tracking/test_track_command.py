"""`opcod track` of a run that is over: what its inspector kept goes out as it came in."""

import sys
from pathlib import Path

import pytest

from opcod.commands.track import track
from opcod.tracking.figures import figures
from services.inspector.config import STORE
from services.inspector.store.records import Entry, Gap
from services.inspector.store.store import Store
from shared.contracts.events import Event
from shared.errors import ConfigError
from tests.fakes.broker import RUN
from tests.unit.opcod.tracking.test_trackers import Library


def test_a_run_that_is_over_is_sent_whole_and_its_gaps_are_passed_over(
    log: list[Event], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / RUN
    (run_dir / STORE).parent.mkdir(parents=True)
    (run_dir / "config.toml").touch()
    store = Store(run_dir / STORE, RUN)
    gap = Gap(at=1.0, source="inspector", after="0", before="1-0", reason="trimmed")
    store.append([Entry("1-0.gap", gap)], "0")
    for number, event in enumerate(log, start=1):
        store.append([Entry(f"{number}-0", event)], f"{number}-0")
    store.close()
    library = Library("trackio", "init", "log", "Table", "finish")
    monkeypatch.setitem(sys.modules, "trackio", library)
    track(to="trackio", run_name=RUN, exchanges=0, follow=False, runs_dir=tmp_path)
    wanted = [dict(found.values) for event in log if (found := figures(event)) is not None]
    assert [args[0] for args, _ in library.of("log")] == wanted
    assert len(library.of("finish")) == 1


def test_a_run_that_is_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a run at"):
        track(to="trackio", run_name="nowhere", exchanges=0, follow=False, runs_dir=tmp_path)
