"""A Redis that outlives a run's directory: what begins a run of the same name anew is told before anything starts."""

from pathlib import Path

import pytest

from opcod.prepare.checks import check_settings
from opcod.prepare.run_directory import create_run
from services.broker.machine import machine
from shared.bus.keys import LEADER
from shared.bus.port import Commit
from shared.bus.redis import RedisBus
from shared.config.settings import Paths
from shared.errors import ConfigError
from shared.files.state import identity_of
from tests.fakes.deployment import scripted_settings
from tests.fakes.valkey import ValkeyServer
from tests.fakes.world import small_plan


def test_a_run_is_prepared_only_on_a_redis_without_another_of_its_name(server: ValkeyServer, tmp_path: Path) -> None:
    settings = scripted_settings(f"bus.url={server.connection_url}")
    paths = Paths(runs_dir=tmp_path / "runs", run="same-name", cache_dir=tmp_path / "cache")
    check_settings(paths, settings, "prepare")
    create_run(paths, settings)
    bus = RedisBus(server.connection_url, paths.run)
    fence = bus.acquire_lease(LEADER, "broker/0", ttl_s=60)
    assert fence is not None
    state = machine.new_run(small_plan(), incarnation=1, at=1.0, identity=identity_of(paths.run_dir))
    bus.commit(Commit(fence, 1, state.model_dump_json()))
    bus.close()
    check_settings(paths, settings, "prepare")  # as after `opcod prepare` is done again: the state is this run's own
    anew = paths.model_copy(update={"runs_dir": tmp_path / "emptied"})
    with pytest.raises(ConfigError, match=r"another run of that name.*opcod:\{same-name\}:\*") as told:
        check_settings(anew, settings, "prepare")
    assert told.value.exit_code == 2
    assert not anew.run_dir.exists()
    create_run(anew, settings)
    with pytest.raises(ConfigError, match="another run of that name"):
        check_settings(anew, settings, "prepare")
