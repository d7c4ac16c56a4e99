"""People who ask a real student: whoever goes away stops what was begun for them, and too many are sent back."""

import asyncio
import threading

import httpx2
import pytest
from openai import OpenAI

from services.student.config import INTERACTIVE_BOUND
from shared.contracts.jobs import JobKind
from tests.fakes.student_process import Student, question
from tests.fakes.waiting import WAIT_S, wait_until

FOREVER_S = 600.0
STAYS_S = 5.0
"""How long a crowd fills all places, in which one more comes: ten times what that takes."""


def chat(student: Student, **change: object) -> dict[str, object]:
    return {"model": "a", "messages": [{"role": "user", "content": question(student)}], **change}


def metric(student: Student, line: str) -> bool:
    return f"\n{line}\n" in student.get("/metrics").text


@pytest.mark.parametrize("stream", [False, True])
def test_when_the_client_goes_away_the_generation_stops(student: Student, stream: bool) -> None:
    student.start(latency_s=FOREVER_S)
    body = chat(student, stream=stream, n=2)

    async def leave_on_the_way() -> None:
        async with httpx2.AsyncClient(trust_env=False, timeout=FOREVER_S) as client:
            asking = asyncio.create_task(client.post(f"{student.url}/v1/chat/completions", json=body))
            await asyncio.to_thread(
                wait_until, lambda: metric(student, "opcod_student_answering 2.0"), "an engine at work for us"
            )
            student.broker.issue(JobKind.ROLLOUT, 1)
            asking.cancel()

    asyncio.run(leave_on_the_way())
    wait_until(lambda: student.pending(JobKind.ROLLOUT) == 1, "the engine free for the next job")
    wait_until(lambda: metric(student, 'opcod_student_requests_total{outcome="gone"} 1.0'), "the one who went counted")
    wait_until(lambda: metric(student, "opcod_student_answering 0.0"), "nobody answered")


def test_too_many_are_sent_back_and_the_client_comes_again(student: Student) -> None:
    student.start(latency_s=STAYS_S)
    answers: list[str | None] = []

    # Before the crowd comes, and the first of it is answered: making the problems to ask one of takes a moment.
    client = OpenAI(base_url=f"{student.url}/v1", api_key="none", max_retries=2, timeout=WAIT_S)
    messages = [{"role": "user", "content": question(student)}]

    def ask_like_anybody() -> None:
        with client:
            answer = client.chat.completions.create(model="a", messages=messages)  # type: ignore[arg-type]
            answers.append(answer.choices[0].message.content)

    async def crowd() -> None:
        async with httpx2.AsyncClient(trust_env=False, timeout=WAIT_S) as client:
            body = chat(student, n=8)
            asking = [
                asyncio.create_task(client.post(f"{student.url}/v1/chat/completions", json=body))
                for _ in range(INTERACTIVE_BOUND + 1)
            ]
            refused = 'opcod_student_requests_total{outcome="refused"}'
            await asyncio.to_thread(wait_until, lambda: metric(student, f"{refused} 1.0"), "one too many sent back")
            latecomer = threading.Thread(target=ask_like_anybody)
            latecomer.start()
            await asyncio.to_thread(wait_until, lambda: metric(student, f"{refused} 2.0"), "the latecomer sent back")
            for each in asking:
                each.cancel()
            await asyncio.to_thread(latecomer.join, WAIT_S)

    asyncio.run(crowd())
    assert len(answers) == 1 and answers[0]
