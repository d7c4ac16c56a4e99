"""The house rules that can be read off the source: who may import whom, and what every file owes its reader.

Each rule is a function from a file's text to what is wrong with it; each is tried on a text that breaks it, too.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("shared", "services", "opcod", "docs", "benchmarks")
MODEL_LIBRARIES = frozenset({"torch", "transformers", "peft"})
NAMELESS = frozenset({"utils", "util", "helpers", "helper", "misc", "manager", "common"})
DOCSTRING_ABOVE_LINES = 20
MAX_LINES = 400
LOADERS = frozenset({"from_pretrained", "from_config"})
NEVER_RUN_CODE = frozenset({"GenerationConfig", "PeftModel"})
"""Loaders of JSON and of safetensors, which have no such argument."""
READ_SIDE = ("services.inspector.store", "services.inspector.http.export", "services.inspector.http.views")
PURE = (
    "services/broker/machine/",
    "services/broker/exchange/judging.py",
    "services/trainer/step/",
    "shared/method/",
    "shared/results/",
)
EDGES = (
    "shared.bus",
    "shared.files",
    "shared.http",
    "httpx2",
    "httpx",
    "redis",
    "fastapi",
    "starlette",
    "pathlib",
    "os",
)
FROM_AN_EDGE = frozenset({"shared.bus.keys"})
"""Names in Redis, which are values: nothing is read or written by them."""

BROAD = frozenset({"Exception", "BaseException"})

UNFINISHED = "TO" + "DO"
"""Put together, so that this file does not hold the mark that it looks for."""

_REASON = re.compile(r"#\s*noqa:\s*BLE001\s*[-–:]\s*\w+")


@lru_cache(maxsize=1)
def nodes(text: str) -> tuple[ast.AST, ...]:
    """Of a file, for one rule after the other: the first is its module."""
    return tuple(ast.walk(ast.parse(text)))


def docstring(text: str) -> str:
    module = nodes(text)[0]
    return (isinstance(module, ast.Module) and ast.get_docstring(module)) or ""


def imported(path: PurePosixPath, text: str) -> Iterator[str]:
    """Full names of all modules that a file imports, at its top or later."""
    package = list(path.parts[:-1])
    for node in nodes(text):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def model_libraries_only_in_modeling(path: PurePosixPath, text: str) -> Iterator[str]:
    """In shared/ only shared/modeling imports torch, transformers or peft; nothing anywhere imports vllm."""
    for name in imported(path, text):
        library = name.partition(".")[0]
        if library == "vllm":
            yield f"imports {name}: vLLM runs beside us and is reached over HTTP"
        if library in MODEL_LIBRARIES and path.parts[0] == "shared" and path.parts[1] != "modeling":
            yield f"imports {name}: in shared/ only shared/modeling may"


def services_never_meet(path: PurePosixPath, text: str) -> Iterator[str]:
    """Services import shared/, never each other nor the command line; shared/ imports neither."""
    for name in imported(path, text):
        top, *rest = name.split(".")
        if path.parts[0] == "services" and top == "services" and rest and rest[0] != path.parts[1]:
            yield f"imports {name}: services meet in shared/contracts"
        if path.parts[0] == "services" and top == "opcod":
            yield f"imports {name}: a service does not know the command line"
        if path.parts[0] == "shared" and top in ("services", "opcod"):
            yield f"imports {name}: shared/ knows nothing of those who share it"


def command_line_reads_no_service(path: PurePosixPath, text: str) -> Iterator[str]:
    """opcod/ imports shared/ and, of the services, only what the inspector reads a run's record with."""
    for name in imported(path, text):
        if path.parts[0] == "opcod" and name.startswith("services.") and not name.startswith(READ_SIDE):
            yield f"imports {name}: what a command shares with a service belongs into shared/"


def pure_folders_have_no_edge(path: PurePosixPath, text: str) -> Iterator[str]:
    """What decides imports no bus, no files and no HTTP: whoever calls it reads and writes."""
    for name in imported(path, text) if path.as_posix().startswith(PURE) else ():
        edge = any(name == each or name.startswith(f"{each}.") for each in EDGES)
        if edge and name != "shared.bus" and not any(name == f or name.startswith(f"{f}.") for f in FROM_AN_EDGE):
            yield f"imports {name}: this folder is pure"


