"""The command line: what is wrong is said in one message with exit code 2, and nothing is half-written."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import typer

from opcod.main import app
from shared.config.loading import load_settings, to_toml
from shared.contracts.run import STATE_FILE
from shared.errors import StoppedError
from tests.fakes.command import call_opcod

FULL = Path("/dev/full")
SCRIPTED = ("--set", "students.a.engine=scripted", "--set", "students.b.engine=scripted")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def opcod(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> "Opcod":
    return Opcod(runs, tmp_path, monkeypatch, capsys)


class Opcod:
    """Calls `opcod`, in this process, as a shell would; returns (exit code, stdout, stderr)."""

    def __init__(
        self, runs: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self._places = ["--runs-dir", str(runs), "--cache-dir", str(cache)]
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: str, places: bool = True) -> tuple[int, str, str]:
        code = call_opcod(self._monkeypatch, *arguments, *(self._places if places else ()))
        said = self._capsys.readouterr()
        return code, said.out, said.err


def begun(runs: Path, name: str, *overrides: str) -> None:
    """A run that was begun with the smoke preset and scripted students."""
    settings = load_settings(preset="smoke", overrides=[*SCRIPTED[1::2], *overrides], environ={})
    (runs / name).mkdir(parents=True)
    (runs / name / "config.toml").write_text(to_toml(settings))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--preset", "smok"), "unknown preset 'smok' (did you mean 'smoke'?)"),
        (("--set", "gate.tau=-1"), "gate.tau: Input should be greater than or equal to 0, got -1"),
        (("--set", "gate.tua=1"), "did you mean 'tau'?"),
        (("--set", "problems.per_step=0"), "problems.per_step: Input should be greater than or equal to 1, got 0"),
        (("--set", "problems.per_step=5000"), "a step would need"),
        (("--set", "students.B.domain=physics"), "expected students named by a small letter"),
        (
            ("--set", "students.b.domain=material"),
            "expected domains that are generated (physics, chemistry, biology), got physics, material",
        ),
        (("--set", "problems.source=/nowhere/at/all"), "/nowhere/at/all"),
        (("--config", "/nowhere/c.toml"), "expected a TOML file at /nowhere/c.toml"),
        (("--run", "../outside"), "'../outside'"),
        (("--run", "two words"), "'two words'"),
        (("--resume", "unknown"), "expected a run at"),
        ((*SCRIPTED, "--set", "resources.min_free_disk_bytes=1000000000000000000"), "GB free"),
        (("--sett", "x"), "--sett"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(
    opcod: Opcod, runs: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    code, _, error = opcod("run", *arguments)
    assert (code, said in error) == (2, True), error
    assert "Traceback" not in error
    assert not runs.exists()
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("option", ["--runs-dir", "--cache-dir"])
def test_a_place_that_is_a_file_is_refused_by_its_option(opcod: Opcod, tmp_path: Path, option: str) -> None:
    file = tmp_path / "file"
    file.touch()
    places = {"--runs-dir": str(tmp_path / "runs"), "--cache-dir": str(tmp_path)} | {option: str(file / "below")}
    code, _, said = opcod("run", *SCRIPTED, *(word for place in places.items() for word in place), places=False)
    assert (code, f"{option}: expected a directory that can be written to, {file} is none" in said) == (2, True), said


def test_a_run_without_the_vllm_that_it_wants_is_refused(opcod: Opcod, runs: Path, tmp_path: Path) -> None:
    wanted = ("--preset", "mixed", "--set", f"students.b.vllm.python={tmp_path / 'none'}")
    code, _, said = opcod("run", *wanted)
    assert code == 2 and "`make vllm-cpu`" in said and not runs.exists()


def test_a_second_run_of_the_same_name_is_refused(opcod: Opcod, runs: Path) -> None:
    begun(runs, "r1")
    before = (runs / "r1/config.toml").read_text()
    code, _, error = opcod("run", "--run", "r1", "--preset", "smoke", "--set", "run.seed=9", *SCRIPTED)
    assert code == 2
    assert "holds a run already; go on with `opcod run --resume r1`" in error
    assert (runs / "r1/config.toml").read_text() == before
    assert [path.name for path in (runs / "r1").iterdir()] == ["config.toml"]


@pytest.mark.parametrize("command", [("run", "--resume"), ("up",), ("ask", "Why?", "--run")])
def test_a_run_keeps_its_settings_and_shows_what_differs(opcod: Opcod, runs: Path, command: tuple[str, ...]) -> None:
    """Against the run's own settings, not against those of a preset that it was not begun with."""
    begun(runs, "r1", "run.seed=3")
    code, _, error = opcod(*command, "r1", "--set", "run.seed=4", "--set", "gate.mode=always")
    assert code == 2
    assert error.splitlines()[1:] == ["  run.seed: 3 -> 4"]
    assert [path.name for path in (runs / "r1").iterdir()] == ["config.toml"]


