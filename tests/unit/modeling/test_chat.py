import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase

from shared.contracts.messages import ChatMessage
from shared.errors import ModelError, PromptError
from shared.modeling.chat import (
    completion_ids,
    neutralise,
    render,
    rendered,
    rendering_of,
    require_told_in_text,
    special_ids,
)
from shared.modeling.loading import load_tokenizer
from tests.unit.modeling.tiny_model import write_tiny_model

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def compact(tiny_dir: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(tiny_dir, "compact")


@pytest.fixture(scope="module")
def own(tiny_dir: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(tiny_dir, None)


def turns(*contents: tuple[str, str]) -> list[ChatMessage]:
    return [ChatMessage.model_validate({"role": role, "content": content}) for role, content in contents]


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        (turns(("user", "2 + 2?")), "Q: 2 + 2?\nA:"),
        (turns(("system", "Tutor"), ("user", "2?\nPeer: 3")), "Q: 2?\nPeer: 3\nTutor:"),
        (turns(("user", "1?"), ("assistant", "1"), ("user", "2?")), "Q: 1?\nA: 1\nQ: 2?\nA:"),
        (turns(("system", "Answer with a letter."), ("user", "2?")), "Answer with a letter.\nQ: 2?\nA:"),
    ],
)
def test_compact_template(compact: PreTrainedTokenizerBase, messages: list[ChatMessage], text: str) -> None:
    assert compact.decode(render(compact, messages)) == text


def test_mappings_and_messages_render_alike(own: PreTrainedTokenizerBase) -> None:
    assert render(own, turns(("user", "hi"))) == render(own, [{"role": "user", "content": "hi"}])


def test_the_models_own_template_puts_its_special_tokens(own: PreTrainedTokenizerBase) -> None:
    ids = render(own, turns(("system", "s"), ("user", "u")))
    assert [index for index in ids if index in special_ids(own)] == [256, 257, 256, 257, 256]


@given(st.lists(st.sampled_from(["<|im_end|>", "<|im_start|>", "<", "<|", "|>", "im_end", "im_start", " ", "x"])))
def test_content_never_becomes_a_special_token(own: PreTrainedTokenizerBase, parts: list[str]) -> None:
    ids = render(own, turns(("system", "".join(parts)), ("user", "".join(parts))))
    assert sum(index in special_ids(own) for index in ids) == 5


def test_neutralising_leaves_other_text_alone(own: PreTrainedTokenizerBase) -> None:
    assert neutralise(own, "a <b> |c| <|d|>") == "a <b> |c| <|d|>"
    assert neutralise(own, "a<|im_end|>b") == "a< |im_end|>b"


def test_a_completion_ends_with_eos_and_has_a_space_only_after_a_bare_prompt(
    compact: PreTrainedTokenizerBase, own: PreTrainedTokenizerBase
) -> None:
    assert compact.decode(completion_ids(compact, "x = 4")) == " x = 4<|im_end|>"
    assert own.decode(completion_ids(own, " x = 4<|im_end|> ")) == "x = 4< |im_end|><|im_end|>"


_TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}<|im_end|>{{ m.content }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "begins"),
    [
        # As Phi-4 and Granite: the role is a token, and the answer follows at once.
        (_TURNS + "{% if add_generation_prompt %}<|im_start|>assistant<|im_end|>{% endif %}", ""),
        # As Mistral's first ones.
        ("{% for m in messages %}{{ '[INST] x [/INST]' if m.role == 'user' else ' ' + m.content }}{% endfor %}", " "),
        # As gpt-oss: an answer has a channel, which the model is to name.
        (
            "{% for m in messages %}{{ 'user:x' if m.role == 'user' else 'assistant<|im_end|>' + m.content }}"
            "{% endfor %}{% if add_generation_prompt %}assistant{% endif %}",
            "<|im_end|>",
        ),
        # As DeepSeek R1: the prompt opens a block that an answer of the past has not.
        (_TURNS + "{% if add_generation_prompt %}<|im_start|>assistant<|im_end|><think>\n{% endif %}", ""),
        # One that takes no answer of the past, behind a token and behind a word.
        ("{{ messages[1].content.x.y if messages | length > 1 }}<|im_start|>", ""),
        ("{{ messages[1].content.x.y if messages | length > 1 }}A:", " "),
    ],
)
def test_a_completion_begins_as_the_template_writes_an_answer(tiny_dir: Path, template: str, begins: str) -> None:
    tokenizer = load_tokenizer(tiny_dir, None)
    tokenizer.chat_template = template
    assert tokenizer.decode(completion_ids(tokenizer, "x = 4")) == f"{begins}x = 4<|im_end|>"


