"""Text as tokens come, for each kind of tokenizer: what was told is the text in the end, whatever is drawn."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from services.student.engines.port import GenerationRequest, TokenChoice, TokenDetail
from services.student.engines.transcript import Transcript
from shared.contracts.messages import ChatMessage, Sampling
from shared.modeling.thinking import AnswerText
from tests.fakes.audience import FakeAudience

pytestmark = pytest.mark.model

SPECIALS = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPACE = "\u2581"
WORDS = [
    SPACE,
    SPACE * 2,
    "a",
    "b",
    f"{SPACE}a",
    "ab",
    f"{SPACE}ab",
    ".",
    "\n",
    "é",
    "中",
    "\ufffd",
    "STOP",
    f"{SPACE}ST",
]
NO_TOKEN = len(SPECIALS) + len(BYTES) + len(WORDS) + 7
"""An id that only the output layer has."""


def byte_fallback(*, strip: bool) -> PreTrainedTokenizerBase:
    """As Llama 2's, or as Gemma's where nothing is stripped."""
    vocabulary = {name: index for index, name in enumerate([*SPECIALS, *BYTES, *WORDS])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    raw.normalizer = normalizers.Replace(Regex(" "), SPACE)
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    raw.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strip else steps)
    return wrapped(raw)


def byte_level() -> PreTrainedTokenizerBase:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]))
    raw.decoder = decoders.ByteLevel()
    return wrapped(raw)


def metaspace() -> PreTrainedTokenizerBase:
    raw = Tokenizer(models.Unigram([(word, -1.0) for word in [*SPECIALS, *WORDS]], unk_id=0))
    raw.decoder = decoders.Metaspace()
    return wrapped(raw)


def wrapped(raw: Tokenizer) -> PreTrainedTokenizerBase:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.add_tokens([AddedToken("<|reserved|>", special=True), AddedToken("<tool>", special=False)])
    tokenizer.add_tokens([AddedToken("[THINK]", special=True), AddedToken("[/THINK]", special=True)])
    return tokenizer


TOKENIZERS = {
    "llama": byte_fallback(strip=True),
    "gemma": byte_fallback(strip=False),
    "byte-level": byte_level(),
    "metaspace": metaspace(),
}
BYTE_IDS = st.sampled_from([len(SPECIALS) + byte for byte in (*"中é".encode(), 0x20, 0x61, 0x80, 0xF0, 0xFF)])
IDS = st.lists(st.integers(0, NO_TOKEN) | BYTE_IDS, max_size=24)
STOPS = st.lists(st.sampled_from(["STOP", "中", "a", " ab", "\n", "é中", "\ufffd", "b."]), max_size=2, unique=True)


def started(name: str, stops: list[str]) -> tuple[Transcript, FakeAudience]:
    audience = FakeAudience()
    sampling, asked = Sampling(temperature=1, top_p=1, max_tokens=99), (ChatMessage(role="user", content="x"),)
    request = GenerationRequest("a@v0", asked, sampling, 0, tuple(stops), top_logprobs=0, audience=audience)
    return Transcript(AnswerText(TOKENIZERS[name]), request), audience


def detail(place: int) -> TokenDetail:
    return TokenDetail(TokenChoice(b"", -float(place)), ())


def text_of(name: str, ids: list[int], stops: list[str]) -> str:
    text = AnswerText(TOKENIZERS[name]).of(ids)
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=None)]


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=300)
@given(ids=IDS, stops=STOPS)
@example(ids=[len(SPECIALS) + byte for byte in (0xE4, 0xB8, 0xAD, 0xFF)], stops=[])
@example(ids=[len(SPECIALS) + byte for byte in (0xE4, 0xB8, 0xAD, 0xFF)], stops=["中"])
@example(ids=[len(SPECIALS) + 0xE4, 1, len(SPECIALS) + 0xB8, len(SPECIALS) + 0xAD, 261], stops=[])
@example(ids=[1, 259, 259, 263, 1, 263], stops=[])
def test_what_was_told_is_what_all_tokens_are_in_the_end(name: str, ids: list[int], stops: list[str]) -> None:
    transcript, audience = started(name, stops)
    drawn: list[int] = []
    for token in ids:
        drawn.append(token)
        if transcript.add(token, detail(len(drawn))):
            break
        transcript.tell()
    final, details = transcript.end()
    assert audience.text == final == text_of(name, drawn, stops)
    assert [told for piece in audience.pieces for told in piece.details] == list(details)
    assert list(details) == [detail(place) for place in range(1, len(details) + 1)]


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=200)
@given(ids=IDS, stops=STOPS)
def test_so_it_is_where_somebody_else_looks_for_the_stop_and_is_late(
    name: str, ids: list[int], stops: list[str]
) -> None:
    transcript, audience = started(name, stops)
    for place, token in enumerate(ids, start=1):
        transcript.add(token, detail(place))
        transcript.tell()
    final, _ = transcript.end()
    assert audience.text == final == text_of(name, ids, stops)


def test_characters_of_bytes_are_told_when_a_token_of_another_kind_ends_them() -> None:
    transcript, audience = started("llama", [])
    for token in (TOKENIZERS["llama"].convert_tokens_to_ids(word) for word in ["a", "<0xE6>", "<0x9D>", "<0xB1>"]):
        transcript.add(token, None)
        transcript.tell()
    assert audience.text == "a"
    transcript.add(TOKENIZERS["llama"].convert_tokens_to_ids("b"), None)
    transcript.tell()
    assert audience.text == "a東b"


def test_a_stop_string_of_bytes_ends_the_sample_at_once() -> None:
    transcript, audience = started("llama", ["東"])
    ids = TOKENIZERS["llama"].convert_tokens_to_ids(["a", "<0xE6>", "<0x9D>", "<0xB1>"])
    assert [transcript.add(token, None) for token in ids] == [False, False, False, True]
    assert transcript.end()[0] == audience.text == "a"
