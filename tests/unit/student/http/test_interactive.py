"""Requests of people: bounded, with deadlines, each answered exactly once, and nothing generated for who left."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from services.student.engines.port import Generation, GenerationRequest, Piece
from services.student.http.interactive import Heard, Inquiry, InteractiveQueue
from shared.contracts.messages import ChatMessage, Sampling
from shared.errors import UnavailableError
from tests.fakes.waiting import WAIT_S

ANSWER = [Generation("4", [1], [2], [-0.1], "stop")]
VERSION = "a@v0"


def requests(count: int = 1) -> list[GenerationRequest]:
    sampling = Sampling(temperature=0, top_p=1, max_tokens=4)
    return [GenerationRequest(VERSION, (ChatMessage(role="user", content="x"),), sampling, 1)] * count


def asked(waiting: InteractiveQueue, count: int = 1, version: str = VERSION) -> "asyncio.Task[list[Generation]]":
    return asyncio.create_task(waiting.ask(version, requests(count), timeout_s=5))


async def taken(waiting: InteractiveQueue, *, slots: int = 8) -> list[Inquiry]:
    """What the engine's thread takes once those who ask had their turn."""
    await asyncio.sleep(0)
    return waiting.take(slots)


def run(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 10))


def test_an_answer_reaches_the_one_who_asked() -> None:
    async def scene() -> None:
        waiting = InteractiveQueue(bound=4)
        asking = asked(waiting)
        await asyncio.sleep(0)
        assert waiting.versions() == {VERSION}
        (question,) = waiting.take(8)
        question.answer.set_result(ANSWER)
        assert await asking == ANSWER
        assert waiting.versions() == set()
        assert question.left.is_set()

    run(scene())


def test_every_piece_is_a_sign_of_life_whether_it_is_streamed_or_not() -> None:
    async def scene() -> None:
        waiting, signs = InteractiveQueue(bound=1), [0]

        def alive() -> None:
            signs[0] += 1

        waiting.alive = alive
        asking = asked(waiting)
        await asyncio.sleep(0)
        (question,) = waiting.take(8)
        for request in question.requests:
            assert request.audience is not None
            request.audience.tell(Piece("x"))
        assert signs == [len(question.requests)]
        question.answer.set_result(ANSWER)
        await asking

    run(scene())


def test_over_the_bound_the_next_one_is_refused_until_one_is_answered() -> None:
    async def scene() -> None:
        waiting = InteractiveQueue(bound=2)
        asking = [asked(waiting) for _ in range(2)]
        questions = await taken(waiting)
        with pytest.raises(UnavailableError, match="2 requests are being answered"):
            await waiting.ask(VERSION, requests(), timeout_s=5)
        for question in questions:
            question.answer.set_result(ANSWER)
        assert await asyncio.gather(*asking) == [ANSWER, ANSWER]
        again = asked(waiting)
        (question,) = await taken(waiting)
        question.answer.set_result(ANSWER)
        assert await again == ANSWER

    run(scene())


def test_late_ones_are_told_so_never_generated_for_and_do_not_pile_up() -> None:
    async def scene() -> None:
        waiting = InteractiveQueue(bound=1)
        for _ in range(3):
            with pytest.raises(UnavailableError, match=r"within 0\.01 s"):
                await waiting.ask(VERSION, requests(), timeout_s=0.01)
        assert waiting.take(8) == []
        assert waiting.versions() == set()

    run(scene())


def test_a_batch_of_people_fits_the_slots_but_one_is_always_taken() -> None:
    async def scene() -> None:
        waiting = InteractiveQueue(bound=4)
        asking = [asked(waiting, 9), asked(waiting, 3, "a@v1"), asked(waiting, 3, "a@v1")]
        (large,) = await taken(waiting)
        others = await taken(waiting, slots=6)
        assert (len(large.requests), [len(each.requests) for each in others]) == (9, [3, 3])
        for question in (large, *others):
            question.answer.set_result(ANSWER)
        assert await asyncio.gather(*asking) == [ANSWER] * 3

    run(scene())


def test_a_student_that_goes_away_refuses_those_who_wait_and_those_who_come() -> None:
    async def scene() -> None:
        waiting = InteractiveQueue(bound=4)
        asking = asked(waiting)
        await asyncio.sleep(0)
        waiting.close()
        with pytest.raises(UnavailableError, match="shutting down"):
            await asking
        with pytest.raises(UnavailableError, match="shutting down"):
            await waiting.ask(VERSION, requests(), timeout_s=5)

    run(scene())


@pytest.mark.parametrize("running", [False, True])
def test_one_whose_client_leaves_is_not_answered_any_further(running: bool) -> None:
    async def scene() -> None:
        waiting = InteractiveQueue(bound=1)
        asking = asked(waiting, 2)
        questions = await taken(waiting) if running else []
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert waiting.take(8) == []
        for question in questions:
            assert all(request.unwanted for request in question.requests)
            question.answer.set_result(ANSWER)  # the engine comes too late, and nothing breaks
        next_one = asked(waiting)
        assert len(await taken(waiting)) == 1
        next_one.cancel()

    run(scene())


def test_pieces_come_in_order_and_then_the_whole() -> None:
    async def scene() -> None:
        waiting = InteractiveQueue(bound=1)
        heard: list[Heard] = []

        async def listen() -> None:
            heard.extend([item async for item in waiting.stream(VERSION, requests(2), timeout_s=5)])

        listening = asyncio.create_task(listen())
        (question,) = await taken(waiting)
        await asyncio.to_thread(generate, question)
        await listening
        assert heard == [(1, Piece("b")), (0, Piece("a")), (1, Piece("c")), ANSWER]

    run(scene())


def generate(question: Inquiry) -> None:
    """As the engine's thread does."""
    for sample, text in ((1, "b"), (0, "a"), (1, "c")):
        audience = question.requests[sample].audience
        assert audience is not None
        audience.tell(Piece(text))
        assert audience.heard
    question.answer.set_result(ANSWER)


@pytest.mark.parametrize("how", ["error", "silence", "leaves"])
def test_a_stream_ends_with_an_error_after_silence_or_when_its_reader_leaves(how: str) -> None:
    async def scene() -> None:
        waiting = InteractiveQueue(bound=1)
        stream = waiting.stream(VERSION, requests(), timeout_s=0.5 if how == "silence" else WAIT_S)
        first = asyncio.create_task(anext(stream))
        (question,) = await taken(waiting)
        audience = question.requests[0].audience
        assert audience is not None
        audience.tell(Piece("a"))
        assert await first == (0, Piece("a"))
        if how == "leaves":
            await stream.aclose()
        else:
            if how == "error":
                question.answer.set_exception(UnavailableError("the engine is dead"))
            with pytest.raises(UnavailableError, match="dead" if how == "error" else "did not answer within"):
                await anext(stream)
        assert audience.gone
        assert waiting.versions() == set()

    run(scene())
