"""Continuous batching in the student's process: whatever joins, and whenever, a sample is what it is alone."""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from torch import Tensor

from services.student.engines.decoding import Decoder, Decoding, Draw
from services.student.engines.kvcache import RowBudget, RowCache
from services.student.engines.port import (
    EngineAwayError,
    EngineState,
    Generation,
    GenerationCancelledError,
    GenerationRequest,
    Piece,
)
from services.student.engines.prefixes import PromptPart
from services.student.engines.tokens import prompt_ids
from services.student.engines.transformers import TransformersEngine
from shared.contracts.messages import Sampling
from shared.errors import UnavailableError
from shared.modeling.chat import encode
from shared.modeling.loading import load_model, load_tokenizer
from tests.fakes.audience import FakeAudience
from tests.unit.method.reviewed import process
from tests.unit.modeling.tiny_model import write_tiny_model
from tests.unit.student.test_transformers import HOT, adapter, close, engine_of, request

pytestmark = pytest.mark.model

WAIT_S = 300.0
SHARED = "What do these have in common? " * 3
CONTEXT = 1 << 16
LONG = Sampling(temperature=1.0, top_p=1.0, max_tokens=CONTEXT // 2)
"""So long that it ends when somebody ends it, on the slowest machine."""
ASKED = [
    request("one?", 1),
    request("one?", 2, sampling=Sampling(temperature=0.7, top_p=0.9, max_tokens=20)),
    request(SHARED + "this", 3),
    request(SHARED + "that", 4, sampling=Sampling(temperature=0.0, top_p=1.0, max_tokens=9)),
    request(SHARED + "that", 5, sampling=Sampling(temperature=1.0, top_p=1.0, max_tokens=40)),
    request(SHARED + "that", 6, sampling=Sampling(temperature=1.0, top_p=1.0, max_tokens=40)),
    request("a" * 60, 7),
    request("one?", 8, sampling=Sampling(temperature=1.0, top_p=1.0, max_tokens=1)),
    request("long " * 110, 9),
]


class Slow(FakeAudience):
    """Stays until `left`, listening slowly; `begun` is set with the first piece."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.left = threading.Event(), threading.Event()

    @property
    def gone(self) -> bool:
        return self.left.is_set()

    def tell(self, piece: Piece) -> None:
        super().tell(piece)
        self.begun.set()
        time.sleep(0.01)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("wide"), context=CONTEXT)


@pytest.fixture(scope="module")
def alone(model_dir: Path) -> list[Generation]:
    engine = endless(model_dir)
    return [engine.generate([asked])[0] for asked in ASKED]


def endless(model_dir: Path, slots: int = 16) -> TransformersEngine:
    """No token ends a text, so that a sample lasts as long as it may."""
    engine = engine_of(model_dir, slots)
    engine._loop._decoder._eos_ids = frozenset()
    return engine


@pytest.fixture
def engine(model_dir: Path) -> Iterator[TransformersEngine]:
    engine = endless(model_dir, slots=4)
    yield engine
    engine.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


@pytest.fixture(scope="module")
def decoder(model_dir: Path) -> Decoder:
    model, tokenizer = load_model(model_dir, "float32"), load_tokenizer(model_dir, "compact")
    return Decoder(model, tokenizer, frozenset())


def draw_of(decoder: Decoder, index: int) -> Draw:
    asked = ASKED[index]
    return Draw(index, tuple(prompt_ids(decoder._text.tokenizer, asked, 258)), asked, Random(asked.seed), None)


def test_thoughts_between_special_tokens_are_told_from_a_feedback(model_dir: Path) -> None:
    model, tokenizer = load_model(model_dir, "float32"), load_tokenizer(model_dir, "compact")
    tokenizer.add_tokens([AddedToken(name, special=True) for name in ("[THINK]", "[/THINK]")])
    decoder = Decoder(model, tokenizer, frozenset())
    said = "[THINK]It is <concept>zebra</concept> and B.[/THINK]<concept>force</concept> Check the sign."
    sample = draw_of(decoder, 0)
    sample.token_ids += encode(tokenizer, f"{said}<|im_end|>")
    assert decoder.finish(sample).text == said
    assert process(said, "Which force?") == ("match:force", "Check the sign.")


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 12), min_size=len(ASKED), max_size=len(ASKED)))
def test_rows_join_at_any_step_and_leave_when_they_end(
    decoder: Decoder, alone: list[Generation], joins: list[int]
) -> None:
    draws = [draw_of(decoder, index) for index in range(len(ASKED))]
    decoding = Decoding(decoder, RowBudget(len(ASKED)))
    for step in range(13):
        if joining := [draw for draw, at in zip(draws, joins, strict=True) if at == step]:
            decoding.join(joining)
        if decoding.rows:
            decoding.step()
    while decoding.rows:
        decoding.step()
    for draw, expected in zip(draws, alone, strict=True):
        close(decoder.finish(draw), expected)


def test_who_leaves_early_takes_nobody_along(decoder: Decoder, alone: list[Generation]) -> None:
    draws = [draw_of(decoder, index) for index in range(len(ASKED))]
    decoding = Decoding(decoder, RowBudget(len(ASKED)))
    decoding.join(draws)
    decoding.step()
    gone = {draws[0], draws[2], draws[5]}
    decoding.leave(gone.__contains__)
    assert not gone & set(decoding.samples)
    while decoding.rows:
        decoding.step()
    for draw in set(draws) - gone:
        close(decoder.finish(draw), alone[draw.index])


def test_calls_of_many_threads_are_each_what_they_are_alone(
    engine: TransformersEngine, alone: list[Generation], pool: ThreadPoolExecutor
) -> None:
    """More than there are slots, so that some wait for others to end."""
    calls = [pool.submit(engine.generate, [ASKED[number % len(ASKED)]]) for number in range(3 * len(ASKED))]
    for number, call in enumerate(calls):
        close(call.result(WAIT_S)[0], alone[number % len(ASKED)])


def test_a_version_is_loaded_and_used_while_another_decodes(
    engine: TransformersEngine, model_dir: Path, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    adapter(model_dir, tmp_path / "v1", seed=1)
    expected = endless(model_dir)
    expected.load("a@v1", tmp_path / "v1")
    running = slow(pool, engine)
    engine.load("a@v1", tmp_path / "v1")
    asked = [request("one?", 7, "a@v1"), request("one?", 7)]
    new, old = engine.generate(asked)
    assert not running.call.done()
    running.audience.left.set()
    close(new, expected.generate(asked[:1])[0])
    close(old, expected.generate(asked[1:])[0])
    assert new.token_ids != old.token_ids
    close_beginning(running, expected)


class Running:
    """A sample that is under way until its audience leaves."""

    def __init__(self, audience: Slow, call: "Future[list[Generation]]", asked: GenerationRequest) -> None:
        self.audience, self.call, self.asked = audience, call, asked


def slow(pool: ThreadPoolExecutor, engine: TransformersEngine, *besides: GenerationRequest) -> Running:
    audience = Slow()
    asked = replace(request("one?", 3, sampling=LONG), audience=audience)
    call = pool.submit(engine.generate, [asked, *besides])
    assert audience.begun.wait(WAIT_S)
    return Running(audience, call, asked)


def close_beginning(running: Running, expected: TransformersEngine) -> None:
    """What ended early is the beginning of the sample."""
    found = running.call.result(WAIT_S)[0]
    as_far = running.asked.sampling.model_copy(update={"max_tokens": len(found.token_ids)})
    whole = expected.generate([replace(running.asked, audience=None, sampling=as_far)])[0]
    assert found.token_ids == whole.token_ids


def test_who_asks_while_all_slots_are_taken_waits_for_one_and_not_for_all(
    engine: TransformersEngine, pool: ThreadPoolExecutor, alone: list[Generation]
) -> None:
    running = slow(pool, engine, *[request("one?", seed) for seed in range(engine.slots - 1)])
    close(engine.generate(ASKED[:1])[0], alone[0])
    assert not running.call.done()
    running.audience.left.set()
    assert len(running.call.result(WAIT_S)) == engine.slots


def test_what_has_ended_of_a_job_makes_room_before_the_rest_has(
    engine: TransformersEngine, pool: ThreadPoolExecutor
) -> None:
    told = threading.Event()
    short = HOT.model_copy(update={"max_tokens": 3})
    job = [request("one?", 1, sampling=short), request("one?", 2, sampling=short), request("one?", 3, sampling=LONG)]
    call = pool.submit(engine.generate, job, told)
    deadline = time.monotonic() + WAIT_S
    while engine.finished < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    told.set()
    with pytest.raises(GenerationCancelledError):
        call.result(WAIT_S)
    assert engine.finished == 0


def test_a_cancelled_call_ends_and_the_others_go_on(
    engine: TransformersEngine, pool: ThreadPoolExecutor, alone: list[Generation]
) -> None:
    running = slow(pool, engine)
    told = threading.Event()
    many = [replace(request("two?", seed, sampling=LONG), audience=Slow()) for seed in range(6)]
    call = pool.submit(engine.generate, many, told)
    told.set()
    with pytest.raises(GenerationCancelledError, match="6 samples were stopped"):
        call.result(WAIT_S)
    assert not running.call.done()
    close(engine.generate(ASKED[:1])[0], alone[0])
    running.audience.left.set()
    running.call.result(WAIT_S)


class Poisoned(Decoder):
    """A model that fails on a pass with a certain token."""

    token = -1

    def read(self, parts: Sequence[PromptPart], cache: RowCache) -> Tensor:
        if any(self.token in part.ids for part in parts):
            raise RuntimeError("out of memory")
        return super().read(parts, cache)


def test_only_the_call_at_fault_fails(model_dir: Path, pool: ThreadPoolExecutor, alone: list[Generation]) -> None:
    engine = endless(model_dir, slots=4)
    decoder = Poisoned(engine._model, engine._tokenizer, frozenset())
    decoder.token = engine._tokenizer.convert_tokens_to_ids("%")
    engine._loop._decoder = decoder
    running = slow(pool, engine)
    calls = [pool.submit(engine.generate, [asked]) for asked in (*ASKED[:2], request("%", 1), *ASKED[2:])]
    with pytest.raises(RuntimeError, match="out of memory"):
        calls.pop(2).result(WAIT_S)
    for call, expected in zip(calls, alone, strict=True):
        close(call.result(WAIT_S)[0], expected)
    # What somebody has heard the beginning of is not made again, so it either ran apart or failed.
    running.audience.left.set()
    assert running.call.exception(WAIT_S) is None or "out of memory" in str(running.call.exception())
    close(engine.generate(ASKED[:1])[0], alone[0])


def test_a_gpu_that_is_lost_ends_the_engine_and_no_call_is_made_again_alone(
    model_dir: Path, pool: ThreadPoolExecutor
) -> None:
    """A replica that stayed would fail whatever it took, faster than the others do it."""

    class Lost(Poisoned):
        def require_device(self) -> None:
            raise EngineAwayError("the GPU is lost to this process, which ends: an illegal memory access")

    engine = endless(model_dir, slots=4)
    decoder = Lost(engine._model, engine._tokenizer, frozenset())
    decoder.token = engine._tokenizer.convert_tokens_to_ids("%")
    engine._loop._decoder = decoder
    running = slow(pool, engine)
    with pytest.raises(EngineAwayError, match="illegal memory access"):
        engine.generate([request("%", 1)])
    assert isinstance(running.call.exception(WAIT_S), EngineAwayError)
    assert engine.health().state is EngineState.DEAD
    with pytest.raises(UnavailableError, match="the GPU is lost"):
        engine.generate(ASKED[:1])


def test_a_loop_that_is_lost_leaves_nobody_waiting(model_dir: Path, pool: ThreadPoolExecutor) -> None:
    engine = endless(model_dir)
    running = slow(pool, engine)

    def fail() -> dict[str, list[Draw]]:
        raise ValueError("a mistake of the loop's own")

    engine._loop._taken_in = fail  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="a mistake"):
        running.call.result(WAIT_S)
    assert engine.health().state is EngineState.DEAD and "a mistake" in engine.health().detail
    with pytest.raises(UnavailableError, match="the decoding loop is lost"):
        engine.generate(ASKED[:1])


def test_a_closed_engine_ends_what_runs(model_dir: Path, pool: ThreadPoolExecutor) -> None:
    engine = endless(model_dir)
    running = slow(pool, engine)
    engine.close()
    with pytest.raises(UnavailableError, match="closed"):
        running.call.result(WAIT_S)


def test_a_call_alone_is_the_same_to_the_last_bit(model_dir: Path) -> None:
    """Whatever ran before it: a process that goes on after a killed one draws what that one would have drawn."""
    engine = engine_of(model_dir, slots=3)
    first = engine.generate(ASKED)
    engine.generate(ASKED[3:5])
    assert engine.generate(ASKED) == first
    assert engine_of(model_dir, slots=3).generate(ASKED) == first


def test_memory_is_bounded_by_slots_over_all_versions(
    model_dir: Path, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    engine = endless(model_dir, slots=4)
    versions = ["a@v0"]
    for number in (1, 2):
        adapter(model_dir, tmp_path / f"v{number}", seed=number)
        engine.load(f"a@v{number}", tmp_path / f"v{number}")
        versions.append(f"a@v{number}")
    seen: list[int] = []
    step = engine._loop._advance

    def watched(version: str, joining: Sequence[Draw]) -> None:
        step(version, joining)
        seen.append(engine._loop._budget.rows)

    engine._loop._advance = watched  # type: ignore[method-assign]
    asked = [request("one?", seed, versions[seed % 3]) for seed in range(18)]
    list(pool.map(lambda one: engine.generate([one]), asked))
    assert 2 <= max(seen) <= 4 and not engine._loop._budget.caches


def test_the_weights_of_a_version_that_went_are_let_go(model_dir: Path, tmp_path: Path) -> None:
    engine = engine_of(model_dir)
    adapter(model_dir, tmp_path / "v1", seed=1)
    engine.load("a@v1", tmp_path / "v1")
    engine.generate([request("one?", 1, "a@v1")])
    engine.unload("a@v1")
    deadline = time.monotonic() + WAIT_S
    name = "model.layers.1.self_attn.q_proj.weight"
    served, base = engine._model.get_parameter(name), engine._active.base[name]
    while served.data_ptr() != base.data_ptr():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert torch.equal(served, base)
