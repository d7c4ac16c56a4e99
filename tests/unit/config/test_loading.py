"""Settings: merge order, round trip through TOML, and errors that name key, expectation and value."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.config.loading import differences, load_settings, preset_names, read_toml, to_toml, validate
from shared.config.settings import RunSettings
from shared.errors import ConfigError


def loaded(*overrides: str, config: Path | None = None, **environ: str) -> RunSettings:
    return load_settings(preset="smoke", config=config, overrides=overrides, environ=environ)


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "more.toml"
    file.write_text("[gate]\ntau = 0.5\n[run]\nseed = 5\n")
    environ = {"OPCOD_SET_GATE__TAU": "0.6", "OPCOD_SET_RUN__SEED": "6"}
    assert loaded().gate.tau == 0.2
    assert loaded(config=file).gate.tau == 0.5
    assert loaded(config=file, **environ).gate.tau == 0.6
    last = loaded("gate.tau=0.7", config=file, **environ)
    assert (last.gate.tau, last.run.seed) == (0.7, 6)
    assert last.problems == loaded().problems, "what nobody else names comes from the preset"


def test_ranks_have_a_variable_of_their_own() -> None:
    assert loaded(OPCOD_RANKS="2").trainer.ranks == 2
    assert loaded("trainer.ranks=3", OPCOD_RANKS="2").trainer.ranks == 3
    assert loaded(OPCOD_RANKS="").trainer.ranks == 1
    with pytest.raises(ConfigError, match=r"trainer\.ranks: .*, got 0"):
        loaded(OPCOD_RANKS="0")


def test_of_two_overrides_the_last_wins() -> None:
    assert loaded("run.seed=1", "run.seed=2").run.seed == 2


def test_the_name_of_a_servers_variable_keeps_its_letters() -> None:
    below = "OPCOD_SET_STUDENTS__A__VLLM__ENVIRONMENT__"
    told = {f"{below}NCCL_SOCKET_IFNAME": "eth1", f"{below}My__Name": "x"}
    found = load_settings(preset="smoke", environ=told)
    assert found.students["a"].vllm.environment == {"NCCL_SOCKET_IFNAME": "eth1", "My__Name": "x"}
    whole = loaded(OPCOD_SET_STUDENTS__A__VLLM__ENVIRONMENT='{NCCL_DEBUG="INFO"}')
    assert whole.students["a"].vllm.environment == {"NCCL_DEBUG": "INFO"}


def test_variables_of_others_are_not_settings() -> None:
    assert loaded(OPCOD_RUN="r", OPCOD_SETTINGS="x", PATH="/bin") == loaded()


@pytest.mark.parametrize("variable", ["OPCOD_SET_RUN_SEED", "OPCOD_SET_", "OPCOD_SET___SEED", "OPCOD_SET_RUN__"])
def test_a_variable_that_names_no_setting_is_named_itself(variable: str) -> None:
    expected = f"{variable}: expected OPCOD_SET_SECTION__KEY, with two underscores between"
    with pytest.raises(ConfigError, match=expected):
        load_settings(preset="smoke", environ={variable: "1"})


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("loss.top_k=all", "loss", "top_k", "all"),
        ("loss.top_k=7", "loss", "top_k", 7),
        ("trainer.recompute=auto", "trainer", "recompute", "auto"),
        ("trainer.deterministic=true", "trainer", "deterministic", True),
        ("problems.balance_domains=false", "problems", "balance_domains", False),
        ("evaluation.test_problems=none", "evaluation", "test_problems", None),
        ("optimizer.offload=none", "optimizer", "offload", "none"),
        ("problems.source=/a b/c", "problems", "source", "/a b/c"),
        (" run.seed = 3 ", "run", "seed", 3),
    ],
)
def test_values_are_toml_or_else_plain_strings(override: str, section: str, key: str, value: object) -> None:
    assert getattr(getattr(loaded(override), section), key) == value


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_survives_a_round_trip(preset: str, tmp_path: Path) -> None:
    settings = load_settings(preset=preset, environ={})
    (tmp_path / "config.toml").write_text(to_toml(settings))
    assert validate(read_toml(tmp_path / "config.toml")) == settings


@pytest.mark.parametrize(
    ("preset", "base", "changed"),
    [
        ("chem-mat", "phys-chem", ["students.a.domain", "students.b.domain"]),
        ("baseline-sdpo", "phys-chem", ["run.method"]),
        ("baseline-hacpo", "phys-chem", ["run.method"]),
        (
            "laptop-chem-bio",
            "laptop",
            ["gate.tau", "students.a.domain", "students.a.unknown_kinds", "students.b.domain"],
        ),
        ("laptop-bio-phys", "laptop", ["students.a.domain", "students.a.unknown_kinds", "students.b.domain"]),
    ],
)
def test_a_preset_that_extends_another_differs_where_it_says_so(preset: str, base: str, changed: list[str]) -> None:
    own, below = (load_settings(preset=name, environ={}) for name in (preset, base))
    assert [line.split(":")[0] for line in differences(below, own)] == changed


def test_a_file_may_extend_a_preset_and_be_overridden(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('extends = "mat-phys"\n[run]\nseed = 3\n')
    settings = load_settings(config=file, overrides=["run.rounds=1"], environ={})
    assert (settings.run.seed, settings.run.rounds, settings.run.steps_per_round) == (3, 1, 20)
    assert settings.students["a"].domain == "material"


def test_a_file_unsets_what_its_preset_sets(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('extends = "laptop"\n[students.a]\nchat_template = "none"\n')
    settings = load_settings(config=file, environ={})
    assert (settings.students["a"].chat_template, settings.students["b"].chat_template) == (None, "compact")


@pytest.mark.parametrize(
    ("first_line", "preset", "message"),
    [
        ('extends = "smoke"', "laptop", r"mine.toml: extends = 'smoke' names a preset, and so does --preset"),
        ('extends = "smok"', None, r"unknown preset 'smok' \(did you mean 'smoke'\?\)"),
        ("extends = 3", None, r"mine.toml: extends: expected the name of a preset, got 3"),
    ],
)
def test_what_cannot_be_extended_is_refused(tmp_path: Path, first_line: str, preset: str | None, message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(first_line)
    with pytest.raises(ConfigError, match=message):
        load_settings(preset=preset, config=file, environ={})


PAPER = {
    "problems.per_step": 32,
    "rollout.samples": 8,
    "rollout.temperature": 1.0,
    "rollout.top_p": 1.0,
    "rollout.max_tokens": 4096,
    "feedback.max_tokens": 1024,
    "evaluation.validation_samples": 16,
    "gate.tau": 0.2,
    "loss.alpha": 0.5,
    "loss.top_k": 100,
    "loss.tail": True,
    "loss.is_clip": 2.0,
    "optimizer.learning_rate": 1e-5,
    "optimizer.warmup_updates": 5,
    "optimizer.weight_decay": 0.01,
    "optimizer.clip_norm": 1.0,
    "optimizer.ema_rate": 0.05,
    "optimizer.mini_batches": 1,
}


@pytest.mark.parametrize(
    ("preset", "rounds", "steps", "domains"),
    [
        ("phys-chem", 2, 50, ("physics", "chemistry")),
        ("chem-mat", 2, 50, ("chemistry", "material")),
        ("mat-phys", 5, 20, ("material", "physics")),
    ],
)
def test_the_papers_runs_have_the_papers_settings(
    preset: str, rounds: int, steps: int, domains: tuple[str, str]
) -> None:
    settings = load_settings(preset=preset, environ={})
    assert (settings.run.rounds, settings.run.steps_per_round) == (rounds, steps)
    assert (settings.students["a"].domain, settings.students["b"].domain) == domains
    for key, value in PAPER.items():
        section, name = key.split(".")
        assert getattr(getattr(settings, section), name) == value, key


@given(
    source=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20),
    tau=st.floats(0, allow_infinity=False, allow_nan=False),
    top_k=st.one_of(st.integers(1, 10**9), st.just("all")),
)
def test_any_values_survive_a_round_trip(source: str, tau: float, top_k: int | str) -> None:
    tree = loaded().model_dump(mode="json")
    tree["problems"]["source"], tree["gate"]["tau"], tree["loss"]["top_k"] = source, tau, top_k
    settings = validate(tree)
    assert validate(tomllib.loads(to_toml(settings))) == settings


@pytest.mark.parametrize(
    ("override", "messages"),
    [
        ("gate.tau=-1", ["gate.tau", "greater than or equal to 0", "got -1"]),
        ("gate.tau=inf", ["gate.tau", "finite"]),
        ("problems.per_step=0", ["problems.per_step", "greater than or equal to 1", "got 0"]),
        ("gate.tua=1", ["unknown key gate.tua", "did you mean 'tau'?"]),
        ("gait.tau=1", ["unknown key gait", "did you mean 'gate'?"]),
        ("students.a.modell=x", ["unknown key students.a.modell", "did you mean 'model'?"]),
        ("students.c.model=x", ["students.c.domain: Field required"]),
        ("students.c.modle=x", ["unknown key students.c.modle", "did you mean 'model'?"]),
        ("students.C.domain=x", ["students: expected students named by a small letter", "got 'C'"]),
        ("students.a-b.domain=x", ["students: expected students named by a small letter", "got 'a-b'"]),
        (f"students.{'a' * 17}.domain=x", ["up to 15 more", f"got '{'a' * 17}'"]),
        ("students.peers.domain=x", ["students: expected another name than 'peers'"]),
        ("students.a=3", ["students.a: expected a section with the keys chat_template, domain", "got 3"]),
        ("trainer.recompute=yes", ["trainer.recompute: Input should be 'auto', True or False, got 'yes'"]),
        ("resources.gpus=3", ["resources.gpus: expected a table of names and values, got 3"]),
        ("students.a.vllm.environment=3", ["students.a.vllm.environment: expected a table of names and values, got 3"]),
        ("problems.source=", ["problems.source: expected a value, got an empty one", "`none`"]),
        ("gate.tau=  ", ["gate.tau: expected a value, got an empty one"]),
        ('problems.source=""', ["problems.source: expected at least 1 character, got ''"]),
        ('serving.host=""', ["serving.host: expected at least 1 character, got ''"]),
        ("gate.tau.x=1", ["'tau' is a value, not a section"]),
        ("grpo.dual_clip=1", ["grpo.dual_clip", "greater than 1"]),
        ("gate.mode=sometimes", ["gate.mode", "'cognizance', 'always', 'never' or 'domain_selective'"]),
        ("optimizer.mini_batches=3", ["optimizer.mini_batches: at most problems.per_step"]),
        ("problems.per_step=3", ["problems.per_step: expected a multiple of 2", "got 3"]),
        ("loss.top_k=0", ["loss.top_k", "got 0"]),
        ("tau=1", ["--set: expected section.key=value, got the key 'tau'"]),
        ("gate.tau", ["--set: expected section.key=value, got no `=` in it"]),
        ("students.a.vllm.environment=x", ["vllm.environment: expected a table of names and values, got 'x'"]),
        ("gate.=1", ["expected section.key=value"]),
        ("problems.source=a\0b", ["problems.source: expected text in UTF-8 without NUL, got 'a\\x00b'"]),
        ("problems.source=\udcff", ["problems.source: expected text in UTF-8 without NUL, got '\\udcff'"]),
        (f"gate.tau={'9' * 5000}", ["gate.tau"]),
        (f"gate.tau={'[' * 5000}", ["gate.tau", "got '[[[", "… (5,000 characters)"]),
    ],
)
def test_errors_name_key_expectation_and_value(override: str, messages: list[str]) -> None:
    settings = ("gate.tau=0.2", override) if override == "gate.tau.x=1" else (override,)
    with pytest.raises(ConfigError) as caught:
        loaded(*settings)
    assert [message for message in messages if message not in str(caught.value)] == []


def test_all_errors_are_listed_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        loaded("gate.tau=-1", "problems.per_step=0")
    assert len(str(caught.value).splitlines()) == 2


def test_of_many_errors_the_first_are_told_and_how_many_more_there_are() -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(*(f"gate.no{number}=1" for number in range(50)))
    lines = str(caught.value).splitlines()
    assert len(lines) == 9 and lines[-1] == "and 42 more"


def test_an_unknown_preset_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"unknown preset 'labtop' \(did you mean 'laptop'\?\)"):
        load_settings(preset="labtop", environ={})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is none"),
        ("[gate\n", "as TOML"),
        ("x = " + "9" * 5000, "as TOML"),
        ("x = " + "[" * 5000, "as TOML"),
        (b"\xff", "as UTF-8 text"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: str | bytes | None, message: str) -> None:
    file = tmp_path / "my.toml"
    if content is not None:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_settings(config=file, environ={})
    assert str(file) in str(caught.value)


def test_students_must_be_named() -> None:
    with pytest.raises(ConfigError, match="students: Field required"):
        load_settings(environ={})


def test_differences_name_what_changed() -> None:
    after = loaded("gate.tau=0.3", "evaluation.test_problems=none")
    assert differences(loaded(), after) == ["evaluation.test_problems: 4 -> None", "gate.tau: 0.2 -> 0.3"]
    assert differences(after, after) == []
