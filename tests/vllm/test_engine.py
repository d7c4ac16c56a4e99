"""The engine port on a real vLLM server: samples, log-probs, versions side by side, refusals, loss and return."""

import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from services.student.app import build_engine, build_loader
from services.student.config import StudentConfig
from services.student.engines.port import (
    EngineState,
    Generation,
    GenerationCancelledError,
    Piece,
    PromptTooLongError,
    UnknownVersionError,
)
from services.student.engines.vllm.engine import VllmEngine
from services.student.weights.loader import VersionRefusedError, WeightLoader
from shared.contracts.messages import Sampling
from shared.modeling.chat import render
from shared.modeling.loading import load_tokenizer
from tests.vllm.asking import kill_while_asked, mean_difference, processes_of, request
from tests.vllm.bench import Adapters

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]
BRIEF = Sampling(temperature=1.0, top_p=1.0, max_tokens=6)
PAIRS = ((2, 1), (40, 2), (7, 3))
"""Numbers in a problem, and seeds."""


@pytest.fixture(scope="module")
def engine(config: StudentConfig, adapters: Adapters) -> Iterator[VllmEngine]:  # noqa: ARG001 - publishes versions
    engine = build_engine(config)
    assert isinstance(engine, VllmEngine) and engine.health().state is EngineState.EMPTY
    loader = build_loader(config, engine)
    for version in ("a@v0", "a@v1", "a@v2"):
        loader.load(version)
    yield engine
    engine.close()


@pytest.fixture
def loader(config: StudentConfig, engine: VllmEngine) -> WeightLoader:
    return build_loader(config, engine)


class Reader:
    """Reads along, and leaves after `leaves_after` pieces."""

    heard = False

    def __init__(self, leaves_after: int = 10**6) -> None:
        self.pieces: list[Piece] = []
        self._leaves_after = leaves_after

    @property
    def gone(self) -> bool:
        return len(self.pieces) >= self._leaves_after

    def tell(self, piece: Piece) -> None:
        self.pieces.append(piece)


def test_samples_are_of_the_ids_and_log_probs_of_the_trainers_model(
    config: StudentConfig, engine: VllmEngine, adapters: Adapters
) -> None:
    tokenizer = load_tokenizer(config.prepared_model().path, config.section.chat_template)
    asked = [request(f"What is {n} plus 3?", seed, version) for version in engine.versions() for n, seed in PAIRS]
    samples = engine.generate(asked)
    for one, sample in zip(asked, samples, strict=True):
        assert sample.prompt_token_ids == render(tokenizer, one.messages)
        assert len(sample.token_ids) == len(sample.logprobs) > 0
        assert sample.text == tokenizer.decode(sample.token_ids, skip_special_tokens=True)
        assert (sample.finish_reason == "stop") == (sample.token_ids[-1] == tokenizer.eos_token_id)
    for version in engine.versions():
        own = [sample for one, sample in zip(asked, samples, strict=True) if one.version == version]
        assert mean_difference(adapters, version, own) < 0.1
    assert engine.health().state is EngineState.READY


def test_the_seed_alone_decides_and_top_p_is_in_the_log_probs(engine: VllmEngine, adapters: Adapters) -> None:
    cool = Sampling(temperature=0.6, top_p=1.0, max_tokens=12)
    first, other, cooled = engine.generate([request("Why?", 5), request("Why?", 6), request("Why?", 5, sampling=cool)])
    assert engine.generate([request("Why?", 5)])[0].token_ids == first.token_ids != other.token_ids
    assert mean_difference(adapters, "a@v1", [cooled], temperature=0.6) < 0.1
    (narrow,) = engine.generate([request("Why?", 5, sampling=Sampling(temperature=1.0, top_p=1e-6, max_tokens=4))])
    (greedy,) = engine.generate([request("Why?", 9, sampling=Sampling(temperature=0.0, top_p=1.0, max_tokens=4))])
    assert narrow.logprobs == pytest.approx([0.0] * 4) and narrow.token_ids == greedy.token_ids
    assert mean_difference(adapters, "a@v1", [greedy]) < 0.1


