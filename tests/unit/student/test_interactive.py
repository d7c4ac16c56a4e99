"""Requests of people: bounded, with deadlines, each answered exactly once."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from services.student.engines.port import Generation, GenerationRequest
from services.student.interactive import InteractiveQueue, Question
from shared.clock import SystemClock
from shared.contracts.messages import ChatMessage, Sampling
from shared.errors import UnavailableError

ANSWER = [Generation("4", [1], [2], [-0.1], "stop")]


def requests(count: int = 1) -> list[GenerationRequest]:
    sampling = Sampling(temperature=0, top_p=1, max_tokens=4)
    return [GenerationRequest("a@v0", (ChatMessage(role="user", content="x"),), sampling, 1)] * count


def queue(bound: int = 4) -> InteractiveQueue:
    return InteractiveQueue(bound=bound, clock=SystemClock())


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 5 s"
        time.sleep(0.005)


def take_all(waiting: InteractiveQueue, count: int) -> list[Question]:
    """`count` questions, as they come."""
    taken: list[Question] = []

    def complete() -> bool:
        taken.extend(waiting.take(6))
        return len(taken) == count

    until(complete)
    return taken


def test_an_answer_reaches_the_one_who_asked() -> None:
    waiting = queue()
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(waiting.ask, "a@v0", requests(), timeout_s=5)
        until(lambda: waiting.versions() == {"a@v0"})
        (question,) = waiting.take(8)
        question.answer.set_result(ANSWER)
        assert asked.result(5) == ANSWER
    assert waiting.versions() == set()


def test_over_the_bound_the_next_one_is_refused_until_one_is_answered() -> None:
    waiting = queue(bound=2)
    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(waiting.ask, "a@v0", requests(), timeout_s=5) for _ in range(2)]
        taken = take_all(waiting, 2)
        with pytest.raises(UnavailableError, match="2 requests are being answered"):
            waiting.ask("a@v0", requests(), timeout_s=5)
        for question in taken:
            question.answer.set_result(ANSWER)
        assert [each.result(5) for each in asked] == [ANSWER, ANSWER]
    with pytest.raises(UnavailableError, match="did not answer"):
        waiting.ask("a@v0", requests(), timeout_s=0.01)


def test_a_late_one_is_told_so_and_never_generated_for() -> None:
    waiting = queue()
    with pytest.raises(UnavailableError, match=r"within 0\.01 s"):
        waiting.ask("a@v0", requests(), timeout_s=0.01)
    assert waiting.take(8) == []


def test_late_ones_do_not_pile_up() -> None:
    waiting = queue(bound=1)
    for _ in range(3):
        with pytest.raises(UnavailableError, match="did not answer"):
            waiting.ask("a@v0", requests(), timeout_s=0.01)
    assert waiting.versions() == set()


def test_a_batch_of_people_fits_the_slots_but_one_is_always_taken() -> None:
    waiting = queue()
    with ThreadPoolExecutor() as pool:
        first = pool.submit(waiting.ask, "a@v0", requests(9), timeout_s=5)
        until(lambda: bool(waiting.versions()))
        others = [pool.submit(waiting.ask, "a@v1", requests(3), timeout_s=5) for _ in range(2)]
        until(lambda: len(waiting.versions()) == 2)
        (large,) = waiting.take(8)
        assert len(large.requests) == 9
        for question in [large, *take_all(waiting, 2)]:
            question.answer.set_result(ANSWER)
        assert [each.result(5) for each in (first, *others)] == [ANSWER] * 3


def test_a_student_that_goes_away_refuses_those_who_wait_and_those_who_come() -> None:
    waiting = queue()
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(waiting.ask, "a@v0", requests(), timeout_s=5)
        until(lambda: bool(waiting.versions()))
        waiting.close()
        with pytest.raises(UnavailableError, match="shutting down"):
            asked.result(5)
    with pytest.raises(UnavailableError, match="shutting down"):
        waiting.ask("a@v0", requests(), timeout_s=5)
