"""What needs torch says so first, and names where it can be done; what starts services says where they are."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from opcod.installed import require_drawing
from opcod.main import app
from shared.config.loading import to_toml
from shared.errors import ConfigError
from tests.fakes.final_state import settings

ROOT = Path(__file__).resolve().parents[3]
WITHOUT_TORCH = """
import json, sys
sys.modules["torch"] = None
from typer.testing import CliRunner
from opcod.main import app
for words in json.loads(sys.argv[1]):
    done = CliRunner().invoke(app, words)
    print(json.dumps({"type": type(done.exception).__name__, "told": f"{done.output} {done.exception}"}))
"""
COMMANDS = {
    "replay": ("replay", "r1"),
    "eval": ("eval", "--run", "r1", "--student", "a"),
    "model": ("model",),
    "prepare": ("prepare", "--run", "r2", "--preset", "smoke"),
    "probe": ("probe", "smoke"),
    "specialize": ("specialize", "--preset", "smoke", "--set", "students.a.specialize=true"),
    "export": ("export", "r1", "out", "--student", "a"),
    "run --dry-run": ("run", "--dry-run", "--preset", "smoke"),
}
STARTING = {"run": ("run", "--preset", "smoke"), "up": ("up", "r1"), "compare": ("compare", "--preset", "smoke")}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Directories of runs and cache as a command is told them; there is one run, r1."""
    root = tmp_path_factory.mktemp("places")
    (root / "runs" / "r1").mkdir(parents=True)
    (root / "runs" / "r1" / "config.toml").write_text(to_toml(settings()))
    return {"OPCOD_RUNS_DIR": str(root / "runs"), "OPCOD_CACHE_DIR": str(root / "cache"), "COLUMNS": "1000"}


@pytest.fixture(scope="module")
def without_torch(places: dict[str, str]) -> dict[str, dict[str, str]]:
    """What each command says, in one process that cannot import torch."""
    command = [sys.executable, "-c", WITHOUT_TORCH, json.dumps(list(COMMANDS.values()))]
    environment = {"PATH": "/usr/bin:/bin", "HOME": places["OPCOD_CACHE_DIR"], **places}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return dict(zip(COMMANDS, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("name", COMMANDS)
def test_without_torch_the_right_container_is_named_in_one_message(
    without_torch: dict[str, dict[str, str]], name: str
) -> None:
    told = without_torch[name]["told"]
    assert without_torch[name]["type"] == "ConfigError", told
    assert "needs torch: not installed here" in told
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert "docker-compose run --rm --no-deps trainer-a opcod" in told and "trainer-a-gpu" in told
    assert services["trainer-a-gpu"]["image"] == services["trainer-a"]["image"] + "-gpu"
    assert services["trainer-a"]["image"].startswith("${OPCOD_REGISTRY-}opcod-model:")


def test_without_matplotlib_a_report_is_drawn_in_the_same_container(monkeypatch: pytest.MonkeyPatch) -> None:
    require_drawing()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"needs matplotlib: not installed here.* trainer-a opcod"):
        require_drawing()


@pytest.mark.parametrize("words", STARTING.values(), ids=STARTING)
def test_where_services_are_containers_none_is_started_for_a_command(
    places: dict[str, str], words: tuple[str, ...]
) -> None:
    runs = Path(places["OPCOD_RUNS_DIR"])
    before = sorted(runs.iterdir())
    done = CliRunner().invoke(app, words, env={**places, "OPCOD_REDIS_URL": "redis://redis:6379"})
    assert isinstance(done.exception, ConfigError) and "`docker-compose up`" in str(done.exception)
    assert sorted(runs.iterdir()) == before


def test_whatever_loads_a_model_or_starts_a_process_that_does_asks_first() -> None:
    """Of the files of the command line; where one only goes on what another has asked, that one is named."""
    asked_by = {
        "export/card.py": "commands/export.py",
        "export/hub.py": "commands/export.py",
        "export/writing.py": "commands/export.py",
        "local/answering.py": "commands/eval.py",
        "planning/memory.py": "planning/plan.py",
        "planning/disk.py": "planning/plan.py",
        "planning/shapes.py": "planning/plan.py",
        "planning/machine.py": "planning/plan.py",
        "probe/probing.py": "commands/probe.py",
        "prepare/checks.py": "prepare/models.py",
    }
    for path in sorted((ROOT / "opcod").rglob("*.py")):
        if _loads_models(path.read_text()):
            name = path.relative_to(ROOT / "opcod").as_posix()
            asks = (ROOT / "opcod" / asked_by.get(name, name)).read_text()
            # `opcod doctor` runs without them, too, and looks for itself.
            assert "require_model_packages(" in asks or 'find_spec("torch")' in asks, name


def _loads_models(text: str) -> bool:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("shared.modeling"):
            return True
        if isinstance(node, ast.Constant) and node.value in (
            "services.trainer.offline.specializing",
            "services.trainer.offline.replaying",
            "services.trainer.offline.probing",
            "services.student.answer_file",
        ):
            return True
    return False