def test_a_stop_string_ends_the_text_before_it_and_the_ids_with_it(engine: VllmEngine) -> None:
    (whole,) = engine.generate([request("Count: 1, 2, 3,", 1)])
    stop = whole.text[len(whole.text) // 2 :][:2]
    (cut,) = engine.generate([request("Count: 1, 2, 3,", 1, stop=(stop,))])
    assert cut.text == whole.text[: whole.text.find(stop)] and cut.finish_reason == "stop"
    assert cut.token_ids == whole.token_ids[: len(cut.token_ids)]


def test_whoever_reads_along_gets_the_sample_in_pieces_and_may_leave(engine: VllmEngine) -> None:
    reader, leaver = Reader(), Reader(leaves_after=2)
    plain, read, left = engine.generate(
        [
            request("Name a metal.", 3),
            request("Name a metal.", 3, audience=reader, top_logprobs=2),
            request("Name a metal.", 3, audience=leaver),
        ]
    )
    assert read.text == plain.text == "".join(piece.text for piece in reader.pieces)
    assert read.token_ids == plain.token_ids and len(reader.pieces) > 1
    details = [detail for piece in reader.pieces for detail in piece.details]
    assert b"".join(detail.drawn.data for detail in details).decode() == read.text
    assert all(len(detail.top) == 2 and detail.top[0].logprob >= detail.top[1].logprob for detail in details)
    assert left.finish_reason == "length" and len(left.token_ids) < len(plain.token_ids)
    assert plain.text.startswith(left.text)


def test_a_text_keeps_to_its_schema(engine: VllmEngine) -> None:
    schema = '{"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}'
    (sample,) = engine.generate([request("Is it so?", 1, json_schema=schema)])
    assert engine.guides and sample.text.lstrip().startswith("{")


def test_what_cannot_be_asked_is_refused_before_anything_runs(engine: VllmEngine) -> None:
    with pytest.raises(UnknownVersionError, match="a@v9: load it first"):
        engine.generate([request("?"), request("?", version="a@v9")])
    with pytest.raises(PromptTooLongError, match="at most 1024 tokens"):
        engine.generate([request("word " * 1100)])


def test_many_long_prompts_at_once_are_all_answered(engine: VllmEngine) -> None:
    """More of them than one step of the server takes."""
    long = "The body moves on. " * 60
    asked = [
        request(f"{number}. {long}", number, "a@v0", Sampling(temperature=1, top_p=1, max_tokens=2))
        for number in range(16)
    ]
    client = engine.server.life.client
    before = client.progress()
    assert all(sample.token_ids for sample in engine.generate(asked))
    # By its own count, and not only by what came here: it is asked for it where an answer is late.
    assert client.progress() > before + 2 * len(asked)


def test_a_generation_that_nobody_wants_ends_soon(engine: VllmEngine) -> None:
    cancelled = threading.Event()
    cancelled.set()
    long = Sampling(temperature=1.0, top_p=1.0, max_tokens=900)
    with pytest.raises(GenerationCancelledError):
        engine.generate([request("Tell a story.", seed, sampling=long) for seed in range(8)], cancelled)
    assert engine.generate([request("Still there?", 1)])[0].token_ids


def test_versions_come_and_go_under_load_and_every_answer_is_of_its_own(
    engine: VllmEngine, loader: WeightLoader, adapters: Adapters
) -> None:
    """Swaps while requests of other versions run: all of them come, with their own version's log-probs."""
    for steps in range(3, 6):
        adapters.publish(steps)
    steady = [request(f"What is {n} times 4?", n, "a@v1", BRIEF) for n in range(2)]
    swapped: dict[str, list[Generation]] = {}
    through: list[Generation] = []
    done = threading.Event()

    def keep_asking() -> None:
        while not done.is_set():
            through.extend(engine.generate(steady))

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        for steps in range(3, 6):
            version = f"a@v{steps}"
            loader.load(version)
            swapped[version] = engine.generate([request("What is 6 times 4?", seed, version, BRIEF) for seed in (1, 2)])
            engine.unload(version)
    finally:
        done.set()
        asking.join(120)
    assert len(through) % len(steady) == 0 and len(through) > 0
    alone = engine.generate(steady)
    assert mean_difference(adapters, "a@v1", through[: len(alone)]) < 0.1
    for version, samples in swapped.items():
        assert mean_difference(adapters, version, samples) < 0.1
    assert sorted(engine.versions()) == ["a@v0", "a@v1", "a@v2"]


def test_a_bad_version_is_refused_and_the_others_go_on(
    config: StudentConfig, engine: VllmEngine, loader: WeightLoader, adapters: Adapters
) -> None:
    adapters.publish(20, base_model="f" * 64)
    with pytest.raises(VersionRefusedError, match="changes the base model"):
        loader.load("a@v20")
    adapters.publish(21)
    weights = config.weights / "v000021" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8] + b"\xff" * 8)
    with pytest.raises(VersionRefusedError, match="sha256"):
        loader.load("a@v21")
    with pytest.raises(VersionRefusedError, match="cannot read"):
        loader.load("a@v22")
    assert engine.generate([request("Still there?", 1)])[0].token_ids
    assert "a@v20" not in engine.versions()


def test_f25_nothing_of_the_server_can_be_reached_but_by_its_own_student(engine: VllmEngine) -> None:
    """It answers on a socket in a directory of this user's alone, and only with the key of this life."""
    import httpx2

    socket = Path(engine.server.life.client.url.removeprefix("unix:"))
    assert socket.parent.stat().st_mode & 0o077 == 0
    own = [c for p in processes_of(engine) for c in p.net_connections(kind="tcp") if c.status == psutil.CONN_LISTEN]
    assert all(connection.laddr.ip.startswith("127.") for connection in own)
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(socket)), base_url="http://engine") as stranger:
        body = {"lora_name": "x", "lora_path": "/tmp"}
        assert stranger.post("/v1/load_lora_adapter", json=body).status_code == 401
        assert stranger.post("/v1/completions", json={"model": "base", "prompt": [1]}).status_code == 401
        for route in ("/collective_rpc", "/pause", "/sleep", "/reload_weights"):
            assert stranger.post(route, json={}).status_code in (401, 404, 405)


def test_a_killed_server_comes_back_empty_and_takes_its_versions_again(
    engine: VllmEngine, loader: WeightLoader, adapters: Adapters
) -> None:
    kill_while_asked(engine)
    loader.load("a@v1")
    assert engine.health().state is EngineState.READY
    assert mean_difference(adapters, "a@v1", engine.generate([request("What is 2 plus 2?", 3)])) < 0.1
