"""What may be shown of the URL of a Redis, and that nothing else of it ever is."""

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.bus.redis_link import RedisLink
from shared.bus.redis_url import names_password, public_url, with_password
from shared.errors import ConfigError

SECRET = "sEcReT"


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("redis://host", "redis://host"),
        ("redis://:pw@host:6380/2", "redis://host:6380/2"),
        ("rediss://user:pw@host", "rediss://host"),
        ("redis://user:p@w@host:6379", "redis://host:6379"),
        ("redis://user:p%23w@[::1]:6379/0?ssl_cert_reqs=none", "redis://[::1]:6379/0"),
        ("redis://host?password=pw", "redis://host"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("unix://user:pw@/run/redis.sock?db=1", "unix:///run/redis.sock"),
    ],
)
def test_a_public_url_has_no_credentials(url: str, public: str) -> None:
    assert public_url(url) == public
    RedisLink(url, deadline_s=1).close()


@pytest.mark.parametrize(
    "url",
    [
        "http://host:1",
        "redis://host:notaport",
        "nothing",
        "",
        "redis://",
        "unix:",
        f"redis://:{SECRET}#{SECRET}@host",
        f"redis://:{SECRET}/{SECRET}@host",
        f"redis://user:12/{SECRET}@host",
        f"redis://user:12?{SECRET}@host",
        f"redis://user:12#{SECRET}@host",
        f"redis://user:{SECRET}[@host",
        f"redis://user:{SECRET}\u2100@host",
        f"redis://host/0/{SECRET}",
        f"unix:///run/redis.sock&password={SECRET}",
        f"unix:x:///run/redis&password={SECRET}",
        f"unix:///password={SECRET}",
        f"unix:{SECRET}",
        f"unix://{SECRET}/run/redis.sock",
    ],
)
def test_what_is_no_such_url_is_refused_without_a_part_of_it(url: str) -> None:
    with pytest.raises(ConfigError, match="percent-encode") as refused:
        RedisLink(url, deadline_s=1)
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None, "a traceback would show it"


def test_options_that_are_none_are_refused_without_credentials() -> None:
    with pytest.raises(ConfigError, match=r"redis://host: expected options") as refused:
        RedisLink(f"redis://:{SECRET}@host?socket_timeout=soon", deadline_s=1)
    assert SECRET not in str(refused.value)


@given(st.text(string.printable, min_size=1).map(lambda text: f"{SECRET}{text}{SECRET}"))
def test_whatever_a_password_holds_no_part_of_it_is_shown(password: str) -> None:
    for url in (f"redis://:{password}@host:6379/0", f"redis://user:{password}@host", f"redis://user:12{password}@host"):
        try:
            shown = public_url(url)
        except ConfigError as refused:
            shown = str(refused)
        assert SECRET.lower() not in shown.lower()


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("redis://host", False),
        ("redis://user@host", False),
        ("redis://:pw@host", True),
        ("redis://user:pw@host", True),
        ("redis://host?password=pw", True),
        ("unix:///run/redis.sock?password=pw", True),
    ],
)
def test_whether_a_url_names_a_password(url: str, named: bool) -> None:
    assert names_password(url) is named


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://redis:6379/0", "redis://:s%2Fcret%40@redis:6379/0"),
        (
            "rediss://opcod@redis:6380/0?ssl_cert_reqs=none",
            "rediss://opcod:s%2Fcret%40@redis:6380/0?ssl_cert_reqs=none",
        ),
        ("redis://opcod@[::1]:6380/0", "redis://opcod:s%2Fcret%40@[::1]:6380/0"),
    ],
)
def test_the_password_of_a_file_joins_the_url(tmp_path: Path, url: str, expected: str) -> None:
    file = tmp_path / "password"
    file.write_bytes(b"\xef\xbb\xbfs/cret@\r\n")
    assert with_password(url, file) == expected


@pytest.mark.parametrize(
    ("url", "content", "reason"),
    [
        ("redis://redis", None, "cannot read it"),
        ("redis://redis", b" \n", "found it empty"),
        ("redis://opcod:other@redis", b"secret", "leave one out"),
        ("redis://redis", "sécret".encode("latin-1"), "as UTF-8 text"),
        ("redis://redis", "secret".encode("utf-16"), "as UTF-8 text"),
    ],
)
def test_a_password_that_cannot_be_used_is_refused(
    tmp_path: Path, url: str, content: bytes | None, reason: str
) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=reason) as refused:
        with_password(url, file)
    assert "other" not in str(refused.value).replace("other bytes", "")