def no_pickle(path: PurePosixPath, text: str) -> Iterator[str]:
    """Nothing is unpickled: not by the module, and not by torch.load."""
    for name in imported(path, text):
        if name.partition(".")[0] in ("pickle", "dill", "cloudpickle", "joblib"):
            yield f"imports {name}: tensors are safetensors, everything else is JSON"
    for node in nodes(text):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "torch.save"):
            yield f"line {node.lineno}: {ast.unparse(node.func)} pickles; use safetensors"


def no_code_of_a_model(_path: PurePosixPath, text: str) -> Iterator[str]:
    """Whatever loads by name or from a directory says that no code comes with it: otherwise transformers asks."""
    for node in nodes(text):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        said = {each.arg: ast.unparse(each.value) for each in node.keywords}
        plain = ast.unparse(node.func.value) in NEVER_RUN_CODE
        if node.func.attr in LOADERS and not plain and said.get("trust_remote_code") != "False":
            yield f"line {node.lineno}: {ast.unparse(node.func)} without trust_remote_code=False"


def has_docstring(path: PurePosixPath, text: str) -> Iterator[str]:
    """A module of more than 20 lines says what it owns."""
    lines = len(text.splitlines())
    if lines > DOCSTRING_ABOVE_LINES and path.parts[0] in PRODUCT and not docstring(text):
        yield f"{lines} lines and no module docstring"


def short_or_with_reason(_path: PurePosixPath, text: str) -> Iterator[str]:
    """No file above 400 lines, unless its docstring says why (with the words `400 lines`)."""
    lines = len(text.splitlines())
    if lines > MAX_LINES and "400 lines" not in docstring(text):
        yield f"{lines} lines; split it, or say in its docstring why it has more than 400 lines"


def broad_except_has_reason(_path: PurePosixPath, text: str) -> Iterator[str]:
    """`except Exception` stands only where it raises again, or its line says why: `# noqa: BLE001 - reason`."""
    lines = text.splitlines()
    for node in nodes(text):
        if (
            isinstance(node, ast.ExceptHandler)
            and _is_broad(node.type)
            and ast.unparse(node.body[-1]) != "raise"
            and not _REASON.search(lines[node.lineno - 1])
        ):
            yield f"line {node.lineno}: catches everything; name the errors, or add `# noqa: BLE001 - reason`"
        if (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith("suppress")
            and any(map(_is_broad, node.args))
        ):
            yield f"line {node.lineno}: suppresses everything; name the errors"


def terminal_text_is_no_markup(path: PurePosixPath, text: str) -> Iterator[str]:
    """In opcod/ nothing that is printed is read as rich's markup: `[/x]` in a name would end the command."""
    for node in nodes(text) if path.parts[0] == "opcod" else ():
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func).rpartition(".")[2]
        said = {each.arg: ast.unparse(each.value) for each in node.keywords}
        if name == "from_markup" or (name in ("Console", "TextColumn") and said.get("markup") != "False"):
            yield f"line {node.lineno}: {name} reads markup; say markup=False (make_console does), and use styles"


def telling_name(path: PurePosixPath, _text: str) -> Iterator[str]:
    """Nothing is called utils, helpers, manager, misc or common."""
    bad = NAMELESS & {path.stem, *path.parts[:-1]}
    if bad:
        yield f"is called {', '.join(sorted(bad))}; name it after what it holds"


def nothing_left_to_do(_path: PurePosixPath, text: str) -> Iterator[str]:
    """No marks of unfinished work."""
    for number, line in enumerate(text.splitlines(), start=1):
        if re.search(rf"#.*\b(?:{UNFINISHED}|FIX[M]E)\b", line):
            yield f"line {number}: unfinished"


def _is_broad(caught: ast.expr | None) -> bool:
    if caught is None:
        return True
    names = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    return any(isinstance(name, ast.Name) and name.id in BROAD for name in names)


Rule = Callable[[PurePosixPath, str], Iterator[str]]

RULES: tuple[Rule, ...] = (
    model_libraries_only_in_modeling,
    services_never_meet,
    command_line_reads_no_service,
    pure_folders_have_no_edge,
    no_pickle,
    no_code_of_a_model,
    has_docstring,
    short_or_with_reason,
    broad_except_has_reason,
    terminal_text_is_no_markup,
    telling_name,
    nothing_left_to_do,
)

