"""Events, sealed batches and an event stream that can be trimmed, emptied and taken away."""

import hashlib
from pathlib import Path
from typing import Any, Literal

from services.inspector.config import InspectorConfig
from shared.bus.port import DeadLetter
from shared.config.environment import ServiceEnvironment
from shared.config.loading import load_settings
from shared.config.settings import RunSettings
from shared.contracts.acting import ExchangeAct, ExchangeRef
from shared.contracts.batches import BatchGroup, BatchManifest, BatchSample
from shared.contracts.events import Acted, BatchReady, Event, FeedbackGiven, Revised, StatusChanged
from shared.contracts.heartbeats import Heartbeat
from shared.contracts.messages import ChatMessage
from shared.errors import UnavailableError
from shared.http.access import AccessKeys, Limits
from tests.fakes.access import PLENTY, one_key

RUN = "r1"


def config(
    run_dir: Path,
    key: str | None = None,
    *,
    keys: AccessKeys | None = None,
    limits: Limits = PLENTY,
    settings: RunSettings | None = None,
    **environment: str,
) -> InspectorConfig:
    """key: may do everything; keys: in its place."""
    settings = settings or load_settings(preset="smoke", overrides=["bus.deadline_s=1"], environ={})
    serving = settings.serving.model_copy(update={"limits": limits})
    known = {"run": RUN, "run_dir": run_dir, "cache_dir": run_dir, "redis_url": "redis://gone"}
    return InspectorConfig(
        ServiceEnvironment.model_validate(known | environment),
        settings.model_copy(update={"serving": serving}),
        keys or one_key(key),
    )


def feedback(problem_id: str = "p1", sample: int = 0, step: int = 1, **changes: Any) -> FeedbackGiven:
    fields: dict[str, Any] = {
        "at": 1.5,
        "source": "broker/0",
        "student": "a",
        "tutor": "b",
        "tutor_version": "b@v0",
        "version": f"a@v{step - 1}",
        "round": 1,
        "step": step,
        "problem_id": problem_id,
        "domain": "physics",
        "question": "What force moves 2 kg at 3 m/s2?",
        "sample": sample,
        "response": "The force is 5 N.",
        "correct": False,
        "verdict": "match:force",
        "raw": "<concept>force</concept> Multiply, do not add.",
        "delivered": "Multiply, do not add.",
    }
    return FeedbackGiven(**(fields | changes))


def revised(
    problem_id: str = "p1", sample: int = 0, step: int = 1, change: Literal["fixed", "broke", "same"] = "fixed"
) -> Revised:
    before, after = change == "broke", change == "fixed"
    return Revised(
        at=2.5,
        source="broker/0",
        student="a",
        round=1,
        step=step,
        problem_id=problem_id,
        sample=sample,
        before=before,
        after=after,
        told=True,
        change=change,
        text="The force is 6 N.",
    )


P1 = ExchangeRef(student="a", step=1, problem_id="p1", sample=0)


def acted(
    number: int,
    act: str = "flag",
    exchange: ExchangeRef = P1,
    refused: str | None = None,
    reason: str | None = None,
) -> Acted:
    made = ExchangeAct.model_validate(
        {
            "id": f"{number:032x}",
            "act": act,
            "exchange": exchange,
            "by": "admin key 0123abcd",
            "reason": reason or f"because {number}",
        }
    )
    return Acted(at=float(number), source="broker/0", round=1, act=made, refused=refused)


def status(number: int = 0) -> StatusChanged:
    return StatusChanged(at=float(number), source="broker/0", status="TRAINING", round=number)


def ready(step: int = 1, uri: str | None = None) -> BatchReady:
    return BatchReady(
        at=9.0,
        source="broker/0",
        student="a",
        round=1,
        step=step,
        uri=uri or f"batches/a/s{step:05d}",
        samples=2,
        active_samples=1,
        kept_feedback=1,
        mean_reward=0.5,
    )


