"""A run on a Redis with a password: it works, and no file of the run, log or page holds a part of the password."""

from pathlib import Path

import httpx2
import pytest

from opcod.local.deployment import read_deployment, run_lock
from opcod.local.launcher import Launcher
from opcod.prepare.run_directory import create_run
from shared.bus.redis import RedisBus
from shared.config.loading import settings_of
from shared.config.settings import Paths
from tests.fakes.deployment import scripted_settings
from tests.fakes.forked import fork
from tests.fakes.valkey import ValkeyServer

PASSWORD = "s3cret/with#all:of@it?"


@pytest.mark.slow
def test_a_password_stays_in_its_file(tmp_path: Path) -> None:
    paths = Paths(runs_dir=tmp_path / "runs", run="r1", cache_dir=tmp_path / "cache")
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n", encoding="utf-8-sig")
    with ValkeyServer(data_dir=tmp_path / "valkey", persist=True) as server:
        settings = scripted_settings(f"bus.url={server.connection_url}", f"bus.password_file={file}")
        admin = RedisBus(server.connection_url, "admin")
        admin.link.client.config_set("requirepass", PASSWORD)
        create_run(paths, settings)
        assert settings_of(paths.run_dir) == settings
        launcher = Launcher(paths, settings, "up", start_process=fork)
        try:
            with run_lock(paths.run_dir):
                deployment = launcher.start(lambda _: None)
                assert read_deployment(paths.run_dir) == deployment
                bus = RedisBus(deployment.bus_url(), paths.run)
                assert {beat.service for beat in bus.heartbeats()} >= {"broker", "student-a", "student-b"}
                bus.close()
                pages = [httpx2.get(e.url + "/metrics", trust_env=False).text for e in deployment.students]
        finally:
            launcher.stop()
            admin.close()
    files = [path.read_bytes() for path in paths.run_dir.rglob("*") if path.is_file()]
    assert len(files) > 5
    for part in ("s3cret", "with#all", "with%23all", "of@it"):
        assert not any(part.encode() in content for content in files), part
        assert not any(part in page for page in pages), part
