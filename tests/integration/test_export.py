"""What leaves a run is loaded by transformers alone, in a process that knows nothing of opcod, and gives the served
log-probs: of students that were specialised first and then trained, as adapters or as whole models."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("torch")

from services.student.engines.port import Generation
from tests.fakes.trained_run import QUESTIONS, Trained, train_in
from tests.integration.test_doc_commands import blocks
from tests.unit.modeling.tiny_model import write_tiny_model

pytestmark = [pytest.mark.model, pytest.mark.timeout(600), pytest.mark.usefixtures("forking")]

LOADING_S = 300.0
"""A fresh process imports torch and transformers, which takes minutes beside others that do."""

LOADER = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
found = {}
for path, asked in json.loads(sys.argv[1]).items():
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=False)
    found[path] = []
    for messages, answer in asked:
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        with torch.no_grad():
            logprobs = model(torch.tensor([prompt + answer])).logits[0].float().log_softmax(-1)
        places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
        found[path].append([prompt, [logprobs[at, token].item() for at, token in zip(places, answer)]])
assert "opcod" not in sys.modules
print(json.dumps(found))
"""


Train = Callable[..., Trained]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Makes such a run with these overrides, once each."""
    made: dict[tuple[str, ...], Trained] = {}

    def run(*overrides: str) -> Trained:
        if overrides not in made:
            place = tmp_path_factory.mktemp("export")
            made[overrides] = train_in(place, write_tiny_model(place / "tiny", context=1024), *overrides)
        return made[overrides]

    return run


Served = dict[Path, list[Generation]]
"""By the directory of an exported model: what the student served with these weights."""

EXACT = "students.a.dtype=float32"
FULL = ("run.weights=full", "run.schedule=sequential", EXACT)
TRAINED = {"lora": (EXACT,), "full": FULL, "lora in bfloat16": ()}
ADAPTER = "adapter"


@dataclass(frozen=True)
class Loaded:
    """By kind of export what was served, and by directory what a fresh process says of it: prompt ids and log-probs."""

    served: dict[str, Served]
    said: dict[str, list[tuple[list[int], list[float]]]]

    def assert_alike(self, kind: str, within: float) -> None:
        for directory, answers in self.served[kind].items():
            said = self.said[str(directory)]
            assert [prompt for prompt, _ in said] == [answer.prompt_token_ids for answer in answers], directory
            for (_, logprobs), answer in zip(said, answers, strict=True):
                assert logprobs == pytest.approx(answer.logprobs, abs=within), directory


@pytest.fixture(scope="module")
def exported(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Loaded]:
    """Makes every kind of export and has all of them loaded by one fresh process, whose imports take longest."""

    @cache
    def load() -> Loaded:
        place = tmp_path_factory.mktemp("exported")
        served = {kind: _whole_models(train(*overrides), place / kind) for kind, overrides in TRAINED.items()}
        served[ADAPTER] = _adapter(train(EXACT), place / ADAPTER)
        everything = {directory: answers for kind in served.values() for directory, answers in kind.items()}
        return Loaded(served, _loaded(everything, place))

    return load


def _whole_models(run: Trained, place: Path) -> Served:
    for name, version in (("model", ()), ("before", ("--version", "v0")), ("middle", ("--version", "a@v1"))):
        result = run.export(str(place / name), *version)
        assert result.exit_code == 0, result.output
    names = {"before": "a@v0", "middle": "a@v1", "model": "a@v2"}
    return {place / name: run.answers[version] for name, version in names.items()}


def _adapter(run: Trained, place: Path) -> Served:
    result = run.export(str(place), "--adapter")
    assert result.exit_code == 0, result.output
    return {place: run.answers["a@v2"], place / "base": run.answers["a@v0"]}


def _loaded(served: Served, cwd: Path) -> dict[str, list[tuple[list[int], list[float]]]]:
    asked = {
        str(directory): [
            ([{"role": "user", "content": question}], answer.token_ids)
            for question, answer in zip(QUESTIONS, answers, strict=True)
        ]
        for directory, answers in served.items()
    }
    done = subprocess.run(
        [sys.executable, "-I", "-c", LOADER, json.dumps(asked)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=LOADING_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[tuple[list[int], list[float]]]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("kind", TRAINED)
def test_a_fresh_process_gets_the_served_log_probs(train: Train, exported: Callable[[], Loaded], kind: str) -> None:
    within = 1e-4 if EXACT in TRAINED[kind] else 0.1
    answers = train(*TRAINED[kind]).answers
    assert answers["a@v0"][0].logprobs != pytest.approx(answers["a@v2"][0].logprobs, abs=10 * within), "it has learned"
    exported().assert_alike(kind, within)


def test_an_adapter_that_was_moved_is_loaded_as_the_page_says(train: Train, tmp_path: Path) -> None:
    run = train(EXACT)
    assert run.export(str(tmp_path / "made"), "--adapter").exit_code == 0
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "made").rename(tmp_path / "elsewhere" / "adapter")
    (code,) = (text for page, text in blocks("python") if page == "export.md")
    (answer, _) = run.answers["a@v2"]
    ids = answer.prompt_token_ids + answer.token_ids
    asked = f"import torch\nlogits = model(torch.tensor([{ids}])).logits[0].float().log_softmax(-1)\n"
    asked += (
        f"print([logits[at - 1, id].item() for at, id in enumerate({ids}) if at >= {len(answer.prompt_token_ids)}])"
    )
    said = subprocess.run(
        [sys.executable, "-c", f"{code}\n{asked}"],
        cwd=tmp_path / "elsewhere",
        capture_output=True,
        text=True,
        timeout=LOADING_S,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout) == pytest.approx(answer.logprobs, abs=1e-4)


def test_an_adapter_brings_the_base_that_it_needs(exported: Callable[[], Loaded]) -> None:
    exported().assert_alike(ADAPTER, 1e-4)
