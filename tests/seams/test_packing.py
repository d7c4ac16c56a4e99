"""Rows that share a forward pass get the logits that the model gives them alone, of the student and of its teacher,
whatever its architecture: in prefix trees, side by side, or each in a pass of its own. What cannot be trained so is
refused in words. docs/engines.md says the same of every architecture."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="rows are computed by a model: make setup installs torch")

import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from services.trainer.model.model import StudentModel
from services.trainer.model.packing import PADDED, TREES
from services.trainer.model.teacher import EmaTeacher
from services.trainer.model.trained import TrainedAdapter, TrainedModel
from services.trainer.step.trees import Pack, Row, micro_batches, pack_rows, places_of
from shared.errors import ModelError
from shared.modeling.adapters import LoraSpec
from tests.fakes.architectures import VOCABULARY, tiny_config, tiny_config_of_parts, tiny_model

WINDOW = 24
LIMIT_TOKENS = 200

UNTRIED = {
    **dict.fromkeys(("blt", "dots3_note", "dots3_note_text", "emu3", "fuyu", "gemma3", "gemma4"), "of many parts"),
    **dict.fromkeys(("gemma4_unified", "git", "got_ocr2", "llama4", "longcat_flash", "mllama", "xlm"), "of many parts"),
    **dict.fromkeys(("moss_transcribe_diarize", "phi4_multimodal", "qwen3_5", "qwen3_5_moe"), "of many parts"),
    **dict.fromkeys(("gemma4_assistant", "gemma4_unified_assistant", "musicgen", "musicgen_melody"), "no model alone"),
    **dict.fromkeys(("cohere_compass_text", "gemma3n", "gemma3n_text", "qwen4_exp", "qwen4_exp_text"), "no default"),
    **dict.fromkeys(("dbrx", "reformer", "zamba", "zamba2", "zaya"), "no default"),
}
"""Types whose default configuration makes no tiny model by the same rules as the others."""
TRIED = sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(UNTRIED))


@cache
def listed(share: str) -> set[str]:
    """The model types of a row of the table in docs/engines.md."""
    page = Path(__file__).parents[2] / "docs" / "engines.md"
    [row] = re.findall(rf"^\| {share} \| (.*) \|$", page.read_text(), re.MULTILINE)
    return set(re.findall(r"`([^`]+)`", row))


def sequence(seed: int, length: int) -> tuple[int, ...]:
    draw = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(3, VOCABULARY, (length,), generator=draw).tolist())


def group(number: int, prompt: int, lengths: tuple[int, ...]) -> Iterator[Row]:
    """Rows of one prompt; every other response begins like the first one."""
    first = sequence(number, 2)
    for sample, length in enumerate(lengths):
        seed = 100 * number + sample
        response = (first if sample % 2 == 0 else ()) + sequence(seed, length)
        asked = sequence(number + 50, prompt)
        yield Row(number, asked, asked + sequence(number + 60, 3), response, (-1.0,) * len(response), True)


def rows() -> list[Row]:
    """A group that fits into a window as a tree, and one of rows that are longer than it."""
    return [*group(1, 5, (3, 3, 2)), *group(2, 14, (16, 13, 12))]


def alone(network: Any, prompt: tuple[int, ...], response: tuple[int, ...]) -> Any:
    """Logits [T, V] that predict the response, of a pass of the whole model that knows nothing of the trainer."""
    with torch.no_grad():
        return network(input_ids=torch.tensor([prompt + response]), use_cache=False).logits[0, len(prompt) - 1 : -1]


def shared(made_by: Any, model: StudentModel, packs: list[Pack], side: str) -> list[Any]:
    """Logits [T, V] of each row of the packs, as a step has them."""
    places = places_of(packs, model.device)
    found = getattr(places, side)
    logits = made_by.output_layer(1.0).logits(made_by.hidden([getattr(pack, side) for pack in packs], found))
    index = {place: at for at, place in enumerate(found)}
    return [
        logits[[index[tree, node] for node in nodes]]
        for tree, pack in enumerate(packs)
        for nodes in getattr(pack, f"{side}_nodes")
    ]


def right(model: StudentModel, given: list[Row]) -> None:
    """Student and teacher have, in the passes of a step, the logits of each row alone."""
    teacher = EmaTeacher(model, rate=0.05)
    largest = model.packing.tree_tokens
    packs = pack_rows(given, min(LIMIT_TOKENS, largest))
    for part in micro_batches(packs, LIMIT_TOKENS, largest):
        of_student, of_teacher = shared(model, model, part, "student"), shared(teacher, model, part, "teacher")
        for at, row in enumerate(row for pack in part for row in pack.rows):
            for prompt, found in ((row.prompt, of_student[at]), (row.teacher_prompt, of_teacher[at])):
                expected = alone(model.network, prompt, row.response)
                torch.testing.assert_close(found.detach(), expected, atol=2e-4, rtol=2e-4)


@cache
def outcome(kind: str) -> StudentModel | str:
    """The student's model, or why it was refused."""
    network = tiny_model(tiny_config(kind, WINDOW))
    try:
        return StudentModel(TrainedModel(network, Path()))
    except ModelError as refused:
        return str(refused)


