"""One decoding loop for all calls of the transformers engine, on a thread of its own.

A turn: let go of what was cancelled, take in what fits, draw a token of every sample, version by version. What always
holds: at most `slots` samples are in the making; each call ends once, with all of its generations or an error of its
own; between two turns any call may begin or end, and people's be of any version. A call that begins while nothing else
runs is decoded the same way each time, to the last bit.

Jobs of two versions do not run beside each other but in turns of up to TURN_STEPS: a step of few rows takes nearly as
long as one of many, and what comes for the other version gathers meanwhile.
"""

import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from services.student import metrics
from services.student.engines.active import Weights
from services.student.engines.decoding import PREFILL_TOKENS, Decoder, Decoding, Draw
from services.student.engines.kvcache import RowBudget
from services.student.engines.port import Audience, Generation, GenerationCancelledError
from shared.errors import UnavailableError
from shared.modeling.allocator import release_freed

CLOSE_S = 10.0
LOOK_S = 1.0
"""How often a caller looks whether the loop is still there."""

LOST_S = 1800.0
"""A turn that takes longer never ends, as of a GPU whose driver hangs. Three times what is taken for stuck: a slow
processor may need some of it for a long prompt, and would need it once more after a restart.
"""

REST_S = 1.0
"""Without a call for so long, it gives memory back."""

TURN_STEPS = 48
"""Of one version while another waits: more than a short answer has, so that most batches are not stopped halfway."""

log = structlog.get_logger()


@dataclass(eq=False)
class DecodingCall:
    """One call of `generate`. weights: by version. begin: makes its samples, also once more after they were lost.
    alone: it was lost with others, and nothing else runs beside it now.
    """

    weights: Mapping[str, Weights]
    begin: Callable[[], list[Draw]]
    cancelled: threading.Event | None
    waiting: list[Draw] = field(default_factory=list)
    running: int = 0
    alone: bool = False
    size: int = 0
    audiences: list[Audience] = field(default_factory=list)
    generations: dict[int, Generation] = field(default_factory=dict)
    error: Exception | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def restart(self) -> None:
        """From the beginning. Alike together, those of like length side by side: little padding, few passes."""
        self.waiting = sorted(self.begin(), key=lambda draw: (draw.request.version, len(draw.prompt), draw.prompt))
        self.size = len(self.waiting)
        self.audiences = [draw.request.audience for draw in self.waiting if draw.request.audience is not None]
        self.running = 0
        self.generations = {}

    @property
    def heard(self) -> bool:
        """Somebody heard the beginning of it: it must not be told once more."""
        return any(audience.heard for audience in self.audiences)

    @property
    def job(self) -> bool:
        """Nobody watches it being written."""
        return not self.audiences

    @property
    def turn(self) -> tuple[bool, int]:
        """Whose samples are taken in first: people's, then those of the call with the fewest in the making."""
        return self.job, self.running


class VersionTurns:
    """Whose turn it is, of the versions that jobs ask for.

    A version takes in whatever comes for it as long as nothing is there for another. If something is, it takes what
    waited when its turn began, at most `slots`, and its turn ends with its last sample, or after TURN_STEPS: then the
    next is the version that has waited longest.
    """

    def __init__(self, slots: int) -> None:
        self.version: str | None = None
        self._slots = slots
        self._due = 0
        self._steps = 0
        self._there: list[str] = []

    def look(self, running: Container[str], waiting: Mapping[str, int]) -> None:
        """Before a step. running: versions of samples in the making. waiting: samples not begun, by version."""
        kept = [version for version in self._there if version in waiting or version in running]
        self._there = list(dict.fromkeys([*kept, *waiting]))
        self._steps += 1
        if not self._there or (self.version in running and self._steps <= TURN_STEPS):
            return
        self.version = next((each for each in self._there if each != self.version), self._there[0])
        self._there.remove(self.version)
        self._there.append(self.version)
        self._due, self._steps = min(self._slots, waiting.get(self.version, 0)), 1

    def takes(self, version: str) -> bool:
        """Whether a sample of it may begin now; it is then counted as begun."""
        if version != self.version or (self._due == 0 and self._there != [version]):
            return False
        self._due = max(0, self._due - 1)
        return True