@pytest.mark.parametrize("command", [("run", "--resume"), ("up",), ("ask", "Why?", "--run"), ("weights", "list")])
def test_a_run_that_is_not_there_is_told_beside_those_that_are(
    opcod: Opcod, runs: Path, command: tuple[str, ...]
) -> None:
    begun(runs, "r1")
    code, _, error = opcod(*command, "r2", "--runs-dir", str(runs), places=False)
    assert (code, "r2, found none; the runs there: r1\n" in error) == (2, True), error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--first", "z"), "--first: expected one of a, b, got 'z'"),
        (("--tutor", "z"), "--tutor: expected one of a, b, got 'z'"),
        (("--tutor", "a"), "--tutor: expected another student than a, which answers"),
        (("--tutor", "b", "--first", "b"), "--tutor: expected another student than b, which answers"),
    ],
)
def test_a_question_to_nobody_starts_no_service(opcod: Opcod, runs: Path, words: tuple[str, ...], said: str) -> None:
    begun(runs, "r1")
    code, _, error = opcod("ask", "Why?", "--run", "r1", *words)
    assert (code, error) == (2, f"error: {said}\n")
    assert [path.name for path in (runs / "r1").iterdir()] == ["config.toml"]


def test_another_preset_differs_in_more(opcod: Opcod, runs: Path) -> None:
    begun(runs, "r1")
    code, _, error = opcod("run", "--resume", "r1", "--preset", "laptop")
    assert code == 2
    assert "rollout.max_tokens: 16 ->" in error


