"""The engine on a vLLM server in which a fault is injected."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from services.student.engines.port import (
    EngineAwayError,
    EngineState,
    NotFiniteError,
    PromptTooLongError,
    UnknownVersionError,
    VersionTakenError,
)
from services.student.engines.vllm.engine import VllmEngine
from services.student.engines.vllm.weights import AdapterWeights, Renamed
from services.student.weights.loader import VersionRefusedError, WeightLoader
from shared.errors import ConfigError, ModelError
from shared.modeling.adapters import LoraSpec, adapter_tensors, attach_lora, load_adapter, save_adapter
from shared.modeling.checksums import file_checksum
from shared.modeling.loading import load_model, load_tokenizer
from shared.modeling.serving import served_modules
from tests.fakes.audience import FakeAudience
from tests.fakes.student import publish_version
from tests.fakes.vllm import LIMIT
from tests.fakes.vllm_bench import Bench, request, until
from tests.fakes.waiting import WAIT_S

SPEC = LoraSpec(rank=2, alpha_scale=2.0)


class EngineBench(Bench):
    """With the real clock and the watch's thread."""

    def __init__(self, directory: Path, model: Path) -> None:
        super().__init__(directory)
        tokenizer = load_tokenizer(model, "compact")
        weights = AdapterWeights(model, file_checksum(*model.glob("*.safetensors")))
        self.engine = VllmEngine(self.server, weights, model, tokenizer, vocabulary_size=258, slots=4)
        self.adapter = directory / "adapter"
        self.adapter.mkdir()
        tensors = adapter_tensors(attach_lora(load_model(model, "float32"), SPEC, seed=0))
        save_adapter(self.adapter, tensors, SPEC, "tiny")


@pytest.fixture
def engine(tmp_path: Path, tiny_dir: Path) -> Iterator[EngineBench]:
    bench = EngineBench(tmp_path, tiny_dir)
    yield bench
    bench.close()


def test_ids_go_in_and_out(engine: EngineBench) -> None:
    engine.engine.load("a@v1", engine.adapter)
    (sample,) = engine.engine.generate([request()])
    asked = engine.fake.bodies[-1]
    (name,) = engine.fake.models
    assert asked["prompt"] == sample.prompt_token_ids and asked["model"] == name
    assert (asked["seed"], asked["temperature"], asked["top_p"]) == (2**62, 0.7, 0.9)
    assert asked["stop_token_ids"] == [257]
    # What a server would else take from the model's generation_config.json.
    besides = (asked["top_k"], asked["min_p"], asked["repetition_penalty"])
    assert (*besides, asked["presence_penalty"], asked["frequency_penalty"]) == (0, 0.0, 1.0, 0.0, 0.0)
    assert sample.token_ids == [sample.prompt_token_ids[-1]] * 3 and sample.logprobs == [-0.5] * 3
    assert engine.engine.health().state is EngineState.READY


def test_versions_are_names_of_their_bytes(engine: EngineBench, tmp_path: Path) -> None:
    held = engine.engine.load("a@v1", engine.adapter)
    assert engine.engine.load("a@v1", engine.adapter) == held
    assert list(engine.fake.models) == [f"a@v1-{held[:16]}"]
    with pytest.raises(VersionTakenError, match="give the new weights a new name"):
        engine.engine.load("a@v1", None)
    base = engine.engine.load("a@v0", None)
    assert engine.engine.versions() == {"a@v1": held, "a@v0": base}
    engine.engine.unload("a@v0")
    engine.engine.unload("a@v1")
    assert engine.fake.models == {} and engine.engine.versions() == {}
    with pytest.raises(UnknownVersionError):
        engine.engine.unload("a@v1")
    with pytest.raises(ModelError, match="serves adapters"):
        engine.engine.load("a@v2", tmp_path)


def test_a_checksum_that_the_files_were_found_to_have_is_taken(engine: EngineBench) -> None:
    known = "a1" * 32
    assert engine.engine.load("a@v1", engine.adapter, known) == known
    assert list(engine.fake.models) == [f"a@v1-{known[:16]}"]
    with pytest.raises(VersionTakenError):
        engine.engine.load("a@v1", engine.adapter)


def test_a_version_that_the_server_holds_already_is_taken_over_and_another_refusal_told(engine: EngineBench) -> None:
    held = engine.engine.load("a@v1", engine.adapter)
    engine.engine.server.unloaded("a@v1")
    assert engine.engine.load("a@v1", engine.adapter) == held
    engine.fake.refusal = "rank 4 is too large"
    with pytest.raises(ModelError, match="rank 4 is too large"):
        engine.engine.load("a@v2", engine.adapter)


