"""Tokens as they come out of an engine: final text only, details of every token, and an end where nobody listens."""

import math
import os
from dataclasses import replace
from pathlib import Path

import pytest

from opcod.options import CACHE_DIR
from services.student.engines.port import Generation, GenerationRequest, TokenChoice, TokenDetail
from services.student.engines.tokens import TokenTable
from services.student.engines.transcript import Transcript
from services.student.engines.transformers import TransformersEngine
from shared.contracts.messages import ChatMessage, Sampling
from shared.modeling.chat import encode
from shared.modeling.embedded import ensure_embedded_model
from shared.modeling.loading import load_tokenizer
from shared.modeling.thinking import AnswerText
from tests.fakes.audience import FakeAudience

pytestmark = pytest.mark.model
HOT = Sampling(temperature=1.0, top_p=1.0, max_tokens=40)
MESSAGES = (ChatMessage(role="user", content="Say something."),)
TEXT = "Grüße, 18 °C: 東京 👍🏽 e\u0301 \n\n done. STOP here"


@pytest.fixture(scope="module")
def engine(tiny_dir: Path) -> TransformersEngine:
    engine = TransformersEngine(tiny_dir, "compact", "float32", slots=16, threads=1)
    engine.load("a@v0", None)
    return engine


def request(
    seed: int = 0, sampling: Sampling = HOT, top_logprobs: int | None = None, leaves_after: int | None = None
) -> tuple[GenerationRequest, FakeAudience]:
    audience = FakeAudience(leaves_after)
    return GenerationRequest("a@v0", MESSAGES, sampling, seed, top_logprobs=top_logprobs, audience=audience), audience


def written(tokenizer_dir: Path, text: str, stop: tuple[str, ...] = ()) -> tuple[FakeAudience, str, list[TokenDetail]]:
    """A text told token by token, as an engine does: who listened, what it ends as, its details."""
    tokenizer = load_tokenizer(tokenizer_dir, "compact")
    audience, table = FakeAudience(), TokenTable(tokenizer)
    asked = GenerationRequest("a@v0", MESSAGES, HOT, 0, stop, top_logprobs=0, audience=audience)
    transcript = Transcript(AnswerText(tokenizer), asked)
    ids = encode(tokenizer, text)
    for count, token in enumerate(ids, start=1):
        if transcript.add(token, TokenDetail(table.choice(token, -1.0), ())):
            ids = ids[:count]
            break
        transcript.tell()
    final, details = transcript.end()
    return audience, final, list(details)


@pytest.fixture(scope="module")
def smollm_dir() -> Path:
    return ensure_embedded_model(Path(os.environ.get("OPCOD_CACHE_DIR", CACHE_DIR)))


def test_pieces_are_whole_characters_and_make_up_the_text(smollm_dir: Path, tiny_dir: Path) -> None:
    for directory in (smollm_dir, tiny_dir):
        audience, final, details = written(directory, TEXT)
        assert audience.text == final == TEXT
        assert not any("\ufffd" in piece.text for piece in audience.pieces)
        assert b"".join(detail.drawn.data for detail in details).decode() == TEXT
        assert [d for piece in audience.pieces for d in piece.details] == details


def test_bytes_that_never_become_a_character_are_told_at_the_end(tiny_dir: Path) -> None:
    tokenizer = load_tokenizer(tiny_dir, "compact")
    half = encode(tokenizer, "ok 東")[:-1]
    audience = FakeAudience()
    transcript = Transcript(AnswerText(tokenizer), GenerationRequest("a@v0", MESSAGES, HOT, 0, audience=audience))
    for token in half:
        transcript.add(token, None)
        transcript.tell()
    assert audience.text == "ok "
    transcript.end()
    assert audience.text == "ok \ufffd"


@pytest.mark.parametrize("stop", [("STOP",), ("xx", "P he", "STOP"), (" done. STOP h",)])
def test_nothing_of_a_stop_string_is_told(smollm_dir: Path, stop: tuple[str, ...]) -> None:
    audience, final, details = written(smollm_dir, TEXT, stop)
    expected = TEXT[: min(at for each in stop if (at := TEXT.find(each)) >= 0)]
    assert audience.text == final == expected
    assert b"".join(detail.drawn.data for detail in details).decode().startswith(expected)


def test_what_only_looks_like_a_stop_string_is_told_in_the_end(smollm_dir: Path) -> None:
    audience, final, _ = written(smollm_dir, "a STO", ("STOP",))
    assert audience.text == final == "a STO"


def test_the_engine_tells_what_it_draws_and_draws_the_same_unheard(engine: TransformersEngine) -> None:
    heard = [request(seed, top_logprobs=3) for seed in range(4)]
    found = engine.generate([asked for asked, _ in heard])
    silent = engine.generate([replace(asked, audience=None, top_logprobs=None) for asked, _ in heard])
    for generation, unheard, (_, audience) in zip(found, silent, heard, strict=True):
        assert (generation.text, generation.token_ids) == (unheard.text, unheard.token_ids)
        assert audience.text == generation.text
        assert [d for piece in audience.pieces for d in piece.details] == list(generation.details)
        assert unheard.details == ()
        check_details(generation, 3)


def check_details(generation: Generation, most: int) -> None:
    for detail, logprob in zip(generation.details, generation.logprobs, strict=False):
        assert detail.drawn.logprob == logprob
        assert [choice.logprob for choice in detail.top] == sorted((c.logprob for c in detail.top), reverse=True)
        assert 1 <= len(detail.top) <= most
        assert all(choice.logprob > -math.inf for choice in detail.top)
        assert logprob <= detail.top[0].logprob + 1e-5


def test_with_a_narrow_nucleus_only_what_can_be_drawn_is_an_alternative(engine: TransformersEngine) -> None:
    narrow = Sampling(temperature=1.0, top_p=0.01, max_tokens=5)
    asked, _ = request(sampling=narrow, top_logprobs=20)
    (generation,) = engine.generate([asked])
    assert all(len(detail.top) < 20 for detail in generation.details)
    check_details(generation, 20)


def test_a_sample_ends_when_its_audience_is_gone_and_the_others_go_on(engine: TransformersEngine) -> None:
    long = Sampling(temperature=1.0, top_p=1.0, max_tokens=200)
    left, stayed = request(3, long, leaves_after=2), request(3, long)
    gone, whole = engine.generate([left[0], stayed[0]])
    assert 2 <= len(left[1].pieces) <= 3  # a last one brings what was still held back
    assert gone.token_ids == whole.token_ids[: len(gone.token_ids)]
    assert len(gone.token_ids) < len(whole.token_ids)
    assert stayed[1].text == whole.text


def test_a_token_without_a_place_in_the_vocabulary_is_nothing(tiny_dir: Path) -> None:
    table = TokenTable(load_tokenizer(tiny_dir, "compact"))
    assert table.choice(100_000, -1.0) == TokenChoice(b"", -1.0)
