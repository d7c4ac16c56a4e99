"""Where services listen: URLs of every kind of host, what a Host header names, sockets that cannot be had."""

import socket
from urllib.parse import urlsplit

import pytest

from shared.errors import ConfigError
from shared.http.addresses import http_url, is_loopback, listen, needs_dns, split_place
from tests.fakes.ipv6 import needs_ipv6


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("box", "http://box:80"),
        ("::1", "http://[::1]:80"),
        ("fd00::2", "http://[fd00::2]:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("", "http://127.0.0.1:80"),
    ],
)
def test_a_url_names_where_a_service_is_reached(host: str, url: str) -> None:
    assert http_url(host, 80) == url
    assert urlsplit(url).port == 80


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("box:8000", ("box", 8000)),
        ("Box.example", ("box.example", None)),
        ("student_a:8100", ("student_a", 8100)),
        ("[::1]:8000", ("::1", 8000)),
        ("[::1]", ("::1", None)),
        ("box:", ("box", None)),
        ("::1", None),
        ("[", None),
        ("", None),
        ("box:80:90", None),
        ("box:٣", None),
        ("box:123456", None),
        ("user@box", None),
        ("box/path", None),
        ("b\xf6x", None),
        ("box\n", None),
    ],
)
def test_a_host_header_is_host_and_port_or_none(text: str, found: tuple[str, int | None] | None) -> None:
    assert split_place(text) == found


@pytest.mark.parametrize(
    ("host", "loopback", "by_dns"),
    [
        ("127.0.0.1", True, False),
        ("127.0.0.2", True, False),
        ("::1", True, False),
        ("0:0:0:0:0:0:0:1", True, False),
        ("localhost", True, False),
        ("LOCALHOST", True, False),
        ("localhost.", False, False),
        ("app.localhost", False, False),
        ("10.0.0.7", False, False),
        ("0.0.0.0", False, False),
        ("", False, True),
        ("box", False, True),
        ("localhost.evil.example", False, True),
        ("127.0.0.1.evil.example", False, True),
        ("notlocalhost", False, True),
    ],
)
def test_what_a_host_may_stand_for(host: str, loopback: bool, by_dns: bool) -> None:
    assert (is_loopback(host), needs_dns(host)) == (loopback, by_dns)


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
def test_a_port_that_is_taken_is_named_with_its_host(host: str) -> None:
    with listen(host, 0) as taken:
        port = taken.getsockname()[1]
        socket.create_connection((host, port), timeout=5).close()
        with pytest.raises(ConfigError, match="Address already in use; choose another port") as refused:
            listen(host, port)
    assert http_url(host, port).removeprefix("http://") in str(refused.value)


@pytest.mark.parametrize("host", ["192.0.2.1", "nobody.invalid"])
def test_a_host_that_is_not_here_is_to_be_changed_not_the_port(host: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot listen on {host}:0: .*; choose another host"):
        listen(host, 0)
