"""How a browser comes in: it cannot send a bearer header, so it shows a key once and gets a cookie for it.

What always holds: a cookie or a link holds a random token and never a key; only its sha256 is kept, in memory, so that
a restart ends every session; a link works once and not for long; a session may do what its key may, no more, and
however many one key begins, those of others stay. Used from the event loop only.
"""

import hashlib
import secrets

from starlette.datastructures import Headers

from shared.clock import Clock
from shared.http.access import Grant

SESSION_S = 12 * 3600.0
LINK_S = 600.0
MAX_SESSIONS = 1000
"""Of one key, and as many links that were not used."""

LOGIN_PATH = "/login"
STATIC_PATH = "/static/"


class Sessions:
    """Sessions and one-time links of one service. cookie: its name, of the run, as a host's ports share cookies."""

    def __init__(self, run: str, clock: Clock) -> None:
        self.cookie = f"opcod-{hashlib.sha256(run.encode()).hexdigest()[:8]}"
        self._sessions = _Tokens(clock, SESSION_S)
        self._links = _Tokens(clock, LINK_S)

    def begin(self, granted: Grant) -> str:
        """The token of a new session."""
        return self._sessions.issue(granted)

    def caller(self, headers: Headers) -> tuple[str, Grant] | None:
        """A name for the session that tells nothing of it, and what it may; None without a session that is alive."""
        for token in self._tokens(headers):
            granted = self._sessions.grant_of(token)
            if granted is not None:
                return _digest(token)[:12], granted
        return None

    def end(self, headers: Headers) -> None:
        for token in self._tokens(headers):
            self._sessions.take(token)

    def new_link(self, granted: Grant) -> str:
        """The token of a link that begins one such session."""
        return self._links.issue(granted)

    def redeem(self, link: str) -> Grant | None:
        """None for a link that was used, is too old, or never was."""
        return self._links.take(link)

    def _tokens(self, headers: Headers) -> list[str]:
        """Values of our cookie. http.cookies gives up at the first it does not like, and any application on this host
        may have set one, also one of our name for another path."""
        pairs = [pair.partition("=") for line in headers.getlist("cookie") for pair in line.split(";")]
        return [value.strip().strip('"') for name, _, value in pairs if name.strip() == self.cookie]


def is_open(path: str) -> bool:
    """What a browser needs before it has a session: the login form and what it is drawn with."""
    return path == LOGIN_PATH or path.startswith(STATIC_PATH)


class _Tokens:
    """Tokens with what they grant and an end, by their sha256; a key's oldest goes when it has too many."""

    def __init__(self, clock: Clock, lifetime_s: float) -> None:
        self._clock = clock
        self._lifetime_s = lifetime_s
        self._known: dict[str, tuple[Grant, float]] = {}

    def issue(self, granted: Grant) -> str:
        now_s = self._clock.monotonic_s()
        self._known = {digest: item for digest, item in self._known.items() if item[1] > now_s}
        # A dict keeps its order, so the first are the oldest.
        own = [digest for digest, (other, _) in self._known.items() if other.key == granted.key]
        for digest in own[: 1 - MAX_SESSIONS]:
            del self._known[digest]
        token = secrets.token_urlsafe(32)
        self._known[_digest(token)] = (granted, now_s + self._lifetime_s)
        return token

    def grant_of(self, token: str) -> Grant | None:
        return self._if_alive(self._known.get(_digest(token)))

    def take(self, token: str) -> Grant | None:
        # Taken out whether it is alive or not: a link works once.
        return self._if_alive(self._known.pop(_digest(token), None))

    def _if_alive(self, item: tuple[Grant, float] | None) -> Grant | None:
        return item[0] if item is not None and item[1] > self._clock.monotonic_s() else None


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