def test_who_shares_a_gpu_is_said_before_services_start(
    opcod: Opcod, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No service starts, as no Redis answers there."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    begun(runs, "r1", "bus.url=redis://127.0.0.1:9", "bus.deadline_s=0.2")
    code, said, error = opcod("run", "--resume", "r1")
    assert "note: trainer-a and trainer-b share GPU 0, and so its memory" in said
    assert (code, "did not answer" in error) == (69, True), error


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is used here: tests/gpu")
def test_a_gpu_that_torch_does_not_see_is_said_before_anything_is_made(
    opcod: Opcod, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    code, _, error = opcod("run", "--preset", "smoke", "--run", "r1")
    assert (code, "CUDA_VISIBLE_DEVICES=0 gives one, but torch" in error) == (2, True), error
    assert not (runs / "r1").exists()


@pytest.mark.parametrize("command", [("status",), ("feedback", "tail")])
@pytest.mark.parametrize("option", ["--preset", "--config", "--set"])
def test_what_only_looks_at_a_run_takes_no_settings(opcod: Opcod, command: tuple[str, ...], option: str) -> None:
    code, _, error = opcod(*command, option, "x", places=False)
    assert (code, "No such option" in error) == (2, True), error


@pytest.mark.parametrize("command", ["status", "feedback"])
def test_nothing_up_is_exit_code_69(opcod: Opcod, runs: Path, command: str) -> None:
    words = ["feedback", "tail"] if command == "feedback" else [command]
    code, _, error = opcod(*words, "--runs-dir", str(runs), places=False)
    assert (code, "no run is up" in error) == (69, True), error


SECRET = "sEcReT"


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (f"bus.url=redis://:{SECRET}@127.0.0.1:9", "bus.url: expected a URL without a password"),
        (f"bus.url=redis://127.0.0.1:9?password={SECRET}", "name that in bus.password_file"),
        (f"bus.url=redis://:{SECRET}/x@127.0.0.1:9", "percent-encode reserved characters"),
        (f"students.a.vllm.url=http://user:{SECRET}@127.0.0.1:9", "students.a.vllm.url: expected a URL without user"),
        (f'students.a.vllm.arguments=["--hf-token={SECRET}"]', "expected no --hf-token"),
        (f'students.a.vllm.environment={{HF_TOKEN="{SECRET}"}}', "expected no secret such as HF_TOKEN"),
    ],
)
@pytest.mark.parametrize("way", ["option", "environment", "file"])
@pytest.mark.parametrize("command", [("run", "--dry-run"), ("run",), ("up",), ("doctor",)], ids=" ".join)
def test_a_secret_among_the_settings_is_refused_and_shown_nowhere(
    opcod: Opcod,
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    way: str,
    setting: str,
    said: str,
) -> None:
    key, _, value = setting.partition("=")
    options: tuple[str, ...] = ()
    if way == "option":
        options = ("--set", setting)
    elif way == "environment":
        monkeypatch.setenv(f"OPCOD_SET_{key.replace('.', '__').upper()}", value)
        options = ("--preset", "smoke")
    else:
        file = tmp_path / "mine.toml"
        file.write_text(f"{key} = {value if value.startswith(('{', '[')) else repr(value)}\n", encoding="utf-8")
        options = ("--config", str(file))
    code, out, error = opcod(*command, *options)
    assert (code, said in error) == (2, True), error
    assert SECRET not in out + error
    assert not runs.exists()


@pytest.mark.parametrize("setting", [f"bus_url=redis://:{SECRET}@host", f"redis://:{SECRET}@host"])
def test_a_secret_in_what_is_no_setting_is_not_shown(opcod: Opcod, setting: str) -> None:
    code, out, error = opcod("run", "--dry-run", "--set", setting)
    assert (code, "expected section.key=value" in error) == (2, True), error
    assert SECRET not in out + error


def test_every_command_stands_in_a_group_of_the_help(opcod: Opcod) -> None:
    code, out, _ = opcod("--help", places=False)
    assert (code, "─ Train ─" in out, "─ Commands ─" in out) == (0, True, False), out


def test_the_version_is_told(opcod: Opcod) -> None:
    code, out, _ = opcod("--version", places=False)
    assert (code, out) == (0, f"opcod {version('opcod')}\n")


@pytest.mark.parametrize(
    "command", [("run", "--resume", "two"), ("up", "two"), ("eval", "--run", "two", "--student", "a")], ids=" ".join
)
def test_a_run_under_another_name_is_refused(opcod: Opcod, runs: Path, command: tuple[str, ...]) -> None:
    begun(runs, "two")
    (runs / "two" / STATE_FILE).write_text('{"run": "one", "round": 1}')
    before = sorted(path.name for path in (runs / "two").iterdir())
    code, _, error = opcod(*command)
    assert code == 2 and f"{runs / 'two'} holds the run 'one'" in error, error
    assert sorted(path.name for path in (runs / "two").iterdir()) == before


def test_serving_settings_without_a_run_begins_none_that_could_not_run(opcod: Opcod, runs: Path) -> None:
    code, _, error = opcod("up", "--preset", "smoke", "--set", "problems.per_step=5000", *SCRIPTED)
    assert (code, "a step would need" in error) == (2, True), error
    assert not runs.exists()


