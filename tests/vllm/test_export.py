"""What leaves a run is served by vLLM alone, as docs/export.md says, and gives the log-probs of the student."""

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import pytest

from services.student.engines.port import Generation
from shared.modeling.embedded import ensure_embedded_model
from tests.fakes.trained_run import QUESTIONS, Trained, train_in
from tests.fakes.valkey import free_port
from tests.fakes.waiting import wait_until
from tests.vllm.bench import PYTHON

pytestmark = [pytest.mark.model, pytest.mark.timeout(1200)]
START_S = 300.0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    place = tmp_path_factory.mktemp("trained")
    return train_in(place, ensure_embedded_model(place / "cache"), "students.a.dtype=float32")


@contextmanager
def serving(log: Path, *arguments: str) -> Iterator[httpx2.Client]:
    """`vllm serve --model …` with these arguments, until the context ends."""
    port = free_port()
    # What `vllm serve` starts; its build for CPUs is a distribution of another name, which that command does not find.
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager", "--max-model-len", "512"]
    command += [*arguments, "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    # By itself it takes the first cores for itself alone, and half of the memory for its cache.
    variables = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    variables |= {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as told:
        server = subprocess.Popen(command, stdout=told, stderr=told, env=variables, start_new_session=True)
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=START_S) as client:
            wait_until(lambda: _up(client) or server.poll() is not None, "vllm serve", deadline_s=START_S)
            assert server.poll() is None, log.read_text()[-3000:]
            yield client
    finally:
        # With the engine's process, which it starts.
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _up(client: httpx2.Client) -> bool:
    try:
        return client.get("/health").is_success
    except httpx2.TransportError:
        return False


def assert_served(client: httpx2.Client, model: str, answers: Sequence[Generation]) -> None:
    for question, answer in zip(QUESTIONS, answers, strict=True):
        messages = [{"role": "user", "content": question}]
        rendered = client.post("/tokenize", json={"model": model, "messages": messages}).raise_for_status()
        assert rendered.json()["tokens"] == answer.prompt_token_ids
        ids = [*answer.prompt_token_ids, *answer.token_ids]
        asked = {"model": model, "prompt": ids, "max_tokens": 1, "prompt_logprobs": 0}
        (choice,) = client.post("/v1/completions", json=asked).raise_for_status().json()["choices"]
        at_each = choice["prompt_logprobs"][len(answer.prompt_token_ids) :]
        said = [at[str(token)]["logprob"] for at, token in zip(at_each, answer.token_ids, strict=True)]
        assert said == pytest.approx(answer.logprobs, abs=1e-3)


def test_a_whole_model_is_served_as_the_student_served_it(run: Trained, tmp_path: Path) -> None:
    result = run.export(str(tmp_path / "model"))
    assert result.exit_code == 0, result.output
    before, after = run.answers["a@v0"], run.answers["a@v2"]
    assert before[0].logprobs != pytest.approx(after[0].logprobs, abs=1e-2), "it has learned"
    with serving(tmp_path / "log", "--model", str(tmp_path / "model"), "--served-model-name", "model") as client:
        assert_served(client, "model", after)


def test_an_adapter_is_served_beside_its_base(run: Trained, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    result = run.export(str(adapter), "--adapter")
    assert result.exit_code == 0, result.output
    lora = ("--enable-lora", "--max-lora-rank", "8", "--lora-modules", f"a={adapter}")
    with serving(tmp_path / "log", "--model", str(adapter / "base"), "--served-model-name", "base", *lora) as client:
        assert_served(client, "base", run.answers["a@v0"])
        assert_served(client, "a", run.answers["a@v2"])