BROKEN: list[tuple[Rule, str, str]] = [
    (model_libraries_only_in_modeling, "shared/method/gating.py", "import torch\n"),
    (model_libraries_only_in_modeling, "shared/method/gating.py", "def f():\n    from peft.tuners import lora\n"),
    (model_libraries_only_in_modeling, "services/student/app.py", "from vllm import LLM\n"),
    (services_never_meet, "services/student/app.py", "from services.broker.machine.plan import Plan\n"),
    (services_never_meet, "services/student/app.py", "from services import broker\n"),
    (services_never_meet, "services/student/engines/port.py", "from ...trainer import step\n"),
    (services_never_meet, "services/broker/app.py", "import opcod.talk.client\n"),
    (services_never_meet, "shared/http/app.py", "from services.broker import api\n"),
    (command_line_reads_no_service, "opcod/x.py", "from services.broker.config import make_plan\n"),
    (command_line_reads_no_service, "opcod/x.py", "def f():\n    from services import trainer\n"),
    (command_line_reads_no_service, "opcod/x.py", "from services.inspector.ingest import Ingest\n"),
    (pure_folders_have_no_edge, "services/broker/machine/rounds.py", "from shared.bus.port import Bus\n"),
    (pure_folders_have_no_edge, "services/broker/exchange/judging.py", "import httpx2\n"),
    (pure_folders_have_no_edge, "services/trainer/step/step.py", "def f():\n    from pathlib import Path\n"),
    (pure_folders_have_no_edge, "shared/method/gating.py", "from shared import files\n"),
    (no_pickle, "services/trainer/model/model.py", "import pickle\n"),
    (no_pickle, "services/trainer/model/model.py", "import torch\nx = torch.load('a.pt')\n"),
    (no_code_of_a_model, "shared/modeling/x.py", "AutoTokenizer.from_pretrained(path, local_files_only=True)\n"),
    (no_code_of_a_model, "opcod/x.py", "AutoModel.from_config(config, trust_remote_code=True)\n"),
    (no_code_of_a_model, "tests/unit/test_x.py", "type(model).from_pretrained(path, **options)\n"),
    (has_docstring, "shared/http/app.py", "x = 1\n" * 21),
    (short_or_with_reason, "tests/unit/test_x.py", '"""A file."""\n' + "x = 1\n" * 400),
    (broad_except_has_reason, "opcod/main.py", "try:\n    f()\nexcept Exception:\n    pass\n"),
    (
        broad_except_has_reason,
        "opcod/main.py",
        "try:\n    f()\nexcept (OSError, Exception):  # noqa: BLE001\n    pass\n",
    ),
    (broad_except_has_reason, "opcod/main.py", "try:\n    f()\nexcept:\n    pass\n"),
    (broad_except_has_reason, "opcod/main.py", "with contextlib.suppress(Exception):\n    f()\n"),
    (terminal_text_is_no_markup, "opcod/commands/x.py", "console = Console(stderr=True)\n"),
    (terminal_text_is_no_markup, "opcod/x.py", "rich.progress.TextColumn('{task.description}', markup=True)\n"),
    (terminal_text_is_no_markup, "opcod/x.py", "table.add_row(Text.from_markup('[b]x'))\n"),
    (telling_name, "shared/utils/text.py", ""),
    (telling_name, "shared/helpers.py", ""),
    (nothing_left_to_do, "shared/http/app.py", f"x = 1  # {UNFINISHED}: more\n"),
]

KEPT: list[tuple[Rule, str, str]] = [
    (model_libraries_only_in_modeling, "shared/modeling/chat.py", "import torch\n"),
    (model_libraries_only_in_modeling, "services/trainer/step/step.py", "import torch\n"),
    (services_never_meet, "services/student/app.py", "from services.student import api\nfrom shared import http\n"),
    (services_never_meet, "services/student/engines/port.py", "from . import sampling\nfrom ..api import StudentApi\n"),
    (command_line_reads_no_service, "opcod/x.py", "from services.inspector.store.store import Store\n"),
    (command_line_reads_no_service, "services/broker/app.py", "from services.broker.config import make_plan\n"),
    (pure_folders_have_no_edge, "services/broker/machine/rounds.py", "from shared.bus.keys import ROLLOUT\n"),
    (pure_folders_have_no_edge, "services/broker/runner.py", "from shared.bus.port import Bus\n"),
    (no_code_of_a_model, "shared/modeling/x.py", "AutoConfig.from_pretrained(path, trust_remote_code=False)\n"),
    (no_code_of_a_model, "shared/modeling/x.py", "GenerationConfig.from_pretrained(path)\n"),
    (has_docstring, "shared/http/app.py", "x = 1\n" * 20),
    (short_or_with_reason, "shared/x.py", '"""More than 400 lines: one table."""\n' + "x = 1\n" * 400),
    (
        broad_except_has_reason,
        "opcod/main.py",
        "try:\n    f()\nexcept Exception:  # noqa: BLE001 - process boundary\n    pass\n",
    ),
    (broad_except_has_reason, "opcod/main.py", "try:\n    f()\nexcept Exception:\n    tell()\n    raise\n"),
    (terminal_text_is_no_markup, "opcod/x.py", "console = Console(markup=False)\nText('[/x]')\n"),
    (terminal_text_is_no_markup, "tests/unit/test_x.py", "Console(quiet=True)\n"),
]