@pytest.mark.parametrize("between", ["<|im_start|>final<|im_end|>", "\n</think>\n\n"])
def test_answers_behind_words_of_the_template_are_no_texts_to_learn_from(tiny_dir: Path, between: str) -> None:
    """As gpt-oss, whose channels would be left as words, and as models that begin within their thoughts."""
    tokenizer = load_tokenizer(tiny_dir, None)
    require_told_in_text(tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}"
        f"{{{{ 'user:x' if m.role == 'user' else {'assistant' + between!r} + m.content }}}}"
        "{% endfor %}{% if add_generation_prompt %}assistant{% endif %}"
    )
    with pytest.raises(ModelError, match=re.escape(f"of its own, {between!r}: name a file of examples")):
        require_told_in_text(tokenizer)


def test_a_template_of_ours_begins_with_the_token_that_the_model_wants_before_every_text(tmp_path: Path) -> None:
    """As Llama 3's and Gemma's tokenizers, which put it there by themselves; others name one and do not."""
    directory = write_tiny_model(tmp_path)
    plain = load_tokenizer(directory, "compact")
    raw = Tokenizer.from_file(str(directory / "tokenizer.json"))
    raw.post_processor = TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", 256)])
    raw.save(str(directory / "tokenizer.json"))
    marked, asked = load_tokenizer(directory, "compact"), turns(("system", "Tutor"), ("user", "2 + 2?"))
    assert plain.bos_token_id == marked.bos_token_id == 256
    assert render(marked, asked) == [256, *render(plain, asked)]
    assert completion_ids(marked, "4") == completion_ids(plain, "4")


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ raise_exception('Conversation roles must alternate') }}", "Conversation roles must alternate"),
        ("{{ messages[0].tools.first }}", "has no attribute 'tools'"),
        ("{{ messages[0].content + 1 }}", "can only concatenate str"),
        ("{{ messages[5].content }}", "list object has no element 5"),
        ("{{ 1 // 0 }}", "by zero"),
        ("{% if messages %}", "Unexpected end of template"),
        ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "recursion depth"),
    ],
)
def test_a_template_that_refuses_is_told_with_its_words_and_the_roles(tiny_dir: Path, template: str, says: str) -> None:
    refusing = load_tokenizer(tiny_dir, None)
    refusing.chat_template = template
    with pytest.raises(PromptError) as refused:
        render(refusing, turns(("system", "B"), ("user", "u")))
    assert str(refused.value).startswith("the model's chat template refuses these messages (system, user): ")
    assert says in str(refused.value)


def test_an_unknown_template_names_the_known_ones(tiny_dir: Path) -> None:
    with pytest.raises(ModelError, match="compact"):
        load_tokenizer(tiny_dir, "fancy")


def test_a_template_that_knows_thinking_has_it_off(tiny_dir: Path) -> None:
    """As Qwen3's: told not to think, it opens the answer with an empty block, and else leaves that to the model."""
    thinking = load_tokenizer(tiny_dir, None)
    thinking.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "<|im_start|>assistant\n"
        "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    )
    assert thinking.decode(render(thinking, turns(("user", "u")))).endswith("<think>\n\n</think>\n\n")
    assert completion_ids(thinking, "x")[0] == thinking("x", add_special_tokens=False)["input_ids"][0]


def test_a_rendering_is_that_of_template_and_token_ids(tiny_dir: Path, own: PreTrainedTokenizerBase) -> None:
    assert rendering_of(own) == rendering_of(load_tokenizer(tiny_dir, None))
    other_template = load_tokenizer(tiny_dir, "compact")
    other_specials = load_tokenizer(tiny_dir, None)
    other_specials.add_special_tokens({"additional_special_tokens": ["<think>"]})
    assert len({rendering_of(each) for each in (own, other_template, other_specials)}) == 3


def test_a_special_name_without_a_token_is_none_that_a_prompt_could_hold(tiny_dir: Path) -> None:
    """Some settings name "" as what a text begins with."""
    nameless = load_tokenizer(tiny_dir, None)
    nameless.bos_token = ""
    assert None in nameless.all_special_ids
    assert special_ids(nameless) == {256, 257}
    assert len(rendering_of(nameless)) == 64


def test_a_template_that_writes_the_date_asks_the_same_every_day(tiny_dir: Path, tmp_path: Path) -> None:
    """Or a step that is made again after midnight would be another one."""
    shutil.copytree(tiny_dir, tmp_path / "dated")
    template = """{% if strftime_now is defined %}{% set day = strftime_now("%d %b %Y") %}{% endif %}"""
    template += """{{ day }} {{ strftime_now( '%B %y' ) }} {{ messages[0].content }}"""
    (tmp_path / "dated" / "chat_template.jinja").write_text(template)
    tokenizer = load_tokenizer(tmp_path / "dated", None)
    assert rendered(tokenizer, [{"role": "user", "content": "Hi"}]) == "26 Jul 2024 July 24 Hi"
