"""Keeps the engine's versions in step with what the broker wants served.

What always holds: a version that a job or a waiting request names stays loaded; the live version changes only
when the next one is loaded, so a refused version leaves the previous one serving; a refused version is not
tried again before its back-off is over, or the broker says the same versions anew, as for a run that is resumed.
"""

from collections.abc import Collection
from dataclasses import dataclass

import structlog
from pydantic import ValidationError

from services.student import metrics
from services.student.board import Board, Serving
from services.student.engines.port import Engine
from services.student.weights.loader import VersionRefusedError, WeightLoader
from services.student.work.duty import Duties, Duty
from services.student.work.generation import shortened
from services.student.work.jobs import Outbox
from shared.bus.keys import RESULTS
from shared.bus.port import Bus
from shared.clock import Clock
from shared.contracts.events import VersionServing
from shared.contracts.ids import version_name
from shared.contracts.weights import ServeSet, VersionLoaded, VersionRefused
from shared.errors import MalformedMessageError, reason
from shared.obs.faults import fault_point

FIRST_BACKOFF_S = 5.0
LONGEST_BACKOFF_S = 300.0

log = structlog.get_logger()


@dataclass(frozen=True)
class LoadRefusal:
    """Why a version was refused, how often, and when it may be tried again (monotonic clock)."""

    reason: str
    times: int
    again_s: float


