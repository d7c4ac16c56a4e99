"""A problem set in a language that the sanitizer does not know: the broker says so when it starts."""

import json
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services.broker.app import Broker
from shared.config.environment import ServiceEnvironment
from shared.config.loading import load_settings

QUESTIONS = {"Thai": "ความเร็วของรถเป็นเท่าไร", "English": "What is the speed of the car?"}


def started(directory: Path, question: str) -> list[str]:
    """What the broker of a run with such questions warns of before it serves."""
    for name in ("train", "validation", "test"):
        rows = [
            {"id": f"{name} {n}", "domain": domain, "question": f"{name} {n}: {question}", "answer": "12"}
            for n, domain in enumerate(("physics", "chemistry") * 8)
        ]
        (directory / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    settings = load_settings(preset="smoke", overrides=[f"problems.source={directory}"], environ={})
    environment = ServiceEnvironment(
        run="r1", run_dir=directory, cache_dir=directory, redis_url="redis://127.0.0.1:1/0", port=0
    )
    with capture_logs() as logs:
        Broker(environment, settings)
    return [str(line.get("reason")) for line in logs if line["log_level"] == "warning"]


@pytest.mark.parametrize(("language", "warnings"), [("Thai", 1), ("English", 0)])
def test_the_broker_warns_of_a_language_that_the_sanitizer_does_not_know(
    tmp_path: Path, language: str, warnings: int
) -> None:
    told = started(tmp_path, QUESTIONS[language])
    assert len(told) == warnings
    assert all(f"48 of 48 questions are in {language}" in line for line in told)