def seal(
    run_dir: Path, step: int = 1, response: str = "whole response", wrong: tuple[str, ...] = (), **changes: Any
) -> Path:
    """Write a batch with one problem and two right rollouts, of which only the first had a tutor, and these wrong ones
    without."""
    folder = run_dir / "batches" / "a" / f"s{step:05d}"
    folder.mkdir(parents=True)
    told = _sample(0, response, "no_match", "raw, whole")
    group = BatchGroup(
        problem_id="p1",
        domain="physics",
        kind="forces",
        question="whole question",
        messages=(ChatMessage(role="user", content="whole question"),),
        prompt_token_ids=(1,),
        samples=(
            told,
            _sample(1, "alone", None, None),
            *(_sample(index, text, None, None, reward=0.0) for index, text in enumerate(wrong, start=2)),
        ),
    )
    data = group.model_dump_json().encode() + b"\n"
    manifest: dict[str, Any] = {
        "run": RUN,
        "student": "a",
        "round": 1,
        "step": step,
        "phase_start": True,
        "base_version": f"a@v{step - 1}",
        "tutor": "b",
        "tutor_version": "b@v0",
        "template_hash": "t",
        "groups": 1,
        "samples": 2 + len(wrong),
        "active_samples": 1,
        "kept_feedback": 0,
        "verdicts": {"no_match": 1},
        "mean_reward": 1.0,
        "reward_variance": 0.25,
        "unique_share": None,
        "groups_sha256": hashlib.sha256(data).hexdigest(),
    }
    (folder / "groups.jsonl").write_bytes(data)
    (folder / "manifest.json").write_text(BatchManifest(**(manifest | changes)).model_dump_json())
    return folder


def _sample(index: int, text: str, verdict: str | None, raw: str | None, reward: float = 1.0) -> BatchSample:
    return BatchSample(
        index=index,
        text=text,
        token_ids=(1,),
        logprobs=(-0.5,),
        finish_reason="stop",
        reward=reward,
        demonstration=None,
        verdict=verdict,
        feedback_raw=raw,
        feedback=None,
        removed=("final answer",),
        teacher_messages=(),
        mask=0,
    )


class EventLog:
    """The calls that the inspector makes to the bus, over a list. `away` makes each raise, as a server that is gone."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, Event]] = []
        self.trimmed = False
        self.away = False
        self.up: list[Heartbeat] = []
        self.state: str | None = None
        self.letters: list[DeadLetter] = []
        self.depths: dict[str, tuple[int, int]] = {}

    def add(self, stream_id: str, event: Event) -> None:
        self.entries.append((stream_id, event))

    def fill(self, count: int, start: int = 1) -> None:
        for number in range(start, start + count):
            self.add(f"{number}-0", status(number))

    def read_events(self, after: str, *, count: int, block_s: float) -> list[tuple[str, Event]]:  # noqa: ARG002
        self._answer()
        return [entry for entry in self.entries if _order(entry[0]) > _order(after)][:count]

    def first_event_id(self) -> str | None:
        self._answer()
        return self.entries[0][0] if self.entries else None

    def events_were_trimmed(self) -> bool:
        self._answer()
        return self.trimmed

    def heartbeats(self) -> list[Heartbeat]:
        self._answer()
        return list(self.up)

    def load_state(self) -> str | None:
        self._answer()
        return self.state

    def queue_depth(self, queue: str, group: str) -> tuple[int, int]:  # noqa: ARG002
        self._answer()
        return self.depths.get(queue, (0, 0))

    def dead_letters(self, count: int = 100) -> list[DeadLetter]:
        self._answer()
        return self.letters[:count]

    def _answer(self) -> None:
        if self.away:
            raise UnavailableError("redis at redis://gone did not answer")


def _order(stream_id: str) -> tuple[int, int]:
    milliseconds, _, number = stream_id.partition("-")
    return int(milliseconds), int(number or 0)


class StillClock:
    """Time that moves only when told."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def wall_s(self) -> float:
        return self.now_s

    def monotonic_s(self) -> float:
        return self.now_s
