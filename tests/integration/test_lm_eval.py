"""The LM Evaluation Harness runs a task against a student by its address; `make check-lm-eval` installs it and runs
this."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from services.student.app import build_app
from services.student.engines.transformers import TransformersEngine
from shared.modeling.chat import encode
from shared.modeling.loading import load_model, load_tokenizer
from tests.fakes.listening import listening
from tests.fakes.student import StudentBench
from tests.fakes.waiting import WAIT_S
from tests.unit.modeling.tiny_model import write_tiny_model

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed; `make check-lm-eval` runs this")
pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore")]
QUESTIONS = [("The sky is", ["blue", "wet", "4"]), ("2 + 2 =", ["3", "4"]), ("Light travels", ["fast", "slow"])]
CONTEXT = 512


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "model", context=CONTEXT)


@pytest.fixture
def url(tmp_path: Path, model: Path) -> Iterator[str]:
    """Of a student that serves `model` as it is."""
    bench = StudentBench(tmp_path / "run", "serving.request_timeout_s=60")
    bench.engine = TransformersEngine(model, None, "float32", slots=8, threads=1)  # type: ignore[assignment]
    bench._build()
    bench.turn()
    thread = threading.Thread(target=bench.worker.run)
    thread.start()
    try:
        with listening(build_app(bench.config, bench.board, bench.interactive, bench.clock)) as address:
            yield address
    finally:
        bench.stopping.set()
        thread.join(WAIT_S)
        bench.close()


def task(directory: Path) -> dict[str, Any]:
    """QUESTIONS as a task of lm-eval's, each with its first choice as the right one."""
    file = directory / "questions.jsonl"
    file.write_text("".join(json.dumps({"question": q, "choices": c}) + "\n" for q, c in QUESTIONS))
    return {
        "task": "three_questions",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": 0,
        "metric_list": [{"metric": "acc"}],
    }


def scores(model: Path, question: str, choices: list[str]) -> list[float]:
    """The log-prob of each choice after the question, by the model alone."""
    network, tokenizer = load_model(model, "float32"), load_tokenizer(model, None)
    found = []
    for choice in choices:
        context, whole = encode(tokenizer, question), encode(tokenizer, f"{question} {choice}")
        with torch.no_grad():
            logprobs_TV = network(torch.tensor([whole])).logits[0].float().log_softmax(-1)
        found.append(sum(logprobs_TV[at - 1, whole[at]].item() for at in range(len(context), len(whole))))
    return found


def test_a_task_gives_the_models_own_scores(
    url: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    result = lm_eval.simple_evaluate(
        model="local-completions",
        model_args={
            "model": "a",
            "base_url": f"{url}/v1/completions",
            "tokenizer": str(model),
            "max_length": CONTEXT,
            "max_retries": 1,
        },
        tasks=[task(tmp_path)],
        batch_size=2,
        log_samples=True,
        bootstrap_iters=0,
    )
    expected = [scores(model, question, choices) for question, choices in QUESTIONS]
    samples = sorted(result["samples"]["three_questions"], key=lambda sample: sample["doc_id"])
    for sample, own in zip(samples, expected, strict=True):
        assert [float(each[0]) for each in sample["filtered_resps"]] == pytest.approx(own, abs=1e-3)
    right = [own.index(max(own)) == 0 for own in expected]
    assert result["results"]["three_questions"]["acc,none"] == pytest.approx(sum(right) / len(right))
