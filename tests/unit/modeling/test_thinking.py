"""Which chat templates have their model think, in the ways in which families of models write them."""

from pathlib import Path

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from shared.errors import ModelError
from shared.modeling.chat import completion_ids, encode, opened_block
from shared.modeling.loading import load_tokenizer
from shared.modeling.thinking import AnswerText, require_thoughts_in_text, thinking, thinking_note
from tests.fakes.qwen3 import TEMPLATE as QWEN3
from tests.unit.modeling.tiny_model import write_tiny_model

pytestmark = pytest.mark.model

TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
BEGIN = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
WITHOUT_EARLIER_THOUGHTS = TURNS.replace("m.content", "m.content.split('</think>')[-1]")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    return load_tokenizer(write_tiny_model(tmp_path_factory.mktemp("model")), None)


def how(tokenizer: PreTrainedTokenizerBase, template: str) -> str | None:
    tokenizer.chat_template = template
    return thinking(tokenizer)


@pytest.mark.parametrize(
    "template",
    [
        TURNS + BEGIN,
        QWEN3,
        TURNS + BEGIN + "{% if thinking %}<think>{% else %}</think>{% endif %}",
        TURNS + BEGIN + "{% if not enable_thinking %}<think></think>{% endif %}",
        "{% if thinking %}Write your thoughts between <think> and </think>.{% endif %}" + TURNS + BEGIN,
        "{% if not enable_thinking %}/no_think {% endif %}" + WITHOUT_EARLIER_THOUGHTS + BEGIN,
        "Reason in <reasoning>, then answer in <answer>." + TURNS + BEGIN,
    ],
    ids=[
        "none",
        "an empty block",
        "closed by name",
        "an empty block at once",
        "a switch",
        "an order",
        "a visible part",
    ],
)
def test_a_template_that_does_not_think_or_was_told_not_to(tokenizer: PreTrainedTokenizerBase, template: str) -> None:
    assert how(tokenizer, template) is None
    assert opened_block(tokenizer) == ""


@pytest.mark.parametrize(
    "block", ["<think>\n", "[THINK]", "<|inner_prefix|>", "<seed:think>", "<｜Assistant｜><think>"]
)
def test_a_prompt_that_ends_inside_a_block_of_reasoning(tokenizer: PreTrainedTokenizerBase, block: str) -> None:
    assert how(tokenizer, TURNS + BEGIN + block) == "begins an answer inside a block of reasoning"
    # An empty one before it does not close this one.
    assert how(tokenizer, TURNS + BEGIN + "<think></think>" + block) == "begins an answer inside a block of reasoning"
    assert opened_block(tokenizer) == block.removeprefix("<｜Assistant｜>").rstrip()  # as Jinja takes it


@pytest.mark.parametrize(
    "template",
    [
        WITHOUT_EARLIER_THOUGHTS + BEGIN,
        TURNS + "{% if false %}<|channel|>analysis<|message|>{% endif %}" + BEGIN,
        "Think first, between <think> and </think>." + TURNS + BEGIN,
    ],
    ids=["takes out earlier thoughts", "channels", "its own system message"],
)
def test_a_template_that_knows_a_block_and_cannot_leave_it_out(
    tokenizer: PreTrainedTokenizerBase, template: str
) -> None:
    assert how(tokenizer, template) == "knows a block of reasoning, and no way to leave it out"


def test_a_template_that_refuses_a_question_is_not_judged(tokenizer: PreTrainedTokenizerBase) -> None:
    assert how(tokenizer, "{{ raise_exception('no') }}<think>") is None


def test_the_note_names_the_student_the_reason_and_what_to_do(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = TURNS + BEGIN + "<think>\n"
    said = thinking_note("b", tokenizer) or ""
    assert said.startswith("student b thinks before it answers: its template begins an answer inside a block")
    assert "arXiv 2607.05184" in said
    assert said.endswith("as students.b.chat_template")
    tokenizer.chat_template = TURNS + BEGIN
    assert thinking_note("b", tokenizer) is None


def test_a_model_whose_template_is_ours_does_not_think(tmp_path: Path) -> None:
    directory = write_tiny_model(tmp_path)
    (directory / "chat_template.jinja").write_text(TURNS + BEGIN + "<think>\n")
    assert thinking(load_tokenizer(directory, None)) is not None
    assert thinking(load_tokenizer(directory, "compact")) is None


SPECIAL_MARKS = [
    ("[THINK]", "[/THINK]"),
    ("<think>", "</think>"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|think|>", "<|content|>"),
    ("<reasoning>", "</reasoning>"),
    ("<|channel>", "<channel|>"),
    ("<|channel|>", "<|message|>"),
]


def with_special(directory: Path, *names: str) -> PreTrainedTokenizerBase:
    tokenizer = load_tokenizer(write_tiny_model(directory), None)
    tokenizer.add_tokens([AddedToken(name, special=True) for name in names])
    return tokenizer


@pytest.mark.parametrize(("opening", "closing"), SPECIAL_MARKS)
def test_marks_of_reasoning_stay_in_a_text_where_they_are_special_tokens(
    tmp_path: Path, opening: str, closing: str
) -> None:
    tokenizer = with_special(tmp_path, opening, closing, "<|tool|>")
    said = f"{opening} It is B.{closing} Grüße<|tool|>, 東京.<|im_end|>"
    text = AnswerText(tokenizer)
    assert text.of(encode(tokenizer, said)) == f"{opening} It is B.{closing} Grüße, 東京."
    assert {tokenizer.convert_ids_to_tokens(mark) for mark in text.marks} == {opening, closing}


def test_without_such_marks_a_text_is_what_the_tokenizer_makes_of_it(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = encode(tokenizer, "<|im_start|> analysis <think> B </think> don 't .<|im_end|>")
    assert AnswerText(tokenizer).marks == frozenset()
    assert AnswerText(tokenizer).of(ids) == tokenizer.decode(ids, skip_special_tokens=True)


def test_answers_with_special_marks_are_not_kept_as_texts(tmp_path: Path) -> None:
    tokenizer = with_special(tmp_path, "[THINK]", "[/THINK]")
    tokenizer.chat_template = TURNS + BEGIN
    require_thoughts_in_text(tokenizer)
    tokenizer.chat_template = TURNS + BEGIN + "[THINK]"
    with pytest.raises(ModelError, match=r"thinks between special tokens \(\[/THINK\], \[THINK\]\)"):
        require_thoughts_in_text(tokenizer)


def test_an_example_does_not_write_twice_what_the_prompt_has_opened(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = TURNS + BEGIN + "{{ '<think>\\n' }}"
    plain = completion_ids(tokenizer, "It is 4.</think>4")
    assert completion_ids(tokenizer, "<think>\nIt is 4.</think>4") == plain
    assert completion_ids(tokenizer, "<think>It is 4.</think>4") == plain
    tokenizer.chat_template = TURNS + BEGIN
    assert completion_ids(tokenizer, "<think>It is 4.</think>4") != plain