class VersionKeeper:
    """Used by the engine's thread alone; `board` shows the others what is served."""

    def __init__(
        self,
        *,
        student: str,
        replica: str,
        engine: Engine,
        loader: WeightLoader,
        bus: Bus,
        outbox: Outbox,
        board: Board,
        clock: Clock,
        duties: Duties | None = None,
    ) -> None:
        """duties: as `JobIntake` has them."""
        self._student = student
        self._replica = replica
        self._engine = engine
        self._loader = loader
        self._bus = bus
        self._outbox = outbox
        self._board = board
        self._clock = clock
        self._duties = duties
        self._live: str | None = None
        self._since: dict[str, float] = {}
        self._refused: dict[str, LoadRefusal] = {}
        self._said: ServeSet | None = None

    def sync(self, in_use: Collection[str]) -> None:
        """Load what the serve set misses, unload what is neither in it nor in use. Raises UnavailableError."""
        wanted = self._wanted()
        if wanted is None:
            return
        self._forgive(wanted)
        for version in self._due(wanted):
            self._attempt(version)
        if wanted.live in self._engine.versions():
            self._switch(wanted.live)
        # `_live` besides the wanted one: where that was refused, the previous one goes on serving.
        keep = {wanted.live, *wanted.versions, *in_use, self._live}
        for version in self._engine.versions().keys() - keep:
            self._engine.unload(version)
            log.info("version unloaded", version=version)
        self._show(wanted.live)

    def _forgive(self, wanted: ServeSet) -> None:
        # Of other versions the broker speaks at every step: nothing is mended by that.
        again = self._said is not None and self._said == wanted.model_copy(update={"revision": self._said.revision})
        if again and self._said != wanted:
            self._refused.clear()
        self._said = wanted

    def _due(self, wanted: ServeSet) -> tuple[str, ...]:
        """What is to be loaded, unless it is there."""
        stays = self._duties is not None and self._duties.follow(wanted) is Duty.TUTOR
        # A new live version would drive the tutor's out of the engine; what a job names is loaded for it.
        if stays and self._live is not None:
            return ()
        # Each once, though the live one may stand among the versions too.
        return tuple(dict.fromkeys((wanted.live, *wanted.versions)))

    def behind(self) -> bool:
        """Whether `sync` would load something now. Raises UnavailableError."""
        wanted = self._wanted()
        if wanted is None:
            return False
        self._forgive(wanted)
        now_s, held = self._clock.monotonic_s(), self._engine.versions()
        missing = {wanted.live, *wanted.versions} - held.keys()
        return any(version not in self._refused or now_s >= self._refused[version].again_s for version in missing)

    def ensure(self, version: str) -> None:
        """Load `version` unless it is there. Raises VersionRefusedError, at once within its back-off."""
        if version in self._engine.versions():
            return
        refusal = self._refused.get(version)
        if refusal is not None and self._clock.monotonic_s() < refusal.again_s:
            raise VersionRefusedError(refusal.reason)
        # Hashing and merging a model of a few billion parameters from a cold disk takes minutes.
        self._board.beat(allowance_s=600.0)
        started_s = self._clock.monotonic_s()
        try:
            checksum = self._loader.load(version)
            fault_point("student.version-loaded")
        except VersionRefusedError as error:
            self._note_refusal(version, str(error))
            raise
        self._refused.pop(version, None)
        self._note_loaded(version, checksum, self._clock.monotonic_s() - started_s)

    def refusals(self, version: str) -> int:
        """How often it was refused in a row, while it is not to be tried again yet; else 0."""
        refusal = self._refused.get(version)
        waits = refusal is not None and self._clock.monotonic_s() < refusal.again_s
        return refusal.times if refusal is not None and waits else 0

    def report_again(self) -> None:
        """The bus may have lost its data: say again what is loaded. The broker knows repeated reports by their key."""
        for version, checksum in self._engine.versions().items():
            self._put(VersionLoaded(**self._names(version), checksum=checksum, seconds=0.0))

    def _wanted(self) -> ServeSet | None:
        """The serve set; the base model before there is one; None to keep what is served when it has vanished."""
        raw = self._bus.serve_set(self._student)
        if raw is None:
            # Nothing served yet: the run has not begun. Something served: the bus lost its data, and the broker will
            # say it again; going back to the base model meanwhile would be an answer of other weights.
            base = version_name(self._student, 0)
            return ServeSet(live=base, versions=(base,)) if self._live is None else None
        try:
            return ServeSet.model_validate_json(raw)
        except ValidationError as error:
            raise MalformedMessageError(
                f"the serve set of {self._student} does not fit its schema: {reason(error)}"
            ) from error

    def _attempt(self, version: str) -> None:
        try:
            self.ensure(version)
        except VersionRefusedError:
            return  # noted by `ensure`; what is loaded goes on serving

    def _switch(self, live: str) -> None:
        if live == self._live:
            return
        self._live = live
        checksum = self._engine.versions()[live]
        event = VersionServing(
            at=self._clock.wall_s(),
            source=f"student-{self._student}/{self._replica}",
            student=self._student,
            replica=self._replica,
            version=live,
            checksum=checksum,
        )
        self._outbox.put(lambda: self._bus.emit(event))
        log.info("version serving", version=live, checksum=checksum)

    def _show(self, wanted_live: str) -> None:
        versions = self._engine.versions()
        metrics.VERSIONS.set(len(versions))
        refusal = self._refused.get(wanted_live)
        now_s = self._clock.wall_s()
        self._since = {version: self._since.get(version, now_s) for version in versions}
        self._board.show(Serving(self._live, versions, refusal.reason if refusal else None, self._since))

    def _note_loaded(self, version: str, checksum: str, seconds: float) -> None:
        metrics.LOAD_SECONDS.observe(seconds)
        log.info("version loaded", version=version, checksum=checksum, seconds=round(seconds, 3))
        self._put(VersionLoaded(**self._names(version), checksum=checksum, seconds=seconds))

    def _note_refusal(self, version: str, reason: str) -> None:
        times = self._refused[version].times + 1 if version in self._refused else 1
        wait_s = min(FIRST_BACKOFF_S * 2 ** (times - 1), LONGEST_BACKOFF_S)
        self._refused[version] = LoadRefusal(reason, times, self._clock.monotonic_s() + wait_s)
        metrics.REFUSED.inc()
        log.error("version refused", version=version, reason=reason, again_in_s=wait_s)
        self._put(VersionRefused(**self._names(version), reason=shortened(reason)))

    def _names(self, version: str) -> dict[str, str]:
        return {"student": self._student, "replica": self._replica, "version": version}

    def _put(self, message: VersionLoaded | VersionRefused) -> None:
        def publish() -> None:
            self._bus.publish(RESULTS, message)

        self._outbox.put(publish)
