"""The URL of a Redis: where it is, which may be shown, and a password, which may not.

What always holds: no message holds more of a URL than scheme, host, port and database. A password with a reserved
character moves the borders of a URL's parts, so one that does not fit in every part is refused without a word of it.
"""

import re
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, quote, urlsplit, urlunsplit

from shared.errors import ConfigError
from shared.files.text import read_text

SECRET_OPTIONS = frozenset({"username", "password"})
"""Words after `?` that redis-py takes for credentials."""

EXPECTED = (
    "expected a URL such as redis://host:6379/0, rediss://user@host or unix:///path, got another, which is not shown, "
    "as it may hold a password; percent-encode reserved characters in one ('#' is %23, '/' %2F, ':' %3A, '?' %3F, "
    "'@' %40), or leave it out and name a password file"
)


def public_url(url: str) -> str:
    """`url` without user, password and options, fit for a message. Raises ConfigError if it is none of a Redis."""
    parts = _parts(url)
    host = parts.hostname or ""
    place = f"[{host}]" if ":" in host else host
    port = f":{parts.port}" if parts.port is not None else ""
    return f"{parts.scheme}://{place}{port}{parts.path}"


def names_password(url: str) -> bool:
    """Whether a password stands in `url`. Raises ConfigError if it is none of a Redis."""
    parts = _parts(url)
    return parts.password is not None or any(name in SECRET_OPTIONS for name, _ in parse_qsl(parts.query))


def with_password(url: str, file: Path) -> str:
    """`redis://user@host:6379/0` with the password that is in `file`; the user is optional. Raises ConfigError."""
    password = read_text(file, "the password of Redis").strip()
    if not password:
        raise ConfigError(f"expected the password of Redis in {file}, found it empty")
    if names_password(url):
        raise ConfigError(f"the URL of Redis names a password, and so does {file}; leave one out")
    parts = _parts(url)
    user, at, place = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user if at else ''}:{quote(password, safe='')}@{place}"))


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        # Read in here: only when it is asked for does urlsplit see that a port is none.
        port = parts.port
    except ValueError:
        raise ConfigError(EXPECTED) from None  # the error's own words hold parts of the URL
    if parts.scheme == "unix":
        fits = not parts.hostname and port is None and _is_socket(parts.path)
    else:
        fits = parts.scheme in ("redis", "rediss") and bool(parts.hostname) and _is_database(parts.path)
    # An unescaped `#` or `?` in a password cuts it off there; the `@` behind it then is in another part.
    if not fits or parts.fragment or "@" in parts.query:
        raise ConfigError(EXPECTED)
    return parts


def _is_socket(path: str) -> bool:
    """What has an option's marks in it has lost its `?`, and might hold a password."""
    return path.startswith("/") and not set("&=") & set(path)


def _is_database(path: str) -> bool:
    return re.fullmatch(r"/?[0-9]*", path) is not None
