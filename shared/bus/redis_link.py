"""One connection pool to Redis: deadlines, retries, scripts, and what went wrong in our own words.

What always holds: a call answers or raises before the configured deadline (plus one socket timeout), and its
error names the server without its password, and the operation. Calls are repeated after a lost answer, so every
script is safe to run twice.
"""

import time
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from typing import TypeVar

import redis
import stamina
from redis.backoff import NoBackoff
from redis.commands.core import Script
from redis.exceptions import AuthenticationError, ConnectionError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry
from stamina.instrumentation import set_on_retry_hooks

from shared.bus.redis_url import public_url
from shared.errors import ConfigError, StorageError, UnavailableError

SCRIPTS = (
    "publish",
    "take",
    "renew",
    "hand_over",
    "release",
    "complete",
    "dead_letter",
    "retry_dead_letter",
    "trim",
    "discard",
    "drop_payloads",
    "commit",
    "acquire_lease",
    "renew_lease",
    "release_lease",
    "ask_turn",
    "waiting",
    "announce_version",
)
# Half of the default deadline: a connection that hangs leaves time for another try.
MAX_SOCKET_TIMEOUT_S = 5.0
NOT_NOW = {
    "BUSY": "a script runs for long",
    "CLUSTERDOWN": "its cluster has no node for some keys",
    "IOERR": "its disk fails",
    "LOADING": "it reads its data from disk",
    "MASTERDOWN": "it is a replica that has lost its primary",
    "MISCONF": "its disk refuses writes: free space where its append-only file lies",
    "NOREPLICAS": "too few of its replicas are connected",
    "OOM": "it is full: drain the queues or raise maxmemory",
    "READONLY": "it is a replica: the primary is being replaced, or the URL names the wrong server",
    "TRYAGAIN": "its cluster moves keys",
    "UNBLOCKED": "its role has changed",
}
"""First words of refusals that end by themselves or by an operator's hand, and what is the matter. Any other refusal is
of what was asked, and asking again gives it again."""

AT_ONCE = frozenset({"OOM"})
"""Nobody waits for these inside a call: memory is freed by those who take, and they must not stand in it."""

# Whoever called says what failed, once. By default stamina logs each repetition: a server that is away would fill the
# log, and commands that have set up no logging would print it between the lines of their answer.
set_on_retry_hooks(())

# Many refusals last a moment; what lasts longer is not asked by every thread of every service twenty times a second.
_FIRST_PAUSE_S = 0.05
_MAX_PAUSE_S = 0.5

Answer = TypeVar("Answer")
Argument = str | bytes | int


@cache
def script_text(name: str) -> str:
    """Source of a script, with the common rules before it."""
    folder = files("shared.bus") / "lua"
    return "\n".join((folder / f"{part}.lua").read_text(encoding="utf-8") for part in ("rules", name))


def one_try() -> Retry:
    """For redis-py, which by itself would try a refused connection three times more, seconds apart."""
    return Retry(NoBackoff(), 0)


class RedisLink:
    """deadline_s bounds each operation. Raises ConfigError if `url` is not a Redis URL."""

    def __init__(self, url: str, *, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        # A socket that waited longer than the deadline would keep a call beyond it.
        timeout_s = min(deadline_s, MAX_SOCKET_TIMEOUT_S)
        self.url = public_url(url)
        try:
            self.client = redis.Redis.from_url(
                # redis-py would repeat calls by itself, too, and nothing would be left of the deadline.
                url,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                retry=one_try(),
            )
        except (ValueError, TypeError) as error:
            raise ConfigError(f"redis at {self.url}: expected options that redis-py knows, after `?`") from error
        # Called by their hash; redis-py sends the text again where a server has lost it, as after a restart.
        self._scripts: dict[str, Script] = {name: self.client.register_script(script_text(name)) for name in SCRIPTS}

    def call(self, operation: str, action: Callable[[], Answer]) -> Answer:
        """The answer of `action`, tried again while the server is away or says "not now", until the deadline.

        Raises UnavailableError (no answer, or not now), ConfigError (refused credentials), StorageError (a key that
        is not what it should be).
        """
        deadline = time.monotonic() + self.deadline_s

        def again(error: Exception) -> bool:
            # Not stamina's own timeout, which would let the last pause go on after the deadline.
            return _may_pass(error) and time.monotonic() + attempt.next_wait < deadline

        try:
            for attempt in stamina.retry_context(
                again, attempts=None, timeout=None, wait_initial=_FIRST_PAUSE_S, wait_max=_MAX_PAUSE_S, wait_jitter=0
            ):
                with attempt:
                    return action()
        except AuthenticationError as error:  # a ConnectionError, too, and so named first
            raise ConfigError(f"redis at {self.url} refused the credentials of its URL: {error}") from error
        except (ConnectionError, RedisTimeoutError, ResponseError) as error:
            word = _refusal(error)
            if isinstance(error, ResponseError) and word not in NOT_NOW:
                raise StorageError(f"redis at {self.url} refused {operation}: {error}") from error
            raise self._unavailable(operation, word, error) from error
        raise AssertionError("retry_context ends with a return or an error")

    def script(self, name: str, keys: Sequence[str], arguments: Sequence[Argument]) -> list[object]:
        """Run a script that answers with an array."""
        answer = self.call(name, lambda: self._scripts[name](keys=list(keys), args=list(arguments)))
        if not isinstance(answer, list):
            raise StorageError(f"redis at {self.url}: expected an array from {name}, got {answer!r}")
        return answer

    def number(self, name: str, keys: Sequence[str], arguments: Sequence[Argument]) -> int | None:
        """Run a script that answers with an integer or nothing."""
        answer = self.call(name, lambda: self._scripts[name](keys=list(keys), args=list(arguments)))
        if answer is not None and not isinstance(answer, int):
            raise StorageError(f"redis at {self.url}: expected a number from {name}, got {answer!r}")
        return answer

    def close(self) -> None:
        self.client.close()

    def _unavailable(self, operation: str, word: str, error: RedisError) -> UnavailableError:
        if word in NOT_NOW:
            return UnavailableError(f"redis at {self.url} cannot do {operation} now ({word}): {NOT_NOW[word]}")
        return UnavailableError(
            f"redis at {self.url} did not answer {operation} within {self.deadline_s:g} s ({error}): check that it "
            f"runs and can be reached from here"
        )


def _may_pass(error: Exception) -> bool:
    """Whether the same call, made again soon, may get an answer: the server was away, or said "not now"."""
    if isinstance(error, ResponseError):
        word = _refusal(error)
        return word in NOT_NOW and word not in AT_ONCE
    # redis-py's AuthenticationError is a ConnectionError, and no time mends it.
    return isinstance(error, ConnectionError | RedisTimeoutError) and not isinstance(error, AuthenticationError)


def _refusal(error: RedisError) -> str:
    """The word that an answer begins with; redis-py takes it off those that it has classes for."""
    return error.status_code or str(error).partition(" ")[0]
