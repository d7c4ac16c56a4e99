"""Every command of README and docs: run on a small deployment where it can be, else read as its program would read it.

`TRIALS` says of each how it is tried. A command without a row fails, and so does a row without a command.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import typer
import yaml

from opcod.local.deployment import Deployment, live_deployment, run_lock
from opcod.main import app
from shared.config.loading import load_settings
from tests.fakes.broker import RUN
from tests.fakes.inspected import standing

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LIMIT_S = 30.0
EXCHANGE = "a.s3.ether-train-004.2"
QUESTION = "A circuit carries 3 A through 4 ohm. What is the voltage?"
"""Examples of the pages, for which those of the deployment at hand stand in."""

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`(opcod\s[^`]+)`(?!`)")
_COMMENT = re.compile(r"(^|\s+)#\s.*$")
_SETTING = re.compile(r"(OPCOD_SET_\w+)=(\S+)")
_ENDS = frozenset({"|", ">", ">>", "&&", ";"})


@dataclass(frozen=True)
class Run:
    """In a shell, on the deployment `stand`. says: a piece of what it prints, at which one that follows is stopped."""

    stand: str
    says: str
    code: int = 0
    follows: bool = False


@dataclass(frozen=True)
class Parsed:
    """Read by `opcod`'s own parser, or found by make."""

    why: str


@dataclass(frozen=True)
class NotHere:
    """Only its names are looked up: those of an `opcod` in it, of services and profiles, of settings."""

    why: str


FETCHES = Parsed("fetches packages")
SUITE = Parsed("is a part of the test suite, or all of it")
MAIN_JOB = Parsed("is the main job, or as long")
REPLICA = NotHere("starts one more student of a run that is up; tests/faults/test_replicas.py does so")
WALKED = NotHere("is run by tests/deploy/test_air_gapped.py, on a small part of what it fetches")