class DecodingLoop:
    """`generate` is for any thread; everything else here runs on the loop's own.

    activate: makes the model compute with these weights, and with the base model's where there are none.
    """

    def __init__(self, decoder: Decoder, activate: Callable[[Weights], None], slots: int) -> None:
        self._decoder = decoder
        self._activate = activate
        self._slots = slots
        self._budget = RowBudget(slots)
        self._lock = threading.Condition()
        self._new: list[DecodingCall] = []
        self._calls: list[DecodingCall] = []
        self._owners: dict[Draw, DecodingCall] = {}
        self._decodings: dict[str, Decoding] = {}
        self._turns = VersionTurns(slots)
        self._thread: threading.Thread | None = None
        self._closed: str | None = None
        self._turned_s: float | None = None

    def generate(
        self,
        weights: Mapping[str, Weights],
        begin: Callable[[], list[Draw]],
        cancelled: threading.Event | None,
    ) -> list[Generation]:
        """The generations of the samples that `begin` makes, by their index. Raises GenerationCancelledError."""
        call = DecodingCall(weights, begin, cancelled)
        call.restart()
        if not call.waiting:
            return []
        with self._lock:
            if self._closed is not None:
                raise UnavailableError(self._closed)
            self._new.append(call)
            thread = self._thread or self._started()
            self._lock.notify()
        while not call.ended.wait(LOOK_S):
            # Also where it hangs: threads that wait for it would keep this process from its end.
            lost = self._hangs or not thread.is_alive()
            if lost and not call.ended.is_set():
                raise UnavailableError(
                    "expected the decoding loop to run, its thread is gone or hangs: restart this student"
                )
        if call.error is not None:
            raise call.error
        return [call.generations[index] for index in range(call.size)]

    @property
    def failure(self) -> str | None:
        """Why it takes no call any more."""
        return f"a decoding step has taken {self.busy_s:.0f} s" if self._hangs else self._closed

    @property
    def _hangs(self) -> bool:
        return self.busy_s > LOST_S

    @property
    def finished(self) -> int:
        """Samples that have ended, of calls that have not and that nobody listens to."""
        return sum(len(call.generations) for call in tuple(self._calls) if not call.audiences)

    @property
    def busy_s(self) -> float:
        """How long the present turn has taken; 0 between two."""
        turned_s = self._turned_s
        return 0.0 if turned_s is None else time.monotonic() - turned_s

    def close(self) -> None:
        """What runs ends with an error."""
        with self._lock:
            self._closed = self._closed or "this engine is closed"
            self._lock.notify()
        if self._thread is not None:
            self._thread.join(CLOSE_S)

    def _started(self) -> threading.Thread:
        self._thread = threading.Thread(target=self._run, name="decoding", daemon=True)
        self._thread.start()
        return self._thread

    # The loop's own thread ---------------------------------------------------------------------------------
    def _run(self) -> None:
        try:
            while self._wait():
                self._turned_s = time.monotonic()
                self._turn()
                self._turned_s = None
            self._end_all(UnavailableError(self._closed or ""))
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody may wait for a loop that is gone
            log.error("the decoding loop is lost", error=str(error), trace=traceback.format_exc())
            with self._lock:
                self._closed = f"the decoding loop is lost ({type(error).__name__}: {error})"
            self._end_all(error)

    def _wait(self) -> bool:
        """Until there is something to do; whether to go on."""
        with self._lock:
            if not self._calls and not self._new:
                # The model lets go of its version, which may be unloaded meanwhile.
                self._activate({})
            rests = False
            while not self._calls and not self._new and self._closed is None:
                woken = self._lock.wait(None if rests else REST_S)
                if not woken and not self._new:
                    rests = True
                    release_freed()
            self._calls += self._new
            self._new.clear()
            return self._closed is None

    def _turn(self) -> None:
        for call in [call for call in self._calls if call.cancelled is not None and call.cancelled.is_set()]:
            what = f"{call.size} samples were stopped before they were complete"
            self._end(call, GenerationCancelledError(what))
        joining = self._taken_in()
        watched = {draw.request.version for draw, owner in self._owners.items() if not owner.job}
        for version in list(dict.fromkeys([*self._decodings, *joining])):
            if version == self._turns.version or version in watched:
                self._advance(version, joining.get(version, []))

    def _taken_in(self) -> dict[str, list[Draw]]:
        """The samples that join now, by version: as many as are free, and a pass of prompts at once."""
        joining: dict[str, list[Draw]] = {}
        calls = sorted(self._may_join(), key=lambda call: call.turn)
        jobs = [call for call in calls if call.job]
        running = {draw.request.version for draw, owner in self._owners.items() if owner.job}
        self._turns.look(running, Counter(draw.request.version for call in jobs for draw in call.waiting))
        free, tokens = self._slots - len(self._owners), 0
        for call in calls:
            prompt: tuple[int, ...] = ()
            while call.waiting and free > 0 and tokens < PREFILL_TOKENS:
                if call.job and not self._turns.takes(call.waiting[0].request.version):
                    break
                draw = call.waiting.pop(0)
                tokens += len(draw.prompt) if draw.prompt != prompt else 0
                prompt = draw.prompt
                joining.setdefault(draw.request.version, []).append(draw)
                self._owners[draw] = call
                call.running += 1
                free -= 1
        return joining

    def _may_join(self) -> Sequence[DecodingCall]:
        """All calls; of those that must run alone the first, once nothing else runs."""
        alone = next((call for call in self._calls if call.alone), None)
        if alone is None:
            return self._calls
        return [alone] if all(owner is alone for owner in self._owners.values()) else []

    def _advance(self, version: str, joining: Sequence[Draw]) -> None:
        """One token more of each sample of the version; those that are done leave."""
        # Of calls that have not failed meanwhile, with another version's samples.
        joining = [draw for draw in joining if draw in self._owners]
        there = self._decodings.get(version)
        if there is None and not joining:
            return
        decoding = there or self._decodings.setdefault(version, Decoding(self._decoder, self._budget))
        samples = [*decoding.samples, *joining]
        try:
            self._activate(self._owners[samples[0]].weights[version])
            if joining:
                decoding.join(joining)
            if there is not None and decoding.rows:
                decoding.step()
        except Exception as error:  # noqa: BLE001 - the model is foreign code; what it raises belongs to these calls
            self._decoder.require_device()
            self._lost(version, samples, error)
            return
        left = set(decoding.samples)
        for sample in samples:
            if sample not in left:
                self._finish(sample)
        self._forget_empty()

    def _finish(self, sample: Draw) -> None:
        call = self._owners.pop(sample, None)
        if call is None:
            return  # its call has failed meanwhile
        call.running -= 1
        try:
            call.generations[sample.index] = self._decoder.finish(sample)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this call's
            self._end(call, error)
            return
        if len(call.generations) == call.size:
            self._end(call, None)

    def _lost(self, version: str, samples: Sequence[Draw], error: Exception) -> None:
        """What the version had is gone. Several calls are each made once more, alone: only the one at fault fails."""
        self._decodings.pop(version).close()
        calls = list(dict.fromkeys(self._owners[sample] for sample in samples))
        for sample in samples:
            del self._owners[sample]
        for call in calls:
            if len(calls) == 1 or call.alone or call.heard:
                self._end(call, error)
            else:
                log.warning("decoding failed, each call is made again alone", error=str(error), calls=len(calls))
                self._let_go(call)
                call.alone = True
                call.restart()
        if len(calls) > 1:
            metrics.BATCH_RETRIES.inc()

    def _end(self, call: DecodingCall, error: Exception | None) -> None:
        self._let_go(call)
        self._calls.remove(call)
        call.error = error
        call.ended.set()

    def _let_go(self, call: DecodingCall) -> None:
        """Nothing of it is in the making any more."""
        own = {sample for sample, owner in self._owners.items() if owner is call}
        if not own:
            return
        for decoding in self._decodings.values():
            decoding.leave(lambda sample: sample in own)
        for sample in own:
            del self._owners[sample]
        self._forget_empty()

    def _forget_empty(self) -> None:
        for version in [version for version, decoding in self._decodings.items() if not decoding.rows]:
            self._decodings.pop(version).close()

    def _end_all(self, error: Exception) -> None:
        with self._lock:
            calls = [*self._calls, *self._new]
            self._new.clear()
        for call in calls:
            call.error = error
            call.ended.set()
        self._calls.clear()
