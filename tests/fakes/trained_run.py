"""A run of which one student was specialised and then trained, and what it answers by version; without services."""

import json
import threading
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

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
from tests.unit.trainer.ground import RUN, STUDENT, OpenFence, seal_steps

STEPS = 2
QUESTIONS = ("1+1?", "How many moons?")


@dataclass(frozen=True)
class Trained:
    """A run with a specialised student of two published versions, and its answers to QUESTIONS by version."""

    paths: Paths
    answers: dict[str, list[Generation]]

    def export(self, *arguments: str) -> Result:
        places = ["--runs-dir", str(self.paths.runs_dir), "--cache-dir", str(self.paths.cache_dir)]
        return CliRunner().invoke(app, ["export", RUN, "--student", STUDENT, *arguments, *places])


def train_in(place: Path, model: Path, *overrides: str) -> Trained:
    """Specialises `model` on one example and trains the specialist for STEPS steps, below `place`."""
    examples = place / "examples.jsonl"
    row = {"messages": [{"role": "user", "content": "Which lens?"}], "completion": "The thin one."}
    examples.write_text(json.dumps(row) + "\n")
    common = ["lora.first_layer=0", "lora.rank=4", "optimizer.learning_rate=1e-2", "students.a.specialize=true"]
    common += [f"students.{name}.model={model}" for name in "ab"]
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