@pytest.mark.parametrize("status", [404, 500])
def test_an_adapter_that_is_not_taken_is_no_lost_server_whatever_the_status(engine: EngineBench, status: int) -> None:
    """As of a server that does not see the run's directory, or was started for smaller ones."""
    engine.fake.refusal, engine.fake.refuses_with = "No adapter found", status
    with pytest.raises(ModelError, match=rf"with {status}: .*No adapter found.*reads that directory by this path"):
        engine.engine.load("a@v1", engine.adapter)
    engine.fake.dead.set()
    with pytest.raises(EngineAwayError, match="lost while a@v1 was loaded"):
        engine.engine.load("a@v1", engine.adapter)


def test_a_found_server_whose_log_probs_are_not_of_the_drawing_is_refused(tmp_path: Path, tiny_dir: Path) -> None:
    bench = Bench(tmp_path)
    bench.fake.raw = True
    try:
        with pytest.raises(ConfigError, match="start it with --logprobs-mode processed_logprobs"):
            VllmEngine(
                bench.server, AdapterWeights(tiny_dir, "0"), tiny_dir, load_tokenizer(tiny_dir, "compact"), 258, 4
            )
    finally:
        bench.close()


def test_what_does_not_fit_or_is_not_there_is_not_asked(engine: EngineBench) -> None:
    engine.engine.load("a@v1", engine.adapter)
    asked = len(engine.fake.bodies)
    with pytest.raises(PromptTooLongError, match=f"at most {LIMIT} tokens"):
        engine.engine.generate([request(max_tokens=LIMIT)])
    with pytest.raises(UnknownVersionError, match=r"expected a version that is loaded \(a@v1\), got a@v3"):
        engine.engine.generate([request("a@v3")])
    assert len(engine.fake.bodies) == asked


@pytest.mark.parametrize("streamed", [False, True])
def test_log_probs_that_are_no_numbers_are_no_answer_and_no_lost_server(engine: EngineBench, streamed: bool) -> None:
    engine.engine.load("a@v1", engine.adapter)
    engine.fake.numberless = True
    audience = FakeAudience() if streamed else None
    with pytest.raises(NotFiniteError, match="expected numbers of a@v1, got logits that are NaN or infinite"):
        engine.engine.generate([replace(request(), audience=audience, top_logprobs=2)])
    assert audience is None or audience.text == ""
    assert (engine.engine.health().state, list(engine.engine.versions())) == (EngineState.READY, ["a@v1"])
    engine.fake.numberless = False
    assert len(engine.engine.generate([request()])) == 1


def test_a_request_of_a_server_that_was_lost_is_told_so(engine: EngineBench) -> None:
    engine.engine.load("a@v1", engine.adapter)
    engine.fake.hung.set()
    lost: list[Exception] = []

    def ask() -> None:
        try:
            engine.engine.generate([request()])
        except EngineAwayError as error:
            lost.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    deadline = time.monotonic() + 20
    while not lost and time.monotonic() < deadline:
        engine.clock.now_s += 1
        engine.engine.server.look()
        time.sleep(0.05)
    asking.join(WAIT_S)
    assert len(lost) == 1 and engine.engine.versions() == {}
    with pytest.raises(EngineAwayError, match="with it a@v1"):
        engine.engine.generate([request()])


def test_a_request_that_a_server_loses_is_told_so_and_the_server_goes_on(engine: EngineBench) -> None:
    engine.engine.load("a@v1", engine.adapter)
    engine.fake.loses.set()
    engine.fake.in_hand = 0
    with ThreadPoolExecutor() as asking:
        lost = asking.submit(engine.engine.generate, [request()])
        until(lambda: engine.fake.bodies[-1]["max_tokens"] > 1)
        while not lost.done():
            engine.clock.now_s += 1
            engine.engine.server.look()
            time.sleep(0.05)
    with pytest.raises(EngineAwayError, match="lost a request"):
        lost.result()
    engine.fake.loses.clear()
    assert len(engine.engine.generate([request()])) == 1


def test_an_engine_that_may_be_lost_is_suspect_until_the_look_at_it_has_ended(engine: EngineBench) -> None:
    engine.fake.hung.set()
    engine.engine.server.look()
    assert engine.engine.health().state is EngineState.AWAY  # and not EMPTY: nothing is loaded either
    engine.fake.hung.clear()
    until(lambda: engine.engine.health().state is EngineState.EMPTY)
    engine.engine.load("a@v1", engine.adapter)
    for fault in (engine.fake.dead, engine.fake.hung):
        fault.set()
        if fault is engine.fake.dead:
            with pytest.raises(EngineAwayError, match="answered /v1/completions with 500"):
                engine.engine.generate([request()])
        else:
            engine.engine.server.look()
        for _ in range(20):
            assert engine.engine.health().state is EngineState.SUSPECT
            time.sleep(0.01)
        fault.clear()
        engine.engine.server.look()
        until(lambda: engine.engine.health().state is EngineState.READY)


