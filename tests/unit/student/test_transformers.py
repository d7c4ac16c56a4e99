import shutil
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from services.student.engines import active, loop
from services.student.engines.port import (
    EngineAwayError,
    EngineHealth,
    EngineState,
    Generation,
    GenerationCancelledError,
    GenerationRequest,
    NotFiniteError,
    PromptTooLongError,
    UnknownVersionError,
    VersionTakenError,
)
from services.student.engines.transformers import LOAD_ATTEMPTS, STUCK_S, TransformersEngine
from services.student.work.generation import Failure, generate_each
from shared.contracts.messages import ChatMessage, Sampling
from shared.errors import ModelError, PromptError, UnavailableError
from shared.modeling.adapters import (
    WEIGHTS_FILE,
    LoraSpec,
    adapter_tensors,
    attach_lora,
    checksum,
    merge_adapter,
    save_adapter,
)
from shared.modeling.checksums import file_checksum
from shared.modeling.loading import load_model
from shared.modeling.logprobs import token_logprobs
from tests.fakes.audience import FakeAudience
from tests.fakes.waiting import WAIT_S, wait_until

pytestmark = pytest.mark.model
SPEC = LoraSpec(rank=2, alpha_scale=2.0, first_layer=1)
HOT = Sampling(temperature=1.0, top_p=1.0, max_tokens=12)


def engine_of(tiny_dir: Path, slots: int = 16) -> TransformersEngine:
    engine = TransformersEngine(tiny_dir, "compact", "float32", slots=slots, threads=1)
    engine.load("a@v0", None)
    return engine


@pytest.fixture
def engine(tiny_dir: Path) -> TransformersEngine:
    return engine_of(tiny_dir)


def request(text: str, seed: int = 0, version: str = "a@v0", sampling: Sampling = HOT) -> GenerationRequest:
    return GenerationRequest(version, (ChatMessage(role="user", content=text),), sampling, seed)


