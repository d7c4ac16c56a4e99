"""Talking to a server: what it streams comes whole, and what nobody waits for any more is dropped."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.student.engines.port import EngineAwayError
from services.student.engines.vllm.client import Call, StatusError, VllmClient
from services.student.engines.vllm.wire import AS_IDS, ServerChoice
from tests.fakes.vllm import BASE, FakeVllm
from tests.fakes.waiting import WAIT_S


class Talk:
    def __init__(self, directory: Path) -> None:
        self.fake = FakeVllm(directory / "s")
        self.fake.start()
        self.client = VllmClient(self.fake.url, None)

    def close(self) -> None:
        self.fake.hung.clear()
        self.client.close()
        self.fake.stop()


@pytest.fixture
def talk(tmp_path: Path) -> Iterator[Talk]:
    talk = Talk(tmp_path)
    yield talk
    talk.close()


def body(model: str = BASE, prompt: int = 7) -> dict[str, object]:
    return {"model": model, "prompt": [prompt], "max_tokens": 3, **AS_IDS}


@pytest.mark.parametrize("text", ["plain", "\u2028", "a\u2029b", "\x85", "\x1c\x1d\x1e", "data: {", "\r\n"])
def test_a_streamed_text_may_hold_any_character(talk: Talk, text: str) -> None:
    heard: list[ServerChoice] = []

    def hear(part: ServerChoice) -> bool:
        heard.append(part)
        return True

    talk.fake.text = text
    (whole,) = talk.client.complete([Call(body(), hear)], lambda: None)
    assert whole.token_ids == [7, 7, 7] and len(heard) == 3 and whole.finish_reason == "length"


def test_whoever_leaves_gets_what_came(talk: Talk) -> None:
    (cut,) = talk.client.complete([Call(body(), lambda _: False)], lambda: None)
    assert cut.token_ids == [7] and cut.finish_reason == "length"


def test_what_a_server_says_of_usage_is_no_part_of_an_answer(talk: Talk) -> None:
    talk.fake.behind = {"choices": [], "usage": {"completion_tokens": 3}}
    (whole,) = talk.client.complete([Call(body(), lambda _: True)], lambda: None)
    assert whole.token_ids == [7, 7, 7] and whole.finish_reason == "length"


def test_why_a_stream_failed_is_told(talk: Talk) -> None:
    talk.fake.behind = {"error": {"message": "EngineCore encountered an issue", "code": 500}}
    with pytest.raises(StatusError, match="EngineCore encountered an issue"):
        talk.client.complete([Call(body(), lambda _: True)], lambda: None)


def test_a_call_that_fails_takes_those_beside_it_along(talk: Talk) -> None:
    talk.fake.hung.set()
    with pytest.raises(EngineAwayError, match="with 404"):
        talk.client.complete([Call(body()), Call(body(), lambda _: True), Call(body("none"))], lambda: None)
    deadline = time.monotonic() + WAIT_S
    while talk.fake.left < 2:
        assert time.monotonic() < deadline, f"{talk.fake.left} of 2 were given up"
        time.sleep(0.01)
