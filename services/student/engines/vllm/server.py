"""The vLLM server of a student over all its lives: started (or found), watched, started again.

What always holds: a version is only used in the life that it was loaded in; a server that came back, whoever brought it
back, has no versions until they are loaded again (health.py); the process is ended with the student; a server that
nothing watches any more has FAILED.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import structlog

from services.student.engines.port import EngineAwayError, RefusedError, Unwanted
from services.student.engines.vllm.client import (
    NobodyThereError,
    UnansweredError,
    UnreadableAnswerError,
    VllmClient,
)
from services.student.engines.vllm.health import Bounds, Condition, Health, Idleness, Seen, after, idle_after
from services.student.engines.vllm.process import ServerProcess
from services.student.engines.vllm.wire import AS_IDS, Needs, require
from shared.clock import Clock
from shared.errors import ConfigError, OpcodError, UnavailableError

POLL_S = 0.5
LOOK_EVERY_S = 5.0
LOOKS_OF_A_SILENCE = 3
"""An answer is waited for a third of the silence that means dead, so that one look more is made before."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Life:
    """process: None for a server that was found. number: grows with every life and every loss of versions."""

    client: VllmClient
    process: ServerProcess | None
    number: int


@dataclass(frozen=True)
class Look:
    """What one look at a server shows. listed: names of the versions that it has. final: it refused, or answered what
    cannot be read, and would do so again. nobody: nobody listens there. requests: that it has, before it is
    asked anything; None where it does not say."""

    seen: Seen
    listed: set[str]
    reason: str
    final: bool = False
    nobody: bool = False
    requests: float | None = None


