"""Where a service finds its run: the password of Redis, and where others reach it."""

from pathlib import Path

import pytest

from shared.config.environment import ServiceEnvironment, with_password
from shared.errors import ConfigError
from shared.presence import own_url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://redis:6379/0", "redis://:s%2Fcret%40@redis:6379/0"),
        (
            "rediss://opcod@redis:6380/0?ssl_cert_reqs=none",
            "rediss://opcod:s%2Fcret%40@redis:6380/0?ssl_cert_reqs=none",
        ),
    ],
)
def test_the_password_of_a_file_joins_the_url(tmp_path: Path, url: str, expected: str) -> None:
    file = tmp_path / "password"
    file.write_text("s/cret@\n")
    assert with_password(url, file) == expected
    told = ServiceEnvironment(run="r1", run_dir=tmp_path, cache_dir=tmp_path, redis_url=url, redis_password_file=file)
    assert told.bus_url() == expected
    assert told.model_copy(update={"redis_password_file": None}).bus_url() == url


@pytest.mark.parametrize(
    ("url", "content", "reason"),
    [
        ("redis://redis", None, "cannot read it"),
        ("redis://redis", " \n", "found it empty"),
        ("redis://opcod:other@redis", "secret", "leave one out"),
    ],
)
def test_a_password_that_cannot_be_used_is_refused(tmp_path: Path, url: str, content: str | None, reason: str) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=reason):
        with_password(url, file)


def test_a_service_says_where_others_reach_it(tmp_path: Path) -> None:
    listening = tmp_path / "url"
    assert own_url(None, listening) is None
    listening.write_text("http://0.0.0.0:8100")
    assert own_url(None, listening) == "http://0.0.0.0:8100"
    assert own_url("http://student-a:8100", listening) == "http://student-a:8100"
    assert own_url(None, None) is None
