"""A run that goes on tells what is new, and not its whole history again."""

from pathlib import Path

import pytest

from opcod.local.launcher import Launcher
from opcod.prepare.run_directory import create_run
from shared.bus.redis import RedisBus
from shared.config.settings import Paths
from tests.contract.messages import status
from tests.fakes.deployment import scripted_settings
from tests.fakes.forked import fork


@pytest.mark.slow
def test_news_begin_where_the_services_are_started_again(tmp_path: Path) -> None:
    paths = Paths(runs_dir=tmp_path, run="r1", cache_dir=tmp_path)
    settings = scripted_settings()
    create_run(paths, settings)
    begins, ends, news = [], [], []
    for number in range(2):
        launcher = Launcher(paths, settings, "up", start_process=fork)
        try:
            bus = RedisBus(launcher.start(lambda _: None).bus_url(), paths.run)
            bus.emit(status(number))
            begins.append(launcher.events_before)
            news.append([event.kind for _, event in bus.read_events(launcher.events_before, count=100, block_s=0)])
            ends.append(bus.last_event_id())
            bus.close()
        finally:
            launcher.stop()
    assert begins == ["0", ends[0]]
    assert [[kind for kind in kinds if kind != "serving"] for kinds in news] == [["status"], ["taken_up", "status"]]
