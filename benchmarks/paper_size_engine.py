"""The engine of the replicas that `paper_size.py` starts: it waits as for a GPU, and gives answers of full length."""

import random
import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

ROLLOUT_SHARE, ROLLOUT_SPREAD, LONGEST_ROLLOUT = 0.25, 0.5, 0.6
"""Of a step: the median time of a group's answers, the spread of its logarithm, and the longest, which a limit cuts."""

FEEDBACK_SHARE = 0.05
VOCABULARY, DRAWN = 150_000, 20_000
CONCEPT = "lattice"
EVALUATED_TOKENS = 64
"""Of an answer in an evaluation, which is no part of a step."""

LONGEST_QUESTION = 1000
"""Characters; what goes beyond it holds a solution or feedback."""

_ITEM = re.compile(r"item (\d+) of (\w+)")
RIGHT_AT_HOME, RIGHT_ELSEWHERE = 0.7, 0.5
TEXT = (
    "the field force charge mass energy bond orbital electron acid base rate constant velocity pressure of and with "
    "therefore because we consider each option in turn as it follows from what is given about this equation so that"
)
WORDS = TEXT.split()


Number = TypeVar("Number", int, float)


class PaperEngine:
    """See `services.student.engines.port.Engine`: continuous, as vLLM is. Answers have the full length that is asked
    for, but in evaluations; they are made before the wait for a simulated GPU, so that all come on time."""

    context = None
    vocabulary_size = VOCABULARY
    continuous = True
    guides = False
    hashes = False
    finished = 0
    rendering = None

    def __init__(self, domain: str, step_s: float, slots: int) -> None:
        self.slots = slots
        self._domain = domain
        self._step_s = step_s
        self._versions: dict[str, str] = {}
        draw = random.Random(slots)
        # Drawn once, as a GPU draws: each sample has another stretch of them.
        self._ids = draw.choices(range(VOCABULARY), k=DRAWN)
        self._logprobs = [-draw.expovariate(2.0) for _ in range(DRAWN)]

    def load(self, version: str, directory: Path | None, checksum: str | None = None) -> str:  # noqa: ARG002
        self._versions[version] = checksum or "c" * 64
        return self._versions[version]

    def unload(self, version: str) -> None:
        del self._versions[version]

    def versions(self) -> dict[str, str]:
        return dict(self._versions)

    def probe(self, _version: str, _expected: Sequence[float]) -> None:
        """Nothing can be asked of it."""

    def close(self) -> None:
        """Nothing was started."""

    def health(self) -> Any:
        from services.student.engines.port import EngineHealth, EngineState

        return EngineHealth(EngineState.READY, "simulated")

    def prompt_tokens(self, messages: Sequence[Any]) -> int:
        return sum(len(message.content) for message in messages) // 4

    def generate(self, requests: Sequence[Any], cancelled: threading.Event | None = None) -> list[Any]:
        began, asked = time.monotonic(), _asked(requests[0])
        answers = [self._answer(request, asked) for request in requests]
        share = {"rollout": ROLLOUT_SHARE, "feedback": FEEDBACK_SHARE, "revision": FEEDBACK_SHARE}.get(asked, 0.0)
        draw = random.Random(requests[0].seed)
        seconds = self._step_s * min(share * draw.lognormvariate(0.0, ROLLOUT_SPREAD), LONGEST_ROLLOUT)
        (cancelled or threading.Event()).wait(max(0.0, began + seconds - time.monotonic()))
        return answers

    def _answer(self, request: Any, asked: str) -> Any:
        from services.student.engines.port import Generation

        draw = random.Random(request.seed)
        count = (
            min(request.sampling.max_tokens, EVALUATED_TOKENS) if asked == "evaluation" else request.sampling.max_tokens
        )
        # As in English, six characters a word with its blank, and four a token; a sentence now and then.
        words = [
            f"{word}. " if at % 17 == 16 else f"{word} "
            for at, word in enumerate(draw.choices(WORDS, k=count * 2 // 3))
        ]
        text, item = "".join(words).strip(), _ITEM.search(request.messages[-1].content)
        assert item is not None, request.messages[-1].content[:200]
        if asked == "feedback":
            text = f"<concept>{CONCEPT}</concept> {text}"
        else:
            right = draw.random() < (RIGHT_AT_HOME if item[2] == self._domain else RIGHT_ELSEWHERE)
            text = f"{text}\n<answer>\n{'ABCD'[(int(item[1]) + (not right)) % 4]}\n</answer>"
        return Generation(
            text=text,
            prompt_token_ids=_part(self._ids, self.prompt_tokens(request.messages), draw),
            token_ids=_part(self._ids, count, draw),
            logprobs=_part(self._logprobs, count, draw),
            finish_reason="stop",
        )


def _part(drawn: list[Number], count: int, draw: random.Random) -> list[Number]:
    """`count` of them from somewhere on, and round."""
    first = draw.randrange(DRAWN)
    return (drawn * (2 + count // DRAWN))[first : first + count]


def _asked(request: Any) -> str:
    prompt = request.messages[-1].content
    if "<concept>term</concept>" in prompt:
        return "feedback"
    if request.sampling.temperature == 1:
        return "rollout"
    return "revision" if len(prompt) > LONGEST_QUESTION else "evaluation"
