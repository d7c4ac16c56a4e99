"""What leaves a run is loaded by transformers alone, in a process that knows nothing of opcod, and gives the served
log-probs: of students that were specialised first and then trained, as adapters or as whole models."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("torch")

from typer.testing import CliRunner, Result

from opcod.main import app
from opcod.prepare.models import prepare_models
from opcod.prepare.run_directory import create_run
from services.student.app import build_engine, build_loader
from services.student.config import StudentConfig
from services.student.engines.port import Generation, GenerationRequest
from services.trainer.app import build_trainer
from services.trainer.checkpoint import Checkpoints
from services.trainer.config import training_config
from shared.config.environment import ServiceEnvironment
from shared.config.loading import load_settings
from shared.config.settings import Paths, RunSettings
from shared.contracts.messages import ChatMessage, Sampling
from shared.contracts.models import prepared_model
from shared.files.state import write_state_file
from shared.files.store import LocalStore
from tests.fakes.final_state import final_state
from tests.integration.test_doc_commands import blocks
from tests.unit.modeling.tiny_model import write_tiny_model
from tests.unit.trainer.ground import RUN, STUDENT, OpenFence, seal_steps

pytestmark = [pytest.mark.model, pytest.mark.timeout(600), pytest.mark.usefixtures("forking")]

STEPS = 2
LOADING_S = 300.0
"""A fresh process imports torch and transformers, which takes minutes beside others that do."""

QUESTIONS = ("1+1?", "How many moons?")
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


@dataclass(frozen=True)
class Trained:
    """A run with a specialised student of two published versions, and its answers to QUESTIONS by version."""

    paths: Paths
    answers: dict[str, list[Generation]]

    def export(self, *arguments: str) -> Result:
        places = ["--runs-dir", str(self.paths.runs_dir), "--cache-dir", str(self.paths.cache_dir)]
        return CliRunner().invoke(app, ["export", RUN, "--student", STUDENT, *arguments, *places])


Train = Callable[..., Trained]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Makes such a run with these overrides, once each."""
    made: dict[tuple[str, ...], Trained] = {}

    def run(*overrides: str) -> Trained:
        if overrides not in made:
            made[overrides] = _trained(tmp_path_factory.mktemp("export"), overrides)
        return made[overrides]

    return run


def _trained(place: Path, overrides: tuple[str, ...]) -> Trained:
    examples = place / "examples.jsonl"
    row = {"messages": [{"role": "user", "content": "Which lens?"}], "completion": "The thin one."}
    examples.write_text(json.dumps(row) + "\n")
    common = ["lora.first_layer=0", "lora.rank=4", "optimizer.learning_rate=1e-2", "students.a.specialize=true"]
    common += [f"students.{name}.model={write_tiny_model(place / 'tiny', context=1024)}" for name in "ab"]
    settings = load_settings(
        preset="smoke", overrides=[*common, f"students.a.examples={examples}", *overrides], environ={}
    )
    paths = Paths(runs_dir=place / "runs", run=RUN, cache_dir=place / "cache")
    create_run(paths, settings)
    prepare_models(paths, settings, lambda _: None, students=(STUDENT,))
    base = prepared_model(paths.run_dir, STUDENT)
    assert base.path.parent == paths.cache_dir / "specialists"
    store = LocalStore(paths.run_dir)
    config = training_config(settings, RUN, paths.run_dir, STUDENT)
    checkpoints = Checkpoints(store, run=RUN, student=STUDENT, base_sha256=base.sha256)
    trainer = build_trainer(config, store, checkpoints, threading.Event())
    trainer.restore()
    for sealed in seal_steps(paths.run_dir, base.path, STEPS):
        trainer.apply(sealed, OpenFence())
        trainer.publish()
    state = final_state(run=RUN, version={"a": f"a@v{STEPS}", "b": "b@v0"}, steps={"a": STEPS, "b": 0})
    write_state_file(paths.run_dir, state)
    return Trained(paths, _answers(paths, settings))


def _answers(paths: Paths, settings: RunSettings) -> dict[str, list[Generation]]:
    """As the student serves them."""
    environment = ServiceEnvironment(
        run=RUN,
        run_dir=paths.run_dir,
        cache_dir=paths.cache_dir,
        redis_url="",
        student=STUDENT,
        host="127.0.0.1",
        key_file=None,
    )
    config = StudentConfig(environment, settings, None, STUDENT)
    sampling = Sampling(temperature=1, top_p=1, max_tokens=8)
    found: dict[str, list[Generation]] = {}
    with closing(build_engine(config)) as engine:
        for version in ("a@v0", "a@v1", "a@v2"):
            build_loader(config, engine).load(version)
            found[version] = engine.generate(
                [GenerationRequest(version, (ChatMessage(role="user", content=one),), sampling, 7) for one in QUESTIONS]
            )
    return found


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