def test_an_engine_that_rests_gives_memory_back_once(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    monkeypatch.setattr(loop, "REST_S", 0.01)
    monkeypatch.setattr(loop, "release_freed", lambda: given.append(1))
    for before in (0, 1):
        engine.generate([request("What is 2 plus 3?")])
        wait_until(partial(lambda most: len(given) > most, before), "memory to be given back")
    engine.close()
    assert len(given) == 2


def adapter(tiny_dir: Path, directory: Path, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    start = adapter_tensors(attach_lora(load_model(tiny_dir, "float32"), SPEC, seed=0))
    tensors = {name: torch.randn(tensor.shape, generator=generator) * 0.3 for name, tensor in start.items()}
    directory.mkdir()
    save_adapter(directory, tensors, SPEC, "tiny")
    return tensors


def test_tensors_with_another_checksum_than_it_is_told_are_not_held(tiny_dir: Path, tmp_path: Path) -> None:
    engine, tensors = engine_of(tiny_dir), adapter(tiny_dir, tmp_path / "v1", seed=1)
    with pytest.raises(ModelError, match="altered after they were written"):
        engine.load("a@v1", tmp_path / "v1", "0" * 64)
    assert "a@v1" not in engine.versions()
    assert engine.load("a@v1", tmp_path / "v1", checksum(tensors)) == checksum(tensors)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.20 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:130] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
    ids=["gpu", "host", "python"],
)
def test_a_version_that_memory_runs_out_for_is_tried_again_and_then_refused(
    tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    engine, tensors = engine_of(tiny_dir, slots=3), adapter(tiny_dir, tmp_path / "v1", seed=1)
    left, weights = [1], engine._active.weights

    def full(parameters: Iterable[tuple[str, torch.Tensor]]) -> active.Weights:
        if left[0] > 0:
            left[0] -= 1
            raise error
        return weights(parameters)

    monkeypatch.setattr(engine._active, "weights", full)
    assert engine.load("a@v1", tmp_path / "v1") == checksum(tensors)
    left[0] = 99
    with pytest.raises(ModelError, match=r"memory for a@v2, of up to \d+ bytes beside the 2 .*fewer `slots` than 3"):
        engine.load("a@v2", tmp_path / "v1")
    assert left[0] == 99 - LOAD_ATTEMPTS
    assert set(engine.versions()) == {"a@v0", "a@v1"} and engine.health().state is EngineState.READY
    assert engine.generate([request("one?", version="a@v1")])[0].token_ids


def test_a_gpu_that_breaks_while_a_version_loads_is_the_end(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def lost() -> None:
        raise EngineAwayError("the GPU is lost to this process, which ends")

    monkeypatch.setattr(engine, "_read", broken)
    with pytest.raises(RuntimeError, match="illegal"):
        engine.load("a@v1", None)
    monkeypatch.setattr(engine._decoder, "require_device", lost)
    with pytest.raises(EngineAwayError):
        engine.load("a@v1", None)
    assert engine.health() == EngineHealth(EngineState.DEAD, "the GPU is lost to this process, which ends")


def test_a_pass_that_never_ends_is_away_and_then_the_end(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for it is let go, so that the process can end."""
    gate = threading.Event()
    monkeypatch.setattr(engine._loop, "_activate", lambda _: gate.wait(WAIT_S))
    with ThreadPoolExecutor(1) as caller:
        asked = caller.submit(engine.generate, [request("one?")])
        wait_until(lambda: engine._loop.busy_s > 0, "the pass to begin")
        began_s = engine._loop._turned_s
        assert began_s is not None and engine.health().state is EngineState.READY
        engine._loop._turned_s = began_s - STUCK_S
        assert engine.health().state is EngineState.AWAY and not asked.done()
        engine._loop._turned_s = began_s - loop.LOST_S
        assert engine.health().state is EngineState.DEAD
        with pytest.raises(UnavailableError, match="hangs"):
            asked.result(WAIT_S)
        gate.set()


MIXED = [
    request("one?", 1),
    request("a longer question?", 2),
    request("one?", 3),
    request("one?", 4, sampling=Sampling(temperature=0.5, top_p=0.9, max_tokens=7)),
    request("one?", 5, sampling=Sampling(temperature=0.0, top_p=1.0, max_tokens=5)),
    request("one?", 3),
]


def close(one: Generation, other: Generation) -> None:
    assert replace(one, logprobs=[]) == replace(other, logprobs=[])
    assert one.logprobs == pytest.approx(other.logprobs, abs=1e-3)


def test_a_sample_does_not_depend_on_what_shares_its_batch(engine: TransformersEngine) -> None:
    together = engine.generate(MIXED)
    for index, single in enumerate(MIXED):
        close(together[index], engine.generate([single])[0])
    close(together[2], together[5])


def test_slots_do_not_change_results_or_order(tiny_dir: Path, engine: TransformersEngine) -> None:
    for one, other in zip(engine.generate(MIXED), engine_of(tiny_dir, slots=2).generate(MIXED), strict=True):
        close(one, other)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_the_models_own_over_many_forks(
    engine: TransformersEngine, tiny_dir: Path, temperature: float
) -> None:
    sampling = Sampling(temperature=temperature, top_p=1.0, max_tokens=12)
    requests = [request(text, seed, sampling=sampling) for text in ("one?", "other one?") for seed in range(8)]
    found = engine.generate(requests)
    assert len({tuple(each.token_ids) for each in found}) > 8
    model = load_model(tiny_dir, "float32")
    prompts, responses = [each.prompt_token_ids for each in found], [each.token_ids for each in found]
    with torch.no_grad():
        expected = token_logprobs(model, prompts, responses, temperature)
    for row, each in enumerate(found):
        assert each.logprobs == pytest.approx(expected[row, : len(each.token_ids)].tolist(), abs=2e-3)


def test_greedy_is_transformers_own_greedy(engine: TransformersEngine, tiny_dir: Path) -> None:
    greedy = Sampling(temperature=0.0, top_p=1.0, max_tokens=10)
    found = engine.generate([request("one?", sampling=greedy)])[0]
    expected = load_model(tiny_dir, "float32").generate(
        torch.tensor([found.prompt_token_ids]), do_sample=False, max_new_tokens=10, pad_token_id=0
    )
    assert found.token_ids == expected[0, len(found.prompt_token_ids) :].tolist()


def test_seeds_make_the_difference(engine: TransformersEngine) -> None:
    found = engine.generate([request("one?", seed) for seed in (1, 2, 1)])
    assert found[0].token_ids == found[2].token_ids != found[1].token_ids


def test_eos_and_length_are_told_apart(engine: TransformersEngine) -> None:
    found = engine.generate(
        [request("one?", seed, sampling=Sampling(temperature=3, top_p=1, max_tokens=60)) for seed in range(16)]
    )
    reasons = {each.finish_reason for each in found}
    assert reasons == {"stop", "length"}
    for each in found:
        assert (each.token_ids[-1] == 257) == (each.finish_reason == "stop")
        assert len(each.token_ids) <= 60 and len(each.logprobs) == len(each.token_ids)
        assert "<|im_end|>" not in each.text


def test_a_stop_string_ends_the_text_before_it(engine: TransformersEngine) -> None:
    whole = engine.generate([request("one?", 9)])[0]
    stop = next(character for character in whole.text[3:] if character.isascii())
    cut = engine.generate([replace(request("one?", 9), stop=(stop,))])[0]
    assert cut.finish_reason == "stop"
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.token_ids == whole.token_ids[: len(cut.token_ids)]


def test_versions_side_by_side_are_the_merged_models(
    engine: TransformersEngine, tiny_dir: Path, tmp_path: Path
) -> None:
    requests = [request("one?", 7)]
    for number in (1, 2):
        tensors = adapter(tiny_dir, tmp_path / f"v{number}", seed=number)
        assert engine.load(f"a@v{number}", tmp_path / f"v{number}") == checksum(tensors)
        requests.append(request("one?", 7, f"a@v{number}"))
        merged = load_model(tiny_dir, "float32")
        merge_adapter(merged, tensors, SPEC)
        alone = engine.generate([requests[-1]])[0]
        expected = token_logprobs(merged, [alone.prompt_token_ids], [alone.token_ids])[0]
        assert alone.logprobs == pytest.approx(expected.tolist(), abs=2e-3)
    found = engine.generate([*requests, requests[0]])
    assert len({tuple(each.logprobs) for each in found[:3]}) == 3
    close(found[0], found[3])
    assert sorted(engine.versions()) == ["a@v0", "a@v1", "a@v2"]


def test_packed_weights_answer_as_plain_ones(tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bf16, through the loop, an adapter beside the base; log-probs may differ by rounding."""
    adapter(tiny_dir, tmp_path / "v1", seed=1)
    requests = [request(f"What is {n} plus 3?", n, version) for n in range(6) for version in ("a@v0", "a@v1")]

    def answers() -> list[Generation]:
        engine = TransformersEngine(tiny_dir, "compact", "bfloat16", slots=8, threads=1)
        engine.load("a@v0", None)
        engine.load("a@v1", tmp_path / "v1")
        found = engine.generate(requests)
        assert engine.health().detail.endswith("packed weights") == active.has_bf16_products()
        engine.close()
        return found

    as_it_is = answers()
    monkeypatch.setattr(active, "has_bf16_products", lambda: False)
    for one, plain in zip(as_it_is, answers(), strict=True):
        assert one.token_ids == plain.token_ids
        assert one.logprobs == pytest.approx(plain.logprobs, abs=2**-5)


def test_the_base_model_comes_back_after_unloading(engine: TransformersEngine, tiny_dir: Path, tmp_path: Path) -> None:
    before = engine.generate([request("one?", 7)])
    adapter(tiny_dir, tmp_path / "v1", seed=1)
    engine.load("a@v1", tmp_path / "v1")
    engine.generate([request("one?", 7, "a@v1")])
    engine.unload("a@v1")
    assert engine.generate([request("one?", 7)]) == before
    with pytest.raises(UnknownVersionError, match="a@v1"):
        engine.generate([request("one?", 7), request("one?", 7, "a@v1")])


def test_full_weights_are_a_version_too(engine: TransformersEngine, tiny_dir: Path, tmp_path: Path) -> None:
    tensors = load_file(tiny_dir / "model.safetensors")
    save_file({name: tensor * 0.5 for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    assert engine.load("a@v1", tmp_path) == file_checksum(tmp_path / "model.safetensors")
    assert engine.versions()["a@v0"] == file_checksum(tiny_dir / "model.safetensors")
    found = engine.generate([request("one?", 7, "a@v1")])[0]
    with torch.no_grad():
        expected = token_logprobs(
            load_model(tmp_path_with(tiny_dir, tmp_path), "float32"), [found.prompt_token_ids], [found.token_ids]
        )
    assert found.logprobs == pytest.approx(expected[0].tolist(), abs=2e-3)


def tmp_path_with(tiny_dir: Path, directory: Path) -> Path:
    """Make a directory of weights a whole model's."""
    (directory / "config.json").write_bytes((tiny_dir / "config.json").read_bytes())
    return directory


def test_a_name_never_gets_other_tensors(engine: TransformersEngine, tiny_dir: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        adapter(tiny_dir, tmp_path / f"v{number}", seed=number)
    first = engine.load("a@v1", tmp_path / "v1")
    assert engine.load("a@v1", tmp_path / "v1") == first
    with pytest.raises(VersionTakenError, match=first):
        engine.load("a@v1", tmp_path / "v2")


def test_broken_versions_leave_the_engine_as_it_was(engine: TransformersEngine, tiny_dir: Path, tmp_path: Path) -> None:
    before = engine.generate([request("one?", 7)])
    adapter(tiny_dir, tmp_path / "v1", seed=1)
    (tmp_path / "v1" / WEIGHTS_FILE).write_bytes(b"not safetensors")
    (tmp_path / "v2").mkdir()
    save_file({"strange": torch.zeros(1)}, tmp_path / "v2" / "model.safetensors")
    (tmp_path / "v3").mkdir()
    for name in ("v1", "v2", "v3"):
        with pytest.raises(ModelError, match=name):
            engine.load(f"a@{name}", tmp_path / name)
    assert list(engine.versions()) == ["a@v0"]
    assert engine.generate([request("one?", 7)]) == before


def test_cancelling_stops_and_a_later_call_works(engine: TransformersEngine) -> None:
    told = threading.Event()
    told.set()
    with pytest.raises(GenerationCancelledError):
        engine.generate(MIXED, told)
    told.clear()
    assert len(engine.generate(MIXED, told)) == len(MIXED)


def test_a_template_that_refuses_is_an_error_with_its_words(tiny_dir: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(tiny_dir, tmp_path / "refusing")
    (directory / "chat_template.jinja").write_text("{{ raise_exception('Conversation roles must alternate') }}")
    engine = TransformersEngine(directory, None, "float32", slots=16, threads=1)
    engine.load("a@v0", None)
    with pytest.raises(PromptError, match=r"refuses these messages \(user\): Conversation roles must alternate"):
        engine.generate([request("x")])


@pytest.mark.parametrize(
    "sampling", [HOT, Sampling(temperature=0, top_p=1, max_tokens=4), HOT.model_copy(update={"top_p": 0.5})]
)
@pytest.mark.parametrize("heard", [False, True])
def test_logits_that_are_no_numbers_answer_nothing_and_take_no_other_version_along(
    engine: TransformersEngine, tiny_dir: Path, tmp_path: Path, sampling: Sampling, heard: bool
) -> None:
    """Of weights that are finite, but whose products outgrow the dtype."""
    tensors = load_file(tiny_dir / "model.safetensors")
    tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], 3e38)
    save_file(tensors, tmp_path / "model.safetensors")
    engine.load("a@v1", tmp_path)
    audience = FakeAudience() if heard else None
    broken = replace(request("one?", 7, "a@v1", sampling), audience=audience, top_logprobs=2 if heard else None)
    with pytest.raises(NotFiniteError, match="expected numbers of a@v1, got logits that are NaN or infinite"):
        engine.generate([broken])
    assert audience is None or audience.text == ""
    results, _ = generate_each(engine, [[broken], [request("one?", 7)]])
    assert isinstance(results[0], Failure) and results[1] == engine.generate([request("one?", 7)])


def test_who_names_no_limit_gets_what_the_context_leaves(engine: TransformersEngine) -> None:
    long = Sampling(temperature=1.0, top_p=1.0, max_tokens=engine.context)
    (generation,) = engine.generate([replace(request("x" * 200, sampling=long), fills_context=True)])
    assert len(generation.prompt_token_ids) + len(generation.token_ids) <= engine.context == 256
    assert len(generation.token_ids) == 256 - len(generation.prompt_token_ids) or generation.finish_reason == "stop"


def test_too_long_prompts_are_refused_before_anything_runs(engine: TransformersEngine) -> None:
    with pytest.raises(PromptTooLongError, match="256"):
        engine.generate([request("x" * 250)])
    assert engine.prompt_tokens(request("x" * 250).messages) == len("Q: \nA:") + 250
    assert engine.generate([]) == []
