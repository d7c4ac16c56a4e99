"""People ask all the time while a run trains: they are answered, and the run learns the same as if nobody had asked."""

import threading
from pathlib import Path

import httpx2
import pytest

from shared.contracts.http import AskResponse
from tests.fakes.deployment import ScriptedDeployment
from tests.fakes.waiting import WAIT_S

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
QUESTION = "A circuit carries 3 A through 4 ohm. What is the voltage?"


class Asker(threading.Thread):
    """Asks the peers and chats with a student, one after the other, until told to stop."""

    def __init__(self, url: str, key: str) -> None:
        super().__init__()
        self.answered = 0
        self.refused: list[str] = []
        self.ended = threading.Event()
        self._client = httpx2.Client(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=WAIT_S, trust_env=False
        )

    def run(self) -> None:
        chat = {"model": "b", "messages": [{"role": "user", "content": QUESTION}], "stream": True}
        with self._client:
            while not self.ended.wait(0.05):
                asked = self._client.post("/v1/peers/ask", json={"problem": QUESTION, "exchanges": 2})
                chatted = self._client.post("/v1/chat/completions", json=chat)
                if (asked.status_code, chatted.status_code) == (200, 200):
                    AskResponse.model_validate_json(asked.content)
                    self.answered += chatted.text.endswith("data: [DONE]\n\n")
                else:
                    self.refused.append(asked.text + chatted.text)


def test_people_are_answered_while_a_run_trains_and_do_not_disturb_it(
    tmp_path: Path, tiny_model: Path, undisturbed: dict[str, str]
) -> None:
    running = ScriptedDeployment(tmp_path, "asked", tiny_model)
    try:
        deployment = running.launcher.deployment
        assert deployment is not None and deployment.broker is not None
        running.until_training()
        askers = [Asker(deployment.broker.url, deployment.key()) for _ in range(3)]
        for asker in askers:
            asker.start()
        running.assert_done(undisturbed)
        for asker in askers:
            asker.ended.set()
            asker.join(WAIT_S)
        assert [asker.refused for asker in askers] == [[]] * 3
        assert all(asker.answered >= 2 for asker in askers)
    finally:
        running.close()