@pytest.mark.parametrize("kind", TRIED)
def test_shared_passes_give_each_row_the_logits_it_has_alone_or_the_model_is_refused(kind: str) -> None:
    model = outcome(kind)
    assert (kind in listed("refused")) == isinstance(model, str)
    if isinstance(model, str):
        assert model.startswith("training ")
        assert "choose a" in model
        return
    right(model, rows())


@pytest.mark.parametrize("kind", sorted(TREES))
def test_an_architecture_that_is_listed_makes_trees_no_longer_than_its_windows(kind: str) -> None:
    model = outcome(kind)
    assert isinstance(model, StudentModel)
    packs = pack_rows(rows(), model.packing.tree_tokens)
    assert not packs[0].student.is_chain
    windows = model.packing.tree_tokens == WINDOW
    assert windows == any(getattr(model.config, name, None) == WINDOW for name in ("sliding_window",))
    assert all(pack.student.is_chain for pack in packs[1:]) == windows


@pytest.mark.parametrize("kind", sorted(PADDED))
def test_an_architecture_without_trees_computes_rows_side_by_side(kind: str) -> None:
    model = outcome(kind)
    assert isinstance(model, StudentModel)
    assert (model.packing.tree_tokens, model.packing.together_tokens > LIMIT_TOKENS) == (0, True)
    assert all(len(pack.rows) == 1 for pack in pack_rows(rows(), 0))


@pytest.mark.parametrize("kind", ["gemma3", "gemma4", "llama4"])
def test_a_model_whose_text_is_a_part_of_it_is_refused(kind: str) -> None:
    network = tiny_model(tiny_config_of_parts(kind, WINDOW))
    with pytest.raises(ModelError, match="expects a text model with a body"):
        StudentModel(TrainedModel(network, Path()))


@pytest.mark.parametrize("kind", ["falcon_h1", "gpt2", "nemotron_h", "phimoe"])
def test_a_model_that_an_adapter_does_not_go_with_is_refused(kind: str) -> None:
    with pytest.raises(ModelError):
        StudentModel(TrainedAdapter(tiny_model(tiny_config(kind, WINDOW)), LoraSpec(4, 2.0), seed=1))


def test_a_text_model_out_of_a_configuration_of_parts_is_what_it_is_alone() -> None:
    model = StudentModel(TrainedModel(tiny_model(tiny_config_of_parts("qwen3_5", WINDOW)), Path()))
    of_text = outcome("qwen3_5_text")
    assert isinstance(of_text, StudentModel)
    assert model.packing == of_text.packing


@pytest.mark.parametrize("settings", [{"alibi": True}, {"multi_query": False}, {"parallel_attn": False}])
def test_positions_that_are_counted_along_the_row_come_out_right_side_by_side(settings: dict[str, object]) -> None:
    config = tiny_config("falcon", WINDOW)
    for name, value in settings.items():
        setattr(config, name, value)
    right(StudentModel(TrainedModel(tiny_model(config), Path())), rows())


def test_a_long_row_does_not_turn_the_angles_of_a_short_one_beside_it() -> None:
    """With `longrope` all tokens of a pass get other rotary angles once one of its rows is long enough."""
    config = tiny_config("phi3", 128)
    factors = {"short_factor": [1.0] * 4, "long_factor": [3.0] * 4}
    config.rope_parameters = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 4.0, **factors}
    config.original_max_position_embeddings = config.rope_parameters["original_max_position_embeddings"] = 40
    model = StudentModel(TrainedModel(tiny_model(config), Path()))
    assert (model.packing.tree_tokens, model.packing.together_tokens) == (40, 40)
    right(model, [*group(1, 5, (3, 3, 2)), *group(2, 20, (30, 12)), *group(3, 18, (18,))])


def test_the_page_about_engines_lists_what_the_trainer_knows() -> None:
    assert listed("a tree") == TREES
    assert listed("a pass") == PADDED
    assert listed("refused") <= set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def test_every_architecture_of_transformers_is_tried_or_named() -> None:
    assert set(UNTRIED) <= set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert set(TRIED) >= TREES | PADDED
    assert not TREES & PADDED
