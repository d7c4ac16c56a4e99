"""Specialists from right answers of their own, with a tiny real model on the transformers engine, as a shell would."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from shared.config.loading import load_settings, to_toml
from tests.fakes.answering_model import write_answering_model
from tests.fakes.forked import running
from tests.fakes.sciknoweval import plain, two_domains
from tests.fakes.waiting import wait_until

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.timeout(400)]

DRAWING = "services.student.own_answers"
SAID = "<answer>\nA\n</answer>"
SMALL = (
    "problems.validation_per_domain=2",
    "problems.per_step=2",
    "rollout.samples=2",
    "rollout.max_tokens=24",
    "feedback.max_tokens=24",
    "evaluation.validation_samples=1",
    "evaluation.test_samples=1",
    "evaluation.max_tokens=24",
    "run.rounds=1",
    "run.steps_per_round=1",
    "lora.rank=2",
    "specialize.sampling.samples=2",
    "specialize.sampling.min_examples=2",
    "specialize.sampling.max_tokens=24",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It answers A, which is right for every fourth problem of `problems`."""
    prompts = [
        [{"role": "system", "content": str(row["system"])}, {"role": "user", "content": str(row["prompt"])}]
        for word in ("lens", "acid")
        for row in plain(0, 2, word)
    ]
    return write_answering_model(tmp_path_factory.mktemp("model"), SAID, prompts)


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    return two_domains(tmp_path / "sciknoweval", train=24)


def settings_on(model: Path, problems: Path, *overrides: str) -> list[str]:
    settings = [f"problems.source=sciknoweval:{problems}", *SMALL]
    for student, domain in (("a", "optics"), ("b", "acids")):
        named = {"domain": domain, "model": str(model), "engine": "transformers", "slots": "4"}
        settings += [f"students.{student}.{key}={value}" for key, value in named.items()]
    return [*settings, *overrides]


def opcod(
    command: str, cache: Path, model: Path, problems: Path, *overrides: str, options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    arguments = [part for setting in settings_on(model, problems, *overrides) for part in ("--set", setting)]
    full = [sys.executable, "-m", "opcod.main", command, "--preset", "phys-chem", "--cache-dir", str(cache)]
    return subprocess.run([*full, *options, *arguments], capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.usefixtures("forking")
def test_the_papers_preset_needs_a_model_and_problems_alone(tmp_path: Path, model: Path, problems: Path) -> None:
    runs = ("--runs-dir", str(tmp_path / "runs"))
    done = opcod("run", tmp_path / "cache", model, problems, options=(*runs, "--run", "pair"))
    assert done.returncode == 0, done.stderr + done.stdout
    run_dir = tmp_path / "runs" / "pair"
    assert (run_dir / "report" / "report.md").exists()
    for student, word in (("a", "lens"), ("b", "acid")):
        rows = [json.loads(line) for line in (run_dir / "examples" / f"{student}.jsonl").read_text().splitlines()]
        assert rows
        for row in rows:
            (asked,) = re.findall(rf"Which {word} is number (\d+)\?", row["messages"][-1]["content"])
            assert int(asked) % 4 == 0, "A is right for these alone"
            assert row["completion"] == SAID
        prepared = json.loads((run_dir / "models" / f"{student}.json").read_text())
        assert Path(prepared["path"]).parent == tmp_path / "cache" / "specialists"
        log = (run_dir / "logs" / f"own-answers-{student}.log").read_text()
        assert f"student {student}: {len(rows)} examples of its own; " in log


@pytest.mark.usefixtures("forking")
def test_answers_are_drawn_once_a_specialist_is_cached_by_what_was_kept_and_too_few_are_refused(
    tmp_path: Path, model: Path, problems: Path
) -> None:
    cache, alone = tmp_path / "cache", ("--student", "a")
    first = opcod("specialize", cache, model, problems, options=alone)
    assert first.returncode == 0, first.stderr
    (answers,) = (cache / "samples").glob("*.jsonl")
    (made,) = (path for path in (cache / "specialists").iterdir() if path.is_dir())
    assert f'a: {{"path":"{made}"' in first.stdout

    before = answers.stat().st_mtime_ns
    # No other answers, and the same ones kept: one text is drawn to a problem, however often.
    again = opcod("specialize", cache, model, problems, "specialize.sampling.keep=1", options=alone)
    assert again.returncode == 0, again.stderr
    assert f'a: {{"path":"{made}"' in again.stdout
    assert list((cache / "samples").glob("*.jsonl")) == [answers]
    assert answers.stat().st_mtime_ns == before

    # How many of how many, and what to do.
    refused = opcod("specialize", cache, model, problems, "specialize.sampling.min_examples=40", options=alone)
    assert refused.returncode == 2
    assert "students.a.specialize: expected 40 right answers of its own to fine-tune on" in refused.stderr
    assert re.search(r"[1-9] of 22 problems were solved; of 44 answers \d+ were right", refused.stderr)
    assert "raise specialize.sampling.samples = 2" in refused.stderr


def draw(python: Path, run_dir: Path, cache: Path) -> subprocess.Popen[str]:
    command = [str(python), "-m", DRAWING, "--student", "a", "--run-dir", str(run_dir)]
    command += ["--cache-dir", str(cache), "--examples", str(run_dir / "a.jsonl")]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE)


def test_killed_while_drawing_it_goes_on_to_the_answers_of_an_undisturbed_one(
    tmp_path: Path, model: Path, problems: Path, programs: Path
) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    # Four engine calls a problem: seconds lie between the first line and the last.
    overrides = settings_on(model, problems, "specialize.sampling.samples=16")
    (run_dir / "config.toml").write_text(to_toml(load_settings(preset="phys-chem", overrides=overrides, environ={})))
    with draw(programs / "python", run_dir, tmp_path / "undisturbed") as undisturbed:
        undisturbed.communicate(timeout=100)
    assert undisturbed.returncode == 0
    kept = (run_dir / "a.jsonl").read_bytes()
    (run_dir / "a.jsonl").unlink()

    with draw(programs / "python", run_dir, tmp_path / "cache") as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "answers drawn to 1 of 22 problems\n"
        killed.kill()
    wait_until(lambda: not any(DRAWING in command for command in running().values()), "the end of what was killed")
    assert not list((tmp_path / "cache" / "samples").glob("*.jsonl"))
    assert not (run_dir / "a.jsonl").exists()

    with draw(programs / "python", run_dir, tmp_path / "cache") as again:
        said = again.communicate(timeout=100)[0]
    assert again.returncode == 0
    assert re.match(r"going on after \d+ of 22 problems\n", said)
    (answers,) = (tmp_path / "cache" / "samples").glob("*.jsonl")
    assert answers.read_bytes() == (tmp_path / "undisturbed" / "samples" / answers.name).read_bytes()
    assert (run_dir / "a.jsonl").read_bytes() == kept


@pytest.mark.usefixtures("forking")
def test_the_plan_says_what_will_be_drawn(tmp_path: Path, model: Path, problems: Path) -> None:
    shown = opcod("run", tmp_path / "cache", model, problems, options=("--dry-run",))
    assert shown.returncode == 0, shown.stderr
    assert (
        "Note: student a is fine-tuned first, on at most 2 right answers of its own to each of 22 training problems; "
        "44 are drawn, 1,056 tokens at most, unless it is cached."
    ) in shown.stdout
    too_many = opcod(
        "run", tmp_path / "cache", model, problems, "specialize.sampling.min_examples=45", options=("--dry-run",)
    )
    assert too_many.returncode == 2
    assert "specialize.sampling.min_examples: expected at most 44 for student a" in too_many.stderr