TRIALS: dict[str, Run | Parsed | NotHere] = {
    "make run": MAIN_JOB,
    "make test": SUITE,
    "make unit": SUITE,
    "make fuzz": SUITE,
    "make properties": SUITE,
    "make test-vllm": SUITE,
    "make setup": FETCHES,
    "make browser": FETCHES,
    "make check-trl": FETCHES,
    "make check-lm-eval": FETCHES,
    "make vllm-cpu": FETCHES,
    "make lock": FETCHES,
    "make test-cluster": Parsed("needs a cluster; tests/deploy/test_cluster_checklist.py runs it without one"),
    "make gpu-check": Parsed("needs a GPU; tests/integration/test_gpu_check.py runs what it runs on CPUs"),
    "opcod ask": Run("served", "answers"),
    "opcod status": Run("served", "student-a"),
    "opcod doctor": Run("served", "redis ping"),
    "opcod keys": Run("served", "secrets"),
    "opcod feedback tail": Run("sealed", "revised", follows=True),
    "opcod feedback show": Run("sealed", "let through"),
    "opcod feedback export --filter": Run("sealed", ""),
    "opcod feedback export --format parquet": Run("sealed", "all.parquet"),
    "opcod feedback export --rows critiques": Run("sealed", "critiques.jsonl"),
    "opcod feedback export --rows preferences": Run("sealed", "pairs.jsonl"),
    "opcod report": Run("sealed", "report.md"),
    "opcod bundle": Run("sealed", "site"),
    "opcod export": Parsed("loads a model; tests/integration/test_export.py runs it on a tiny one"),
    "vllm serve": NotHere("is another project's"),
    "opcod weights list": Run("sealed", "checksum"),
    "opcod up": Parsed("serves until Ctrl-C; tests/integration/test_up_command.py runs it"),
    "opcod doctor --preset mixed": Parsed("looks for a vLLM"),
    "opcod eval": Parsed("loads a model; tests/unit/opcod/test_eval_command.py runs it on a scripted one"),
    "opcod probe": Parsed("loads models; tests/integration/test_probe_command.py runs it on scripted ones"),
    "opcod replay": Parsed("needs a run that was trained; tests/integration/test_replay.py has one"),
    "opcod specialize": Parsed("loads a model; tests/integration/test_specialize_command.py runs it on a tiny one"),
    "opcod compare": MAIN_JOB,
    "opcod compose": Parsed("prints a file; tests/unit/opcod/deployed/test_rendering.py reads it"),
    "opcod join": Parsed("joins a run of several nodes; tests/ranks/test_run_on_nodes.py has one"),
    "opcod sbatch": Parsed("writes a job for SLURM; tests/unit/opcod/slurm runs one"),
    "opcod run --run pair": Parsed("waits for another node; tests/ranks/test_run_on_nodes.py has one"),
    "sbatch job.sbatch": NotHere("needs SLURM"),
    "python -m benchmarks.paper_size": NotHere("takes minutes; tests/integration/test_paper_size.py runs it in small"),
    "opcod run --preset": MAIN_JOB,
    "opcod run --config": MAIN_JOB,
    "opcod run --dry-run --config": Parsed("needs the problems"),
    "opcod run --dry-run --preset phys-chem": Parsed("needs the problems"),
    "opcod run --dry-run --preset phys-chem --set problems.source=sciknoweval:DIR --gpus": Run(
        "served", "GPUs, of 2: ", code=2
    ),
    "export KEY=": Run("served", ""),
    "export BROKER=": Run("served", ""),
    "export INSPECTOR=": Run("served", ""),
    "export OPENAI_BASE_URL=": Run("served", ""),
    "export OPCOD_RUN=": REPLICA,
    "export OPCOD_KEY_FILE=": REPLICA,
    "OPCOD_STUDENT=a": REPLICA,
    "OPENAI_API_KEY=": NotHere("lm-eval is another project's; tests/integration/test_lm_eval.py runs it"),
    "curl -s $BROKER/v1/peers ": Run("served", '"strong_domain"'),
    "curl -sN $BROKER/v1/peers/ask": Run("served", "event: "),
    "curl -sN $BROKER/v1/chat/completions": Run("served", "data: [DONE]"),
    "curl -sN $INSPECTOR/v1/stream": Run("sealed", "retry:", follows=True),
    "pip install": NotHere("fetches packages"),
    "inspect view": NotHere("serves until Ctrl-C, and is another project's"),
    "docker-compose": NotHere("needs a container engine"),
    "docker build": NotHere("needs a container engine"),
    "docker save": WALKED,
    "docker load": WALKED,
    "for image in": WALKED,
    "for list in": WALKED,
    "pip download": WALKED,
    "python3 -m venv": WALKED,
    ".venv/bin/pip install": WALKED,
    "hf download": NotHere("fetches from the hub"),
    "CUDA=": NotHere("is for the build of an image"),
    "kubectl": NotHere("needs a cluster"),
}
"""By what a command begins with; the longest one counts."""


@dataclass(frozen=True)
class Stand:
    """A deployment in whose environment commands are run, and what stands for placeholders."""

    environment: dict[str, str]
    fill: dict[str, str] = field(default_factory=dict)


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """(page, text) of each fenced block of this language."""
    for page in PAGES:
        yield from ((page.name, text) for kind, text in _FENCE.findall(page.read_text()) if kind == language)


def documented() -> set[str]:
    """Every line of every shell block, joined where it goes on, with blanks as one and without comments."""
    lines = [line for _, text in blocks("sh") for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines()]
    return {said for line in lines if (said := _COMMENT.sub("", line).strip())}


def row_of(command: str) -> str:
    """The row that says how a command is tried; empty: none."""
    return max((row for row in TRIALS if command.startswith(row)), key=len, default="")


COMMANDS = sorted(documented())
REAL = [command for command in COMMANDS if isinstance(TRIALS.get(row_of(command)), Run)]


def opcods(command: str) -> Iterator[list[str]]:
    """The arguments of each `opcod` in a command, whoever starts it."""
    words = [re.sub(r"^[A-Z]+=\$\(", "", word) for word in shlex.split(command)]
    in_container = words[0] == "docker-compose" and "--entrypoint" not in words
    for at, word in enumerate(words):
        begins = word == "opcod" and (at == 0 or "$(opcod" in command or words[at - 1] in ("--", "trainer-a"))
        if begins or (in_container and word == "cli"):
            rest = words[at + 1 :]
            yield rest[: next((end for end, other in enumerate(rest) if other in _ENDS), len(rest))]


