"""Bearer keys, what each may do and how much of it.

A key file has one key a line, `<scope> <key>`; a bare key may do everything. A scope includes those before it: read
(watch), ask (query the students), admin (pause, resume, abort).
"""

import enum
import hashlib
import secrets
from dataclasses import dataclass
from pathlib import Path

from shared.errors import ConfigError
from shared.files.text import read_text
from shared.http.addresses import is_loopback


class Scope(enum.IntEnum):
    """What a key may do; a greater one includes the lesser."""

    READ = 1
    ASK = 2
    ADMIN = 3

    @property
    def word(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Grant:
    """What a caller may do, and by which key (`key_name`)."""

    key: str
    scope: Scope


@dataclass(frozen=True)
class Limits:
    """Of one service; requests are those of each key (all callers together where there are no keys). body_s: within
    which a body has come."""

    max_body_bytes: int
    requests_per_minute: int
    concurrent_requests: int
    body_s: float = 30.0


class AccessKeys:
    """The keys that a service accepts."""

    def __init__(self, scopes: dict[str, Scope]) -> None:
        self._scopes = [(key.encode(), scope) for key, scope in scopes.items()]

    @property
    def strongest(self) -> str:
        """The key that may do most: what services use among themselves, and the command line."""
        return max(self._scopes, key=lambda item: item[1])[0].decode()

    def of_scope(self, scope: Scope) -> str | None:
        """A key that may do just that: what a service that asks another in a caller's name shows; None without one."""
        return next((key.decode() for key, granted in self._scopes if granted is scope), None)

    def scope_of(self, presented: str) -> Scope | None:
        """None for an unknown key. Every key is compared, each in constant time."""
        given = presented.encode()
        # No early end: how long it takes must not tell which key was close.
        found = [scope for key, scope in self._scopes if secrets.compare_digest(given, key)]
        return max(found, default=None)


def read_keys(path: Path) -> AccessKeys:
    """Raises ConfigError if the file cannot be read, holds no key, or a line is not one."""
    lines = read_text(path, "bearer keys").splitlines()
    scopes: dict[str, Scope] = {}
    for number, line in enumerate(lines, start=1):
        match line.split():
            case []:
                continue
            case [key]:
                scopes[key] = Scope.ADMIN
            case [word, key] if word.upper() in Scope.__members__:
                scopes[key] = Scope[word.upper()]
            case _:
                known = ", ".join(scope.word for scope in Scope)
                raise ConfigError(f"{path}:{number}: expected `<key>` or `<scope> <key>` with a scope of {known}")
        if not line.isascii():
            raise ConfigError(f"{path}:{number}: expected a key of ASCII characters, as no other is sent in a header")
    if not scopes:
        raise ConfigError(f"expected a bearer key in {path}, found it empty; anybody could use the services")
    return AccessKeys(scopes)


def key_name(key: str) -> str:
    """A name for a key that tells nothing of it."""
    return hashlib.sha256(key.encode()).hexdigest()[:12]


def new_keys() -> str:
    """The text of a key file with a fresh key for each scope, strongest first."""
    return "".join(f"{scope.word} {secrets.token_urlsafe(32)}\n" for scope in sorted(Scope, reverse=True))


def check_binding(host: str, keys: AccessKeys | None) -> None:
    """Raises ConfigError when a service without keys would listen beyond loopback."""
    if keys is None and not is_loopback(host):
        raise ConfigError(f"without a key a service only listens on loopback, not on {host}: set OPCOD_KEY_FILE")
