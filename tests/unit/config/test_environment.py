"""Where a service finds its run: the password of Redis, and where others reach it."""

from pathlib import Path

from shared.config.environment import ServiceEnvironment
from shared.obs.presence import own_url


def test_the_password_of_a_file_joins_the_url(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("secret\n")
    url = "redis://opcod@redis:6379/0"
    told = ServiceEnvironment(run="r1", run_dir=tmp_path, cache_dir=tmp_path, redis_url=url, redis_password_file=file)
    assert told.bus_url() == "redis://opcod:secret@redis:6379/0"
    assert told.model_copy(update={"redis_password_file": None}).bus_url() == url


def test_a_service_says_where_others_reach_it(tmp_path: Path) -> None:
    listening = tmp_path / "url"
    assert own_url(None, listening) is None
    listening.write_text("http://0.0.0.0:8100")
    assert own_url(None, listening) == "http://0.0.0.0:8100"
    assert own_url("http://student-a:8100", listening) == "http://student-a:8100"
    assert own_url(None, None) is None