def parse(arguments: list[str], *, whole: bool) -> None:
    """As `opcod` would, running nothing. whole: everything required is there; else only names are looked up."""
    found = typer.main.get_command(app)
    rest = list(arguments)
    while hasattr(found, "commands") and rest and not rest[0].startswith("-"):
        assert rest[0] in found.commands, f"opcod has no command {' '.join(arguments)}"
        found = found.commands[rest.pop(0)]
    if whole and arguments != ["report"]:  # in a container the environment names the run
        found.make_context(found.name, list(rest), resilient_parsing=False)
    named = {name for parameter in found.params for name in (*parameter.opts, *parameter.secondary_opts)}
    options = {"--help", *named}  # which every command has, and no list
    unknown = [word for word in rest if word.startswith("--") and word.partition("=")[0] not in options]
    assert not unknown, f"opcod {' '.join(arguments)}: no option {unknown}"


@pytest.fixture(scope="module")
def stands(
    served: Deployment,
    known_question: str,
    acting_redis: str,
    programs: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Stand]]:
    """`served`: two scripted students that answer. `sealed`: a run that is done, with its exchanges."""
    runs = tmp_path_factory.mktemp("documented")
    with standing(runs / RUN, acting_redis) as stood, run_lock(runs / RUN):
        stood.let_the_other_group_through()
        stood.bench.finish()
        key = str(stood.exchanges()[0]["key"])
        yield {
            "served": Stand(environment_of(served, programs), {QUESTION: known_question}),
            "sealed": Stand(environment_of(live_deployment(runs), programs), {"<run>": RUN, EXCHANGE: key}),
        }


def environment_of(up: Deployment, programs: Path) -> dict[str, str]:
    """programs: those that are called in place of the installed ones."""
    assert up.broker is not None and up.inspector is not None
    return {
        **os.environ,
        "PATH": os.pathsep.join((str(programs), str(Path(sys.executable).parent), os.environ["PATH"])),
        "OPCOD_RUNS_DIR": str(up.run_dir.parent),
        "KEY": up.key() or "",
        "BROKER": up.broker.url,
        "INSPECTOR": up.inspector.url,
        "OMP_NUM_THREADS": "1",
    }


def filled(text: str, stand: Stand) -> str:
    for placeholder, value in stand.fill.items():
        text = text.replace(placeholder, value)
    return text


def start(command: str, stand: Stand, directory: Path) -> "subprocess.Popen[str]":
    """A command by itself; one that exports has to export something."""
    command = filled(command, stand)
    exported = re.findall(r"(\w+)=\$", command) if command.startswith("export ") else []
    line = " && ".join([command, *(f'test -n "${name}"' for name in exported)])
    return subprocess.Popen(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=directory,
        env=stand.environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=_heeding_interrupts,
    )


def _heeding_interrupts() -> None:
    # A shell has those that it starts in the background ignore SIGINT, and a suite passes that on to curl.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def stop_when_it_says(process: "subprocess.Popen[str]", says: str) -> str:
    """All that it printed until then."""
    printed = ""
    assert process.stdout is not None
    too_late = threading.Timer(LIMIT_S, os.killpg, (process.pid, signal.SIGKILL))
    too_late.start()
    for line in process.stdout:
        printed += line
        if says in line:
            os.killpg(process.pid, signal.SIGINT)
            break
    process.communicate()
    too_late.cancel()
    return printed


@pytest.mark.slow
@pytest.mark.parametrize("command", REAL)
def test_it_does_what_the_page_says(command: str, stands: dict[str, Stand], tmp_path: Path) -> None:
    trial = TRIALS[row_of(command)]
    assert isinstance(trial, Run)
    process = start(command, stands[trial.stand], tmp_path)
    if trial.follows:
        assert trial.says in stop_when_it_says(process, trial.says)
        return
    printed, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == trial.code, printed
    assert trial.says in printed, printed