def test_a_version_that_speaks_like_another_model_is_refused(engine: EngineBench, tmp_path: Path) -> None:
    """The probe is asked once in a life of the server."""
    weights = tmp_path / "weights" / "a"
    files = {file.name: file.read_bytes() for file in engine.adapter.iterdir()}
    checksum = engine.engine.load("a@v1", engine.adapter)
    engine.engine.unload("a@v1")
    for steps, probe in ((1, (-0.5, -0.5, -0.5)), (2, (-2.1, -1.9, -2.0))):
        publish_version(tmp_path, steps, files, checksum=checksum, probe=probe)
    loader = WeightLoader(weights, run="test", student="a", engine=engine.engine, base_model=None)
    with pytest.raises(VersionRefusedError, match="does the engine have another model"):
        loader.load("a@v1")
    assert engine.engine.versions() == {} and engine.fake.models == {}


def test_the_first_version_that_is_to_differ_from_the_base_model_is_asked_whether_it_does(
    engine: EngineBench, tmp_path: Path
) -> None:
    """A server that does not find an adapter's layers takes it, and answers as without it."""
    files = {file.name: file.read_bytes() for file in engine.adapter.iterdir()}
    checksum = engine.engine.load("a@v1", engine.adapter)
    engine.engine.unload("a@v1")
    for steps, probe in ((1, (-2.1, -1.9, -2.0)), (2, (-2.0, -2.4, -2.0)), (3, (-2.0, -2.4, -2.0))):
        publish_version(tmp_path, steps, files, checksum=checksum, probe=probe)
    loader = WeightLoader(tmp_path / "weights/a", run="test", student="a", engine=engine.engine, base_model=None)
    loader.load("a@v1")
    with pytest.raises(VersionRefusedError, match=r"of -2\.0 with a@v2 and of -2\.0 without, .* gave it -2\.4: "):
        loader.load("a@v2")
    assert list(engine.engine.versions()) == ["a@v1"]
    engine.fake.effect = -0.3
    assert loader.load("a@v2") == checksum
    asked = len(engine.fake.bodies)
    loader.load("a@v3")
    assert len(engine.fake.bodies) == asked


def test_layers_of_other_names_at_the_server_get_those(engine: EngineBench, tmp_path: Path, tiny_dir: Path) -> None:
    served = {name: f"parts.{name}" for name in served_modules(tiny_dir)}
    weights = AdapterWeights(tiny_dir, "0" * 64, Renamed(tmp_path / "renamed", served))
    life = engine.server.life
    name = weights.load(life, "a@v1", weights.check(engine.adapter, None))
    (made,) = (tmp_path / "renamed").iterdir()
    assert engine.fake.models == {name: str(made)} and made.name == name
    (own, spec), (renamed, same) = load_adapter(engine.adapter), load_adapter(made)
    assert same == spec
    expected = {name.replace("base_model.model.", "base_model.model.parts."): one for name, one in own.items()}
    assert renamed.keys() == expected.keys() and all(torch.equal(renamed[name], expected[name]) for name in renamed)
    weights.unload(life, "a@v1", name)
    assert engine.fake.models == {} and not made.exists()


@pytest.mark.parametrize("fault", ["dead", "numberless"])
def test_a_version_whose_probe_failed_is_not_there(engine: EngineBench, tmp_path: Path, fault: str) -> None:
    """Left there, it would be served without ever having been asked."""
    files = {file.name: file.read_bytes() for file in engine.adapter.iterdir()}
    checksum = engine.engine.load("a@v1", engine.adapter)
    engine.engine.unload("a@v1")
    publish_version(tmp_path, 1, files, checksum=checksum, probe=(-2.1, -1.9, -2.0))
    loader = WeightLoader(tmp_path / "weights/a", run="test", student="a", engine=engine.engine, base_model=None)
    if fault == "dead":
        engine.fake.dead.set()
        with pytest.raises(EngineAwayError):
            loader.load("a@v1")
    else:
        engine.fake.numberless = True
        with pytest.raises(VersionRefusedError, match="expected numbers of a@v1"):
            loader.load("a@v1")
    assert engine.engine.versions() == {} and engine.fake.models == {}
    engine.fake.dead.clear()
    engine.fake.numberless = False
    until(lambda: engine.engine.health().state in (EngineState.READY, EngineState.EMPTY))
    assert loader.load("a@v1") == checksum