def sources() -> list[Path]:
    return sorted(path for top in (*PRODUCT, "tests") for path in (ROOT / top).rglob("*.py"))


@cache
def faults() -> dict[Rule, list[str]]:
    """By rule, file after file, so that each is parsed once."""
    found: dict[Rule, list[str]] = {rule: [] for rule in RULES}
    for path in sources():
        relative, text = PurePosixPath(path.relative_to(ROOT).as_posix()), path.read_text()
        for rule, told in found.items():
            told += [f"{relative}: {fault}" for fault in rule(relative, text)]
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_source_keeps_the_rule(rule: Rule) -> None:
    assert not faults()[rule], "\n".join([rule.__doc__ or rule.__name__, *faults()[rule]])


@pytest.mark.parametrize(("rule", "path", "text"), BROKEN, ids=lambda value: getattr(value, "__name__", None))
def test_rule_sees_what_breaks_it(rule: Rule, path: str, text: str) -> None:
    assert list(rule(PurePosixPath(path), text))


@pytest.mark.parametrize(("rule", "path", "text"), KEPT, ids=lambda value: getattr(value, "__name__", None))
def test_rule_lets_pass_what_keeps_it(rule: Rule, path: str, text: str) -> None:
    assert not list(rule(PurePosixPath(path), text))


def classes_by_name(texts: dict[str, str]) -> dict[str, list[str]]:
    """By name, the files that define such a class."""
    found: dict[str, list[str]] = {}
    for path, text in texts.items():
        for name in {node.name for node in nodes(text) if isinstance(node, ast.ClassDef)}:
            found.setdefault(name, []).append(path)
    return found


def test_a_class_name_means_one_thing() -> None:
    product = [path for path in sources() if path.relative_to(ROOT).parts[0] in PRODUCT]
    found = classes_by_name({path.relative_to(ROOT).as_posix(): path.read_text() for path in product})
    twice = {name: where for name, where in found.items() if len(where) > 1}
    assert not twice, f"name the lesser of them otherwise: {twice}"


def test_class_names_are_read_inside_others_too() -> None:
    texts = {"a.py": "class Row: ...\n", "b.py": "def f():\n    class Row: ...\n", "c.py": "class Rows: ...\n"}
    assert classes_by_name(texts) == {"Row": ["a.py", "b.py"], "Rows": ["c.py"]}


def test_every_rule_is_tried() -> None:
    assert {rule for rule, _, _ in BROKEN} == set(RULES)
    assert len(sources()) > 100


@pytest.mark.parametrize("package", ["services", "shared", "opcod"])
def test_packages_come_from_this_tree(package: str, tmp_path: Path) -> None:
    """From anywhere, without the working directory or PYTHONPATH: another installed `shared` would win there."""
    code = f"import {package}; print({package}.__file__)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{package} is not installed here (pip install -e .): {done.stderr}"
    assert Path(done.stdout.strip()).parent == ROOT / package


@pytest.mark.parametrize(
    "module", ["opcod.main", "opcod.local.launcher", "opcod.local.embedded_redis", "services.inspector.config"]
)
def test_what_serves_nothing_loads_no_web_framework(module: str, tmp_path: Path) -> None:
    """It takes 0.4 s of each command and 30 MB of each process."""
    code = f"import sys, {module}; sys.exit(', '.join({{'fastapi', 'uvicorn'}} & sys.modules.keys()) or 0)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