class Server:
    """begin: starts the process, if it is ours, and returns how to reach it. needs: what it must be able to do.
    log_tail: of its log, for messages. copies: of the model, behind the one server, each of which may hang alone;
    None: as many as it says.
    """

    def __init__(
        self,
        begin: Callable[[], tuple[VllmClient, ServerProcess | None]],
        needs: Needs,
        bounds: Bounds,
        clock: Clock,
        log_tail: Callable[[], str],
        copies: int | None = None,
    ) -> None:
        self._begin = begin
        self._needs = needs
        self._bounds = bounds
        self._clock = clock
        self._log_tail = log_tail
        self._copies = copies
        # `_lock` guards the fields and is never held while the server is asked; `_quiet` is held while the watch asks.
        self._lock, self._quiet = threading.Lock(), threading.Lock()
        self._stopping, self._look_now = threading.Event(), threading.Event()
        self._held: dict[str, str] = {}
        self._mark: str | None = None
        self._asleep = False
        self._idle: Idleness | None = None
        self._looked_s, self._looks_as_asked = 0.0, False
        self._life = Life(*begin(), number=1)
        self._health = Health(Condition.RESTARTING, clock.monotonic_s())
        self._thread = threading.Thread(target=self._watch, name="vllm-watch", daemon=True)

    def start(self) -> str:
        """Wait for the first answer, then watch; returns vLLM's version.

        Raises ConfigError if the server cannot be used or ends, UnavailableError after the time to start.
        """
        said = ""
        while (look := self._seen()).seen is not Seen.ANSWERED:
            # Ours is up then, and no wait makes another of it; before one that was found somebody else may answer yet.
            if look.final and self._life.process is not None:
                url, tail = self._life.client.url, self._log_tail()
                self.stop()
                raise ConfigError(
                    f"{look.reason}, which no wait changes ({url}): use a release of vLLM that docs/engines.md names; "
                    f"its log ends:\n{tail}"
                )
            if self._health.condition is Condition.DEAD:
                ended = self._life.process is not None and self._life.process.exit_code is not None
                what = "ended before it answered" if ended else f"did not answer within {self._bounds.start_s:.0f} s"
                self.stop()
                error = ConfigError if ended else UnavailableError
                url, tail = self._life.client.url, self._log_tail()
                raise error(f"vLLM ({url}) {what}, at last: {look.reason}; its log ends:\n{tail}")
            if look.reason != said:
                log.info("vllm starts", reason=(said := look.reason))
            self._stopping.wait(POLL_S)
        try:
            version = require(self._life.client.version(), self._life.client.description(), self._needs)
        except OpcodError:
            self.stop()
            raise
        self._thread.start()
        return version

    @property
    def life(self) -> Life:
        return self._life

    @property
    def start_s(self) -> float:
        """How long it may take to read a whole model."""
        return self._bounds.start_s

    @property
    def health(self) -> Health:
        # Without its watch nobody would notice a server that hangs, so that counts as a server that cannot go on.
        watch_died = self._thread.ident is not None and not self._thread.is_alive() and not self._stopping.is_set()
        return replace(self._health, condition=Condition.FAILED) if watch_died else self._health

    @property
    def held(self) -> dict[str, str]:
        """The server's name of each version that was loaded in this life."""
        with self._lock:
            return dict(self._held)

    def loaded(self, version: str, name: str, life: Life) -> None:
        """Raises EngineAwayError if that life is over."""
        with self._lock:
            if life.number != self._life.number or not self._health.answers:
                raise EngineAwayError(f"vLLM was lost while {version} was loaded")
            self._held[version] = name
            self._health = after(self._health, Seen.LOADED, self._clock.monotonic_s(), self._bounds)

    def unloaded(self, version: str) -> str | None:
        """The server's name of it; None if it is not there."""
        with self._lock:
            return self._held.pop(version, None)

    @property
    def marked(self) -> bool:
        """Whether its weights are given names, by which a server that somebody started again is told."""
        return self._needs.marked

    def mark(self, life: Life, name: str) -> None:
        """That life calls its weights so from now on. Raises EngineAwayError and RefusedError."""
        life.client.mark(name)
        with self._lock:
            if life.number == self._life.number:
                self._mark = name

    def require_mark(self, life: Life) -> None:
        """Raises EngineAwayError unless the weights there are called as we called them last: a server that was started
        again has the base model's, and answers as if nothing had been."""
        if not self._needs.marked:
            return
        said = life.client.marked()
        if said != self._mark or life.number != self._life.number:
            self.look()
            raise EngineAwayError(f"vLLM was started again or given other weights: it calls them {said!r}")

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Nothing is asked of the server by the watch, which would take a server that was paused for one that hangs.

        That time is none of its silence.
        """
        with self._quiet:
            try:
                yield
            finally:
                # Reading a whole model may take longer than the silence that means dead.
                self._begin_to_count()

    def sleep(self) -> None:
        """Free its GPU's memory; the watch leaves it alone until `wake`, also where it ends meanwhile: it could not be
        started on a card that another process works on. Raises EngineAwayError and RefusedError."""
        with self._quiet:
            self._life.client.sleep(self._bounds.start_s)
            self._asleep = True

    def wake(self) -> None:
        """Raises EngineAwayError and RefusedError; the watch then begins it anew."""
        with self._quiet:
            try:
                self._life.client.wake(self._bounds.start_s)
            finally:
                self._asleep = False
                self._begin_to_count()
                self.look()

    def losing(self) -> Unwanted:
        """Of requests that are sent now: why the server, though it answers, will not answer them."""
        sent_s = self._clock.monotonic_s()

        def lost() -> OpcodError | None:
            if (idle := self._idle) is None or not idle.has_lost(sent_s, self._bounds):
                return None
            said = "vLLM lost a request: it answers, and says that none runs or waits in it"
            return EngineAwayError(f"{said} for {self._bounds.hang_s:.0f} s")

        return lost

    def abandon(self, life: Life) -> None:
        """That life is of no use any more: end it, so that another one is begun."""
        with self._lock:
            if life == self._life:
                self._health = after(self._health, Seen.ENDED, self._clock.monotonic_s(), self._bounds)
                self._forget()
        if life.process is not None:
            life.process.end()
        self.look()

    def look(self) -> None:
        """Something looked wrong: look at the server now."""
        self._look_now.set()

    @property
    def in_doubt(self) -> bool:
        """A look that was asked for has not ended yet."""
        return self._look_now.is_set() or self._looks_as_asked

    def stop(self) -> None:
        """End the watch, and the process if it is ours."""
        self._stopping.set()
        self._look_now.set()
        if self._thread.is_alive():
            self._thread.join()
        self._end_life()

    # The watch -------------------------------------------------------------------------------------------
    def _watch(self) -> None:
        while not self._stopping.is_set():
            self._look_now.wait(POLL_S)
            if not self._stopping.is_set():
                self.turn(now=False)

    def turn(self, now: bool = True) -> None:
        """Look at the process, at the server too if it is time (or `now`, or asked for), and start it again if it is
        dead.
        """
        with self._quiet:
            # Set before the other is cleared: `in_doubt` reads them in this order too, and sees no gap between them.
            if self._look_now.is_set():
                self._looks_as_asked = True
                self._look_now.clear()
            self._turn(now or self._looks_as_asked)
            self._looks_as_asked = False

    def _turn(self, now: bool) -> None:
        if self._health.condition is Condition.FAILED or self._asleep:
            return
        process = self._life.process
        ended = process is not None and process.exit_code is not None
        if now or ended or self._clock.monotonic_s() - self._looked_s >= LOOK_EVERY_S:
            self._seen()
        if self._health.condition is Condition.DEAD:
            self._begin_again()

    def _seen(self) -> Look:
        """What one look shows, noted."""
        before, life = self.held, self._life
        self._looked_s = self._clock.monotonic_s()
        timeout_s = self._bounds.hang_s / LOOKS_OF_A_SILENCE
        # A student that ended in the middle of an exchange has left it paused; ours are new in each life.
        wake = self._needs.marked and self._health.condition is Condition.RESTARTING
        look = look_at(life, timeout_s, wake=wake, copies=self._copies)
        seen = look.seen
        # A server whose engine has ended listens no more, and may wait for ever for what it had begun.
        if look.nobody and life.process is not None and self._health.condition is not Condition.RESTARTING:
            seen = Seen.ENDED
        lost = seen is Seen.ANSWERED and self._has_lost_its_mark(life, timeout_s)
        with self._lock:
            # Of what was held before the look only: a version that is loaded or unloaded during it is no loss.
            lost = lost or not {name for v, name in before.items() if v in self._held} <= look.listed
            if seen is Seen.ANSWERED and lost:
                seen = Seen.EMPTY
            requests = look.requests if seen is Seen.ANSWERED else None
            self._idle = idle_after(self._idle, requests, self._looked_s)
            previous, self._health = self._health, after(self._health, seen, self._clock.monotonic_s(), self._bounds)
            if seen is Seen.EMPTY:
                self._forget()
        if previous.condition is not self._health.condition:
            log.warning("engine", condition=self._health.condition.value, seen=seen.value, reason=look.reason)
        return replace(look, seen=seen)

    def _has_lost_its_mark(self, life: Life, timeout_s: float) -> bool:
        # Exchanges are kept out while the watch looks, so that nobody changes it meanwhile.
        if not self._needs.marked or self._mark is None:
            return False
        try:
            return life.client.marked(timeout_s) != self._mark
        except (EngineAwayError, RefusedError):
            return False  # the next look will tell

    def _begin_again(self) -> None:
        with self._lock:
            self._health = after(self._health, Seen.STARTED, self._clock.monotonic_s(), self._bounds)
            self._forget()
        try:
            self._replace_life()
        except (OSError, OpcodError) as error:
            log.error("engine could not be started again", error=repr(error))
            with self._lock:
                self._health = after(self._health, Seen.ENDED, self._clock.monotonic_s(), self._bounds)

    def _replace_life(self) -> None:
        """Raises OSError and OpcodError."""
        self._end_life()
        if self._health.condition is Condition.FAILED:
            log.error("engine was started too often", restarts=len(self._health.restarts), log=self._log_tail())
            return
        log.warning("engine is started again", restarts=len(self._health.restarts))
        client, process = self._begin()
        # The number has grown already, in `_forget`.
        self._life = Life(client, process, self._life.number)

    def _forget(self) -> None:
        """Nothing that was loaded is there any more."""
        self._held.clear()
        self._mark = self._idle = None
        # A new number, though maybe the same process: requests of before must not be taken for answered by what is now.
        self._life = Life(self._life.client, self._life.process, self._life.number + 1)

    def _begin_to_count(self) -> None:
        """Neither silence nor idleness of before is held against it."""
        with self._lock:
            self._health, self._idle = replace(self._health, since_s=self._clock.monotonic_s()), None

    def _end_life(self) -> None:
        if self._life.process is not None:
            self._life.process.end()
        self._life.client.close()


def look_at(life: Life, timeout_s: float, *, wake: bool = False, copies: int | None = None) -> Look:
    """One token is asked for, of each copy: a server may be dead behind a list that it still gives, and one of its
    copies behind the others, which take all the questions that name none. wake: it may be paused."""
    if life.process is not None and life.process.exit_code is not None:
        return Look(Seen.ENDED, set(), f"exit code {life.process.exit_code}")
    try:
        if wake:
            life.client.resume(timeout_s)
        models = life.client.models(timeout_s)
        base = base_of([model.id for model in models if model.parent is None])
        server_load = life.client.server_load(timeout_s)
        copies = copies or server_load.copies
        for copy in range(copies):
            _require_answer(life.client, base, timeout_s, copy if copies > 1 else None)
    except (EngineAwayError, RefusedError) as error:
        final, nobody = isinstance(error, UnreadableAnswerError | RefusedError), isinstance(error, NobodyThereError)
        return Look(Seen.SILENT, set(), str(error), final=final, nobody=nobody)
    return Look(Seen.ANSWERED, {model.id for model in models}, "it answered", requests=server_load.requests)


def _require_answer(client: VllmClient, base: str, timeout_s: float, copy: int | None) -> None:
    """Raises EngineAwayError and RefusedError."""
    question = {"model": base, "prompt": [0], "max_tokens": 1, "temperature": 0, "logprobs": 0, **AS_IDS}
    progress = client.progress(timeout_s, copy)
    try:
        client.choices(question, timeout_s, copy)
    except UnansweredError:
        # It may wait its turn: behind more sequences than run at once, or than the cache has room for.
        if client.progress(timeout_s, copy) <= progress:
            raise


def base_of(names: list[str]) -> str:
    """The name of the base model, of all that have no parent. Raises EngineAwayError without one."""
    if not names:
        raise EngineAwayError("expected a base model in vLLM's list of models, found none")
    return names[0]


def gone(life: Life, server: Server) -> OpcodError | None:
    """Why a request of that life will never be answered."""
    if life.number == server.life.number and server.health.answers:
        return None
    return EngineAwayError("vLLM was lost while it generated; it is started again")