def test_asking_needs_a_run(opcod: Opcod) -> None:
    code, _, error = opcod("ask", "What voltage?")
    assert (code, "start one with `opcod run`" in error) == (2, True), error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ask", ""], "PROBLEM: String should have at least 1 character, got ''"),
        (["ask", " \t "], r"PROBLEM: String should have more than white space, got ' \t '"),
        (["ask", "a\udcff"], r"PROBLEM: expected text in UTF-8, got 'a\udcff'"),
        (["ask", "x", "--first", "\ud800"], r"--first: expected text in UTF-8, got '\ud800'"),
        (["feedback", "flag", "a.s1.p.0", ""], "REASON: String should have at least 1 character, got ''"),
        (["feedback", "flag", "a.s1.p.0", " "], "REASON: String should have more than white space, got ' '"),
        (["feedback", "exclude", "a.s1.p.0", "x" * 501], "REASON: String should have at most 500 characters, got 'xxx"),
        (["feedback", "silence", "\udcff", "r"], r"TUTOR: expected text in UTF-8, got '\udcff'"),
    ],
)
def test_what_cannot_be_sent_is_one_line_before_anything_is_looked_for(
    opcod: Opcod, words: list[str], said: str
) -> None:
    code, _, error = opcod(*words, places=False)
    assert (code, error.startswith(f"error: {said}"), error.count("\n")) == (2, True, 1), error
    assert len(error) < 200


@pytest.mark.parametrize(
    ("command", "option", "said"),
    [
        ("bundle", "filters", "Names: round, step, student, tutor, domain, verdict, problem_id"),
        ("feedback export", "filters", "Names: round, step, student, tutor, domain, verdict, problem_id"),
        ("feedback show", "as_json", "The exchange as JSON."),
        ("feedback tail", "as_json", "One JSON object a line."),
        ("weights prune", "keep_every", "0: none"),
        ("track", "to", "OTEL_EXPORTER_OTLP_ENDPOINT"),
    ],
)
def test_help_says_what_may_be_given(command: str, option: str, said: str) -> None:
    found = typer.main.get_command(app)
    for word in command.split():
        found = found.commands[word]  # type: ignore[attr-defined]
    [help_] = [each.help for each in found.params if each.name == option]  # type: ignore[attr-defined]
    assert said in help_


def test_problems_are_shown(opcod: Opcod) -> None:
    code, said, _ = opcod(
        "problems", "show", "--preset", "smoke", "--domain", "chemistry", "--count", "3", places=False
    )
    assert (code, said.count("answer: ")) == (0, 3)


def test_an_unknown_domain_is_refused(opcod: Opcod) -> None:
    code, _, error = opcod("problems", "show", "--preset", "smoke", "--domain", "biology", places=False)
    assert (code, "expected a domain of physics, chemistry" in error) == (2, True)


def test_a_run_of_a_file_has_its_name(
    opcod: Opcod, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> int:
        raise StoppedError("stopped before it began")

    monkeypatch.setattr("opcod.commands.run.train", stopped)
    (tmp_path / "mine.toml").write_text('extends = "smoke"')
    assert opcod("run", "--config", str(tmp_path / "mine.toml"), *SCRIPTED)[0] == 130
    [run_dir] = runs.iterdir()
    assert run_dir.name.startswith("mine-2")


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here, as Linux has it")
@pytest.mark.parametrize("arguments", [("--version",), ("problems", "show", "--preset", "smoke"), ("run", "--help")])
def test_output_that_goes_to_a_full_disk_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    # Closed without an error: nothing is left that Python would try to write at its end.
    with FULL.open("w", encoding="utf-8") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert call_opcod(monkeypatch, *arguments) == 74
    error = capsys.readouterr().err
    assert (error.startswith("error: expected to write the output"), error.count("\n")) == (True, 1), error
    assert "No space left on device" in error


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here, as Linux has it")
def test_what_a_command_logs_is_no_output_of_it_and_ends_nothing() -> None:
    app = "lambda: structlog.get_logger().warning('%s')"
    logs = f"import structlog; from opcod import main as it; it.app = {app}; it.main()"
    told = subprocess.run(
        [sys.executable, "-c", logs % "ended"], capture_output=True, text=True, timeout=60, check=True
    )
    assert told.stdout == "" and "ended" in told.stderr
    with FULL.open("w", encoding="utf-8") as full:
        subprocess.run([sys.executable, "-c", logs % "lost"], stdout=full, stderr=full, timeout=60, check=True)
