"""Specialists: what is learned, what a cached one stands for, and that it is a whole model of the same kind."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from services.trainer.model.model import StudentModel
from services.trainer.model.trained import TrainedAdapter
from services.trainer.offline.finetuning import (
    ROWS_AT_ONCE,
    Progress,
    TuningRow,
    add_gradient,
    finetune,
    micro_batches,
    rate,
    tokenized,
)
from services.trainer.offline.specializing import Specialist, describe, ensure, main
from shared.config.loading import to_toml, validate
from shared.config.settings import RunSettings
from shared.config.specializing import SpecializeSection
from shared.contracts.messages import ChatMessage
from shared.errors import ConfigError, ModelError
from shared.modeling.adapters import LoraSpec
from shared.modeling.chat import render
from shared.modeling.checksums import file_checksum
from shared.modeling.loading import load_model, load_tokenizer
from shared.modeling.logprobs import token_logprobs
from shared.problems.generated import generate
from shared.problems.specialising import Example

torch.set_num_threads(1)

CAPITALS = tuple(
    Example((ChatMessage(role="user", content=question),), f" {answer}")
    for question, answer in (("France?", "Paris"), ("Italy?", "Rome"), ("Spain?", "Madrid"), ("Peru?", "Lima"))
)


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two random blocks and a tokenizer of single bytes."""
    directory = tmp_path_factory.mktemp("base")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token=None)
    tokenizer.save_pretrained(directory)
    config = LlamaConfig(
        vocab_size=258,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(directory)
    return directory


@pytest.fixture
def settings(base_dir: Path) -> RunSettings:
    student = {"model": str(base_dir), "chat_template": "compact", "specialize": True}
    return validate(
        {
            "lora": {"rank": 4, "first_layer": 1},
            "specialize": {"learning_rate": 0.02, "batch_size": 4, "epochs": 30},
            "students": {"a": student | {"domain": "physics"}, "b": student | {"domain": "chemistry"}},
        }
    )


@pytest.fixture
def specialist(settings: RunSettings, base_dir: Path) -> Specialist:
    return Specialist("a", base_dir, settings.students["a"], settings, "problems", CAPITALS)


def _ignore(_line: str) -> None:
    pass


def _loss(directory: Path, examples: tuple[Example, ...]) -> float:
    """Mean negative log-likelihood (nats a token) of the completions."""
    model, tokenizer = load_model(directory), load_tokenizer(directory, "compact")
    rows = tokenized(examples, tokenizer, 512)
    with torch.no_grad():
        logprobs_BT = token_logprobs(model, [row.prompt for row in rows], [row.completion for row in rows])
    return -logprobs_BT.sum().item() / sum(len(row.completion) for row in rows)


def test_the_specialist_has_learned_its_examples(specialist: Specialist, base_dir: Path, tmp_path: Path) -> None:
    path, cached = ensure(specialist, tmp_path, _ignore)
    assert not cached
    assert _loss(path, CAPITALS) < 0.5 * _loss(base_dir, CAPITALS)


def test_it_is_a_whole_model_of_the_base_models_kind(specialist: Specialist, base_dir: Path, tmp_path: Path) -> None:
    path, _ = ensure(specialist, tmp_path, _ignore)
    assert {file.name for file in path.iterdir()} == {file.name for file in base_dir.iterdir()}
    base, merged = load_model(base_dir), load_model(path)
    assert merged.dtype == torch.bfloat16
    assert merged.config.to_dict() == base.config.to_dict() | {"_name_or_path": merged.config._name_or_path}
    message = CAPITALS[0].messages
    tokenizers = [load_tokenizer(directory, "compact") for directory in (base_dir, path)]
    assert render(tokenizers[0], message) == render(tokenizers[1], message)
    before, after = dict(base.named_parameters()), dict(merged.named_parameters())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert len(changed) == 7
    assert all(name.startswith("model.layers.1.") and name.endswith("_proj.weight") for name in changed)


def test_a_cached_one_is_taken_as_it_is(specialist: Specialist, tmp_path: Path) -> None:
    path, _ = ensure(specialist, tmp_path, _ignore)
    (path / "marker").touch()
    assert ensure(specialist, tmp_path, pytest.fail) == (path, True)
    assert (path / "marker").exists()
    assert {each.name for each in path.parent.iterdir()} == {path.name, f".{path.name}.lock"}


def test_what_a_killed_process_left_is_no_specialist(specialist: Specialist, tmp_path: Path) -> None:
    partial = tmp_path / "specialists" / f".{specialist.key}.partial"
    partial.mkdir(parents=True)
    (partial / "model.safetensors").write_bytes(b"half of it")
    path, cached = ensure(specialist, tmp_path, _ignore)
    assert not cached
    assert not partial.exists()
    assert load_model(path).num_parameters() > 0


def test_equal_specialists_have_equal_weights(specialist: Specialist, tmp_path: Path) -> None:
    paths = [ensure(specialist, tmp_path / name, _ignore)[0] for name in ("one", "two")]
    assert paths[0].name == paths[1].name
    assert file_checksum(*paths[0].glob("*.safetensors")) == file_checksum(*paths[1].glob("*.safetensors"))


@pytest.mark.parametrize(
    "change",
    [
        {"run": {"seed": 1}},
        {"lora": {"rank": 8}},
        {"lora": {"first_layer": 0}},
        {"specialize": {"learning_rate": 1e-3}},
        {"specialize": {"epochs": 2}},
    ],
)
def test_a_setting_that_changes_the_weights_changes_the_key(
    specialist: Specialist, change: dict[str, dict[str, object]]
) -> None:
    tree = specialist.settings.model_dump(mode="json", exclude_none=True)
    for section, values in change.items():
        tree[section] |= values
    assert replace(specialist, settings=validate(tree)).key != specialist.key


def test_problems_and_examples_change_the_key_and_unrelated_settings_do_not(specialist: Specialist) -> None:
    tree = specialist.settings.model_dump(mode="json", exclude_none=True)
    tree["run"] |= {"rounds": 7}
    tree["rollout"] |= {"samples": 3}
    # How the examples were come by: they are in the key themselves.
    tree["specialize"] |= {"source": "self", "sampling": {"keep": 1}}
    assert replace(specialist, settings=validate(tree)).key == specialist.key
    assert replace(specialist, problems_hash="others").key != specialist.key
    assert replace(specialist, examples=CAPITALS[:3]).key != specialist.key
    assert replace(specialist, student="b").key != specialist.key


def test_both_students_get_their_own_examples(settings: RunSettings, tmp_path: Path) -> None:
    a, b = (describe(settings, student, tmp_path) for student in ("a", "b"))
    questions = {problem.question: problem.domain for problem in generate(settings.run.seed).specialise}
    for each, own in ((a, "physics"), (b, "chemistry")):
        tutored = [example for example in each.examples if example.messages[0].role == "system"]
        asked = Counter(questions[example.messages[1].content.split("\n")[0]] for example in tutored)
        assert asked.most_common(1)[0][0] == own and len(asked) == 2
    assert a.problems_hash == b.problems_hash
    assert a.key != b.key


def test_other_problems_bring_no_examples(settings: RunSettings, tmp_path: Path) -> None:
    tree = settings.model_dump(mode="json", exclude_none=True)
    tree["problems"] |= {"source": "data/sciknow", "format": "mcq"}
    with pytest.raises(ConfigError, match=r"expected students\.a\.examples.*'data/sciknow'"):
        describe(validate(tree), "a", tmp_path)


def test_a_file_of_its_own_right_answers_takes_the_place_of_what_the_settings_name(
    settings: RunSettings, tmp_path: Path
) -> None:
    rows = [{"messages": [{"role": "user", "content": "France?"}], "completion": "Paris"}]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = describe(settings, "a", tmp_path, file)
    assert [(each.messages[0].content, each.completion) for each in found.examples] == [("France?", "Paris")]
    assert found.problems_hash == ""


def test_a_kind_that_is_to_be_unknown_has_other_examples(settings: RunSettings, tmp_path: Path) -> None:
    tree = settings.model_dump(mode="json", exclude_none=True)
    tree["students"]["a"]["unknown_kinds"] = 2
    a, b = (describe(validate(tree), student, tmp_path) for student in ("a", "b"))
    assert a.key != describe(settings, "a", tmp_path).key
    assert b.key == describe(settings, "b", tmp_path).key


def test_a_domain_that_is_not_generated_is_refused(settings: RunSettings, tmp_path: Path) -> None:
    tree = settings.model_dump(mode="json", exclude_none=True)
    tree["students"]["a"]["domain"] = "material"
    with pytest.raises(ConfigError, match=r"generated \(physics, chemistry, biology\), got material, chemistry"):
        describe(validate(tree), "a", tmp_path)


def test_the_last_line_of_the_command_is_its_result(
    settings: RunSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = settings.model_dump(mode="json", exclude_none=True)
    tree["specialize"] |= {"epochs": 1, "batch_size": 164}
    (tmp_path / "config.toml").write_text(to_toml(validate(tree)))
    arguments = ["--student", "a", "--run-dir", str(tmp_path), "--cache-dir", str(tmp_path / "cache")]
    results = []
    for _ in range(2):
        assert main(arguments) == 0
        lines = capsys.readouterr().out.splitlines()
        results.append(json.loads(lines[-1]))
    assert [each["cached"] for each in results] == [False, True]
    assert results[0]["path"] == results[1]["path"]
    assert Path(results[0]["path"]).parent == tmp_path / "cache" / "specialists"


@pytest.mark.usefixtures("forking")
def test_a_run_without_config_ends_with_one_clear_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "services.trainer.offline.specializing", "--student", "a"]
    command += ["--run-dir", str(tmp_path), "--cache-dir", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == ConfigError.exit_code
    assert ended.stderr.splitlines()[-1].startswith("error: expected a TOML file at")


def test_rows_end_with_the_eos_token_and_prompts_have_none(base_dir: Path) -> None:
    tokenizer = load_tokenizer(base_dir, "compact")
    for row, example in zip(tokenized(CAPITALS, tokenizer, 512), CAPITALS, strict=True):
        assert tokenizer.decode(row.prompt + row.completion) == (
            f"Q: {example.messages[0].content}\nA:{example.completion}</s>"
        )
        assert row.completion[-1] == tokenizer.eos_token_id
        assert tokenizer.eos_token_id not in row.prompt


def test_examples_beyond_the_models_context_are_refused(base_dir: Path) -> None:
    with pytest.raises(ModelError, match=r"context of 20 tokens or more .* got one of 12"):
        tokenized(CAPITALS, load_tokenizer(base_dir, "compact"), 12)


def test_the_loss_is_that_of_the_completions_alone(base_dir: Path) -> None:
    base = load_model(base_dir, "float32")
    rows = tokenized(CAPITALS, load_tokenizer(base_dir, "compact"), 512)
    expected = -token_logprobs(base, [row.prompt for row in rows], [row.completion for row in rows]).sum()
    model = StudentModel(TrainedAdapter(base, LoraSpec(4, 2.0), seed=0))
    assert add_gradient(model, rows, tokens=1) == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("rows_at_once", [1, 3, 1000])
def test_in_chunks_the_gradient_is_that_of_the_whole(base_dir: Path, rows_at_once: int) -> None:
    rows = tokenized(CAPITALS, load_tokenizer(base_dir, "compact"), 512)
    tokens = sum(len(row.completion) for row in rows)
    found, by_hand = (
        StudentModel(TrainedAdapter(load_model(base_dir, "float32"), LoraSpec(4, 2.0), seed=0)) for _ in range(2)
    )
    value = add_gradient(found, rows, tokens, chunk_elements=rows_at_once * found.vocabulary)
    prompts, completions = [row.prompt for row in rows], [row.completion for row in rows]
    expected = -token_logprobs(by_hand.network, prompts, completions).sum() / tokens
    expected.backward()
    assert value == pytest.approx(expected.item(), rel=1e-4)
    for name, each in by_hand.named_parameters.items():
        gradient = found.named_parameters[name].grad
        assert each.grad is not None and gradient is not None
        torch.testing.assert_close(gradient, each.grad, rtol=1e-3, atol=1e-6)
    # B is 0 at the start, so A has no gradient yet.
    assert any(bool(each.grad.any()) for each in found.parameters if each.grad is not None)


def test_every_row_is_used_once_an_epoch_and_the_last_batch_may_be_short(base_dir: Path) -> None:
    model = StudentModel(TrainedAdapter(load_model(base_dir, "float32"), LoraSpec(4, 2.0), seed=0))
    rows = tokenized(CAPITALS, load_tokenizer(base_dir, "compact"), 512)
    seen: list[Progress] = []
    finetune(model, rows, SpecializeSection(batch_size=3, epochs=2), 0, seen.append, limit_tokens=64)
    assert [(each.update, each.updates) for each in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_loss_that_is_not_finite_stops_it(base_dir: Path) -> None:
    base = load_model(base_dir, "float32")
    model = StudentModel(TrainedAdapter(base, LoraSpec(4, 2.0), seed=0))
    with torch.no_grad():
        base.get_parameter("model.norm.weight").fill_(float("nan"))
    rows = tokenized(CAPITALS, load_tokenizer(base_dir, "compact"), 512)
    with pytest.raises(ModelError, match=r"finite loss .* update 1: lower specialize\.learning_rate"):
        finetune(model, rows, SpecializeSection(), 0, lambda _: None, limit_tokens=64)


def test_the_rate_warms_up_then_falls_to_nothing() -> None:
    rates = [rate(done, 40, 0.1) for done in range(41)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[22] == pytest.approx(0.5)
    assert rates[40] == pytest.approx(0.0)
    assert rate(0, 1, 0.1) == 1.0


@given(st.lists(st.integers(1, 60), min_size=1, max_size=20), st.integers(1, 300))
def test_micro_batches_keep_every_row_and_sort_by_length(lengths: list[int], limit_tokens: int) -> None:
    rows = [TuningRow((1,) * length, (index,)) for index, length in enumerate(lengths)]
    parts = micro_batches(rows, limit_tokens)
    flat = [row for part in parts for row in part]
    assert sorted(flat, key=lambda row: row.completion) == rows
    assert [row.tokens for row in flat] == sorted(row.tokens for row in rows)
    assert max(map(len, parts)) <= ROWS_AT_ONCE
    assert all(len(part) == 1 or len(part) * part[-1].tokens <= limit_tokens for part in parts)
    if limit_tokens >= ROWS_AT_ONCE * (max(lengths) + 1):
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
