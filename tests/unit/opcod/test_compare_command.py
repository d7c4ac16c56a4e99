"""`opcod compare` around its runs: what is refused, what is read, what is shared. No run is started here."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from opcod.planning import disk
from opcod.planning.disk import disk_needs
from opcod.prepare.run_directory import pin_problems
from opcod.report.comparing import ComparedRun, Source, check_runs, figures_of, outlook, plan_runs, share_initial_scores
from shared.config.loading import load_settings, to_toml
from shared.config.settings import Paths, RunSettings
from shared.contracts.run import INITIAL_SCORES_FILE, STATE_FILE
from shared.errors import ConfigError, OpcodError, StorageError
from shared.problems.pinned import PROBLEMS_FILE
from shared.results.comparison import METHODS, Comparison, parse_methods, parse_seeds
from shared.results.report import build_report
from tests.fakes.final_state import final_state
from tests.unit.opcod.test_commands import SCRIPTED, Opcod, opcod, runs

__all__ = ["opcod", "runs"]

SOME = ("opcod", "grpo", "always")


def planned(runs: Path, *overrides: str, methods: tuple[str, ...] = SOME, seeds: int = 2) -> list[ComparedRun]:
    source = Source("compare-mini", None, [*SCRIPTED[1::2], *overrides])
    return plan_runs("mini", methods, range(seeds), source, runs, runs)


def begin(run: ComparedRun) -> Path:
    run.paths.run_dir.mkdir(parents=True)
    (run.paths.run_dir / "config.toml").write_text(to_toml(run.settings))
    return run.paths.run_dir


def finish(run: ComparedRun, **changes: Any) -> None:
    """As a finished run leaves it."""
    begin(run)
    write_report(run.paths, run.settings, **changes)


def write_report(paths: Paths, settings: RunSettings, **changes: Any) -> None:
    report = build_report(final_state(run=paths.run, **changes), settings, {}, 100.0, {})
    (paths.run_dir / "report").mkdir()
    (paths.run_dir / "report" / "report.json").write_text(report.model_dump_json())


def test_runs_go_seed_by_seed_and_each_has_its_methods_settings(runs: Path) -> None:
    found = planned(runs)
    names = [f"mini-{method}-s{seed}" for seed in range(2) for method in SOME]
    assert [run.paths.run for run in found] == names
    modes = {"opcod": ("opcod", "cognizance"), "grpo": ("grpo", "never"), "always": ("opcod", "always")}
    assert [(run.settings.run.method, run.settings.gate_mode) for run in found] == [modes[m] for m in SOME] * 2
    assert [run.settings.run.seed for run in found] == [0, 0, 0, 1, 1, 1]


def test_rivals_differ_from_the_preset_by_what_makes_them(runs: Path) -> None:
    found = planned(runs, methods=("grpo", "grpo-anchored", "hacpo"), seeds=1)
    wanted = [("grpo", 0.0), ("grpo", 0.04), ("hacpo", 0.0)]
    assert [(run.settings.run.method, run.settings.grpo.anchor) for run in found] == wanted
    assert {run.settings.gate_mode for run in found} == {"never"}
    assert len({(run.settings.problems, run.settings.rollout, run.settings.optimizer) for run in found}) == 1


def test_sdpo_and_never_are_run_once(runs: Path) -> None:
    assert [run.method for run in planned(runs, methods=("opcod", "sdpo", "never"), seeds=1)] == ["opcod", "sdpo"]
    assert [run.method for run in planned(runs, methods=("never", "sdpo"), seeds=1)] == ["never"]


def test_a_run_that_is_there_under_the_other_name_is_taken(runs: Path) -> None:
    begin(planned(runs, methods=("never",))[1])
    assert [run.paths.run for run in planned(runs, methods=("sdpo", "never"))] == ["mini-sdpo-s0", "mini-never-s1"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--methods", "opcod,grop"), "unknown method 'grop' (did you mean 'grpo'?)"),
        (("--methods", "opcod,opcod"), "expected different methods"),
        (("--methods", ","), "expected different methods"),
        (("--seeds", "0"), "expected how many (3: seeds 0, 1 and 2), or which"),
        (("--seeds", "1001"), "or which (1000-1007, or 0-3,7; one is 7-7), at most 100"),
        (("--seeds", "1000-1007,1003"), "100 different ones, got '1000-1007,1003'"),
        (("--name", "../x"), "--name: expected letters"),
        (("--preset", "lptop"), "unknown preset 'lptop' (did you mean 'laptop'?)"),
        (("--set", "run.seed=3"), "--set run.seed: `opcod compare` sets it itself"),
        (("--set", "gate.mode=never"), "use --methods and --seeds"),
        (("--methods", "opcod", "--set", "gate.tau=-1"), "gate.tau"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(
    opcod: Opcod, runs: Path, arguments: tuple[str, ...], said: str
) -> None:
    code, _, error = opcod("compare", *arguments)
    assert (code, said in error) == (2, True), error
    assert not runs.exists()


def test_a_file_s_name_is_taken_as_a_run_s(opcod: Opcod, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "my run.toml").write_text(to_toml(load_settings(preset="laptop", environ={})))
    code, _, error = opcod(
        "compare",
        "--config",
        str(tmp_path / "my run.toml"),
        "--set",
        "resources.min_free_disk_bytes=1000000000000000000",
    )
    assert code == 2 and "GB free" in error and "--name" not in error, error
    assert not runs.exists()


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("3", (0, 1, 2)), ("1000-1003", (1000, 1001, 1002, 1003)), (" 7, 0-2", (7, 0, 1, 2)), ("5-5", (5,)), ("5,", None)]
    + [(text, None) for text in ("", "-1", "3-1", "0-", "1.5", "a", "0-999999999", "1,1", "²")],
)
def test_seeds_are_a_number_of_them_or_ranges(text: str, seeds: tuple[int, ...] | None) -> None:
    if seeds is not None:
        assert parse_seeds(text) == seeds
    else:
        with pytest.raises(ConfigError, match="--seeds: expected how many"):
            parse_seeds(text)


def test_a_run_with_other_settings_is_refused_before_anything_starts(runs: Path) -> None:
    begin(planned(runs, "gate.tau=0.3")[2])
    with pytest.raises(ConfigError, match=r"mini-always-s0: (.|\n)*gate\.tau: 0\.3 -> 0\.2(.|\n)*another --name"):
        check_runs(planned(runs))


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_of_other_problems_is_refused_before_anything_starts(runs: Path, finished: bool) -> None:
    found = planned(runs)
    run = found[2]
    finish(run) if finished else begin(run)
    pin_problems(run.paths, run.settings)
    check_runs(found)
    file = run.paths.run_dir / PROBLEMS_FILE
    told = json.loads(file.read_text())
    file.write_text(json.dumps(told | {"content_hash": "0" * 64}))
    with pytest.raises(ConfigError, match=r"mini-always-s0: run \S+ was begun with other problems(.|\n)*--name"):
        check_runs(found)


def test_a_run_that_is_to_go_on_needs_room_and_one_that_is_only_read_needs_none(runs: Path) -> None:
    going_on, read = planned(runs, f"resources.min_free_disk_bytes={10**18}")[:2]
    finish(read)
    check_runs([read])
    begin(going_on)
    with pytest.raises(ConfigError, match=r"expected 1000000000\.0 GB free"):
        check_runs([going_on])


def test_runs_that_together_have_no_room_are_refused_before_the_first(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = planned(runs)
    [need] = disk_needs([(found[0].paths, found[0].settings)])
    monkeypatch.setattr(disk, "free_under", lambda _: need.bytes)
    check_runs(found[:1])
    with pytest.raises(ConfigError, match=r"expected [\d.]+ GB free under \S+ for 2 runs, found"):
        check_runs(found[:2])


def test_how_much_is_to_come_is_said_before_the_first_run(runs: Path) -> None:
    laptop = Source("laptop", None, ())
    nine = plan_runs("laptop", ("opcod", "sdpo", "grpo"), range(3), laptop, runs, runs)
    assert re.fullmatch(
        r"9 runs, one after the other: 1 h 03 min to 1 h 48 min on two CPU cores; on \d+\.\d GB of disk at most",
        outlook(nine, laptop) or "",
    )
    found, other = planned(runs), Source("compare-mini", None, ())
    assert "6 runs, one after the other: how long each takes its page says" in (outlook(found, other) or "")
    for run in found[:-1]:
        finish(run)
    assert (outlook(found, other) or "").startswith("one run: about 2 min, as long as those that are finished took; on")
    finish(found[-1])
    assert outlook(found, other) is None


CALLED = ("compare", "--name", "mini", "--preset", "compare-mini", "--methods", "opcod", "--seeds", "3", *SCRIPTED)


def test_a_run_that_failed_is_left_out_and_named_and_the_next_ones_are_made(
    opcod: Opcod, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(paths: Paths, settings: RunSettings, *_: object, **__: object) -> int:
        if paths.run == "mini-opcod-s1":
            raise OpcodError("the run stands: aborted by hand")
        write_report(paths, settings)
        return 0

    monkeypatch.setattr("opcod.commands.compare.train", made)
    code, out, error = opcod(*CALLED)
    assert (code, "is without 1:\n  mini-opcod-s1: the run stands: aborted by hand" in error) == (1, True), error
    assert "remove or rename" in error and "3 runs, one after the other: " in out.partition("begins")[0]
    assert "[3 of 3] mini-opcod-s2: begins" in out
    comparison = Comparison.model_validate_json((runs / "mini" / "compare.json").read_bytes())
    assert comparison.methods[0].cells[0].after.values == {0: 0.75, 2: 0.75}


def test_a_disk_that_filled_up_ends_a_comparison_before_the_next_run(
    opcod: Opcod, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(paths: Paths, settings: RunSettings, *_: object, **__: object) -> int:
        write_report(paths, settings)
        monkeypatch.setattr(disk, "free_under", lambda _: 10**6)
        return 0

    monkeypatch.setattr("opcod.commands.compare.train", made)
    code, _, error = opcod(*CALLED)
    assert (code, "found 0.0 GB" in error) == (2, True), error
    assert not (runs / "mini-opcod-s1").exists() and (runs / "mini" / "compare.md").exists()


def test_methods_without_tutors_take_a_preset_whose_gate_is_open(runs: Path) -> None:
    for method in METHODS:
        (run,) = planned(runs, "gate.mode=always", methods=(method,), seeds=1)
        assert run.settings.gate_mode == {"always": "always", "domain_selective": "domain_selective"}.get(
            method, "cognizance" if method == "opcod" else "never"
        )


def test_settings_unknown_when_a_run_began_count_with_their_defaults(runs: Path) -> None:
    run = planned(runs)[0]
    file = begin(run) / "config.toml"
    text = file.read_text()
    assert "max_skipped_updates = 3\n" in text
    file.write_text(text.replace("max_skipped_updates = 3\n", ""))
    check_runs([run])


def test_a_run_of_the_comparisons_name_is_refused(opcod: Opcod, runs: Path) -> None:
    (runs / "laptop").mkdir(parents=True)
    (runs / "laptop" / "config.toml").write_text("")
    code, _, error = opcod("compare", "--methods", "opcod")
    assert (code, "laptop is a run" in error) == (2, True), error


def test_finished_runs_are_read_and_compared(opcod: Opcod, runs: Path) -> None:
    for run in planned(runs):
        finish(run)
    code, out, error = opcod(
        "compare", "--name", "mini", "--preset", "compare-mini", "--methods", ",".join(SOME), "--seeds", "2", *SCRIPTED
    )
    assert code == 0, error
    assert out.count("finished already, read") == 6
    assert "no difference is shown" in out
    comparison = Comparison.model_validate_json((runs / "mini" / "compare.json").read_bytes())
    assert comparison.finished
    assert [method.cells[0].after.values for method in comparison.methods] == [{0: 0.75, 1: 0.75}] * 3
    assert (runs / "mini" / "compare.md").read_text().startswith("# Comparison mini\n")
    for picture in ("scores", "changes", "differences"):
        assert (runs / "mini" / f"{picture}.png").read_bytes().startswith(b"\x89PNG")


def test_a_report_of_another_version_is_read_as_far_as_it_is_needed(runs: Path) -> None:
    run = planned(runs)[0]
    finish(run)
    file = run.paths.run_dir / "report" / "report.json"
    report = json.loads(file.read_text())
    del report["diagnostics"]
    file.write_text(json.dumps(report | {"new": 1}))
    assert figures_of(run) is not None
    file.write_text("{}")
    with pytest.raises(StorageError, match=r"report\.json"):
        figures_of(run)


@pytest.mark.parametrize("status", ["TRAINING", "FAILED"])
def test_an_unfinished_run_is_not_read(runs: Path, status: str) -> None:
    run = planned(runs)[0]
    finish(run, status=status)
    assert figures_of(run) is None


def test_initial_scores_are_shared_within_a_seed(runs: Path) -> None:
    found = planned(runs)
    first, second, _, other_seed, *_ = found
    (begin(first) / INITIAL_SCORES_FILE).write_text("scores")
    begin(second)
    begin(other_seed)
    assert share_initial_scores(second, found) == "mini-opcod-s0"
    assert (second.paths.run_dir / INITIAL_SCORES_FILE).read_text() == "scores"
    assert share_initial_scores(other_seed, found) is None
    assert share_initial_scores(first, found) is None


def test_a_run_that_has_begun_is_given_nothing(runs: Path) -> None:
    found = planned(runs)
    (begin(found[0]) / INITIAL_SCORES_FILE).write_text("scores")
    (begin(found[1]) / STATE_FILE).write_text("{}")
    assert share_initial_scores(found[1], found) is None
    assert not (found[1].paths.run_dir / INITIAL_SCORES_FILE).exists()


def test_all_methods_are_known_and_kept_in_order() -> None:
    assert parse_methods(" grpo, opcod,sdpo") == ["grpo", "opcod", "sdpo"]
    assert parse_methods(",".join(METHODS)) == list(METHODS)