def test_the_installed_program_is_there() -> None:
    """The pages' commands are tried by one in its place."""
    installed = Path(sys.executable).with_name("opcod")
    said = subprocess.run([installed, "--version"], capture_output=True, text=True, timeout=LIMIT_S, check=True)
    assert said.stdout.startswith("opcod ")


@pytest.mark.slow
def test_the_pages_client_talks_to_the_broker(stands: dict[str, Stand]) -> None:
    (code,) = (text for page, text in blocks("python") if page == "clients.md")
    given = "import os\nBROKER, KEY = os.environ['BROKER'], os.environ['KEY']\n"
    words = [sys.executable, "-c", given + filled(code, stands["served"])]
    done = subprocess.run(words, env=stands["served"].environment, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    assert "a@v0" in done.stdout and done.stdout.count("=") >= 2, done.stdout


@pytest.mark.slow
def test_the_pages_reader_reads_an_export(stands: dict[str, Stand], tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="needs `datasets`; the environment of `make check-trl` has it")
    (code,) = (text for page, text in blocks("python") if page == "feedback.md")
    start("opcod feedback export --format parquet --out all.parquet", stands["sealed"], tmp_path).communicate()
    environment = {**stands["sealed"].environment, "HF_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", f"{code}\nassert len(exchanges)"], cwd=tmp_path, env=environment, check=True)


def test_python_is_on_these_pages_only() -> None:
    """Another page's wants a test of its own."""
    assert sorted(page for page, _ in blocks("python")) == ["clients.md", "export.md", "feedback.md"]


def test_every_command_has_a_row_and_every_row_a_command() -> None:
    assert {command: row_of(command) for command in COMMANDS if not row_of(command)} == {}
    assert {row_of(command) for command in COMMANDS} == set(TRIALS)


@pytest.mark.parametrize("command", COMMANDS)
def test_it_can_be_read(command: str) -> None:
    for arguments in opcods(command):
        parse(arguments, whole=True)
    words = shlex.split(command)
    if words[0] == "make":
        subprocess.run(["make", "--dry-run", "--silent", words[1]], cwd=ROOT, check=True, capture_output=True)


def test_services_and_profiles_of_compose_that_are_named_are_there() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    profiles = {profile for service in services.values() for profile in service.get("profiles", ())}
    for command in COMMANDS:
        if "docker-compose" in command:
            assert set(re.findall(r"--profile (\S+)", command)) <= profiles | {"'*'"}, command
            named = re.findall(r"(?:exec|--rm(?: --no-deps)?(?: --entrypoint sh -v \S+)?) (?!--)(\S+)", command)
            assert set(named) <= set(services), command


def test_no_file_is_written_that_compose_takes_before_its_own() -> None:
    """It would count whatever COMPOSE_FILE says no more, and be empty while a command of Compose writes it."""
    for page in PAGES:
        assert not re.search(r"> (compose\.ya?ml|docker-compose\.yaml)\b", page.read_text()), page.name


def test_what_a_text_says_of_opcod_is_there() -> None:
    said = {(page.name, " ".join(span.split())) for page in PAGES for span in _SPAN.findall(page.read_text())}
    assert len(said) > 50
    for _, span in said:
        parse(shlex.split(re.sub(r"[\[\]…]", " ", span))[1:], whole=False)


def test_settings_that_an_environment_file_names_are_taken() -> None:
    named = {name: value for _, text in blocks("ini") for name, value in _SETTING.findall(text)}
    assert len(named) >= 5
    load_settings(preset="phys-chem", environ=named)


def test_every_block_says_its_language() -> None:
    """What has none is no shell block for this file, and so is tried by nobody."""
    assert not list(blocks(""))


def test_a_command_that_is_not_there_is_seen() -> None:
    with pytest.raises(AssertionError, match="no command"):
        parse(["reprot"], whole=False)
    with pytest.raises(AssertionError, match="no option"):
        parse(["status", "--jsno"], whole=False)
    with pytest.raises(Exception, match="out"):
        parse(["bundle", "r1"], whole=True)
