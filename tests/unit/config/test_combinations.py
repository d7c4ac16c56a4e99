"""Settings that contradict each other are refused, and the message names the one to change."""

import re

import pytest

from shared.config.loading import load_settings, validate
from shared.errors import ConfigError

TURNS = ["resources.turns=true", "students.a.engine=vllm", "students.b.engine=vllm"]
LONE = ["rollout.samples=1", "loss.demo_self_exclude=true"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["run.method=grpo"], "gate.mode: 'always' lets students tutor, run.method = 'grpo' has no tutors"),
        (["run.method=hacpo"], "gate.mode: 'always' lets students tutor, run.method = 'hacpo' has no tutors"),
        (
            ["run.method=hacpo", "gate.mode=never", "run.schedule=sequential"],
            "every step of a student waits for its peer's rollouts",
        ),
        (["run.method=hacpo", "gate.mode=never", "run.stream=true"], "set run.stream = false"),
        (
            ["run.method=grpo", "gate.mode=never", "grpo.anchor=0.04", "loss.teacher=trust_region"],
            "set loss.teacher = 'ema', or grpo.anchor = 0",
        ),
        (["run.method=sdpo", "gate.mode=domain_selective"], "gate.mode: 'domain_selective' lets students tutor"),
        (["gate.tutor_source=latest"], "set run.schedule = 'sequential'"),
        (["gate.hysteresis=0.3"], "gate.hysteresis: at most gate.tau"),
        (["feedback.prompt=naive"], "'naive' needs problems.format = 'mcq'"),
        (["run.weights=full", "students.b.engine=vllm"], "run.schedule = 'sequential', or students.b.engine"),
        (
            ["run.weights=full", *(f"students.{name}.engine=vllm" for name in "ab"), "students.a.replicas=2"],
            "set students.b.replicas = 2, a server each (docs/full-weights.md)",
        ),
        (
            [
                "run.weights=full",
                "run.schedule=sequential",
                "students.a.engine=vllm",
                "students.a.vllm.url=http://127.0.0.1:1",
            ],
            "students.a.vllm.url: full weights are exchanged by routes",
        ),
        (
            [
                "run.weights=full",
                "run.schedule=sequential",
                *(f"students.{name}.{each}" for name in "ab" for each in ("engine=vllm", "vllm.url=unix:/run/one")),
            ],
            "students.b.vllm.url: the server at unix:/run/one has room for one set of full weights",
        ),
        (["resources.turns=true"], "the engine of student a, 'transformers', cannot sleep while another process works"),
        ([*TURNS, "students.b.vllm.url=unix:/run/b"], "the server of student b at unix:/run/b is somebody else's"),
        (
            [*TURNS, "students.a.vllm.tensor_parallel_size=2"],
            "expected a server on one GPU, that of student a is split",
        ),
        ([*TURNS, "run.weights=full", "run.schedule=sequential"], "resources.turns: takes run.weights = 'lora'"),
        (
            [*TURNS, "trainer.ranks=2", "run.stream=true"],
            "resources.turns: takes run.stream = false and trainer.ranks = 1; set that, or resources.turns = false",
        ),
        (["run.method=sdpo", "gate.mode=never", *LONE], "rollout.samples: expected at least 2, got 1: nobody tutors"),
        (["gate.mode=never", *LONE], "set rollout.samples = 2 or more, or loss.demo_self_exclude = false"),
        (["specialize.sampling.samples=1"], "specialize.sampling.keep: at most specialize.sampling.samples"),
        (["run.weights=full", "loss.teacher=trust_region"], "set loss.teacher = 'ema', or run.weights = 'lora'"),
    ],
)
def test_contradictions_are_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        load_settings(preset="smoke", overrides=overrides, environ={})


@pytest.mark.parametrize(
    "one_way",
    [
        ["gate.mode=always"],
        ["gate.mode=cognizance"],
        ["gate.mode=never", "rollout.samples=2"],
        ["gate.mode=never", "loss.demo_self_exclude=false"],
        ["gate.mode=never", "run.method=grpo"],
    ],
)
def test_a_lone_rollout_is_taken_where_something_can_be_learnt_from_it(one_way: list[str]) -> None:
    load_settings(preset="smoke", overrides=[*LONE, *one_way], environ={})


@pytest.mark.parametrize("engine", ["vllm", "scripted"])
def test_engines_that_can_sleep_take_turns(engine: str) -> None:
    overrides = [*TURNS, *(f"students.{name}.engine={engine}" for name in "ab")]
    assert load_settings(preset="smoke", overrides=overrides, environ={}).resources.turns


@pytest.mark.parametrize("method", ["sdpo", "grpo", "hacpo"])
@pytest.mark.parametrize("mode", ["cognizance", "never"])
def test_in_a_baseline_nobody_tutors(method: str, mode: str) -> None:
    settings = load_settings(preset="smoke", overrides=[f"run.method={method}", f"gate.mode={mode}"], environ={})
    assert settings.gate_mode == "never"
    assert load_settings(preset="smoke", overrides=[f"gate.mode={mode}"], environ={}).gate_mode == mode


def test_the_latest_tutor_and_the_trust_region_can_be_had() -> None:
    settings = load_settings(
        preset="smoke",
        overrides=["gate.tutor_source=latest", "run.schedule=sequential", "loss.teacher=trust_region"],
        environ={},
    )
    assert (settings.gate.tutor_source, settings.loss.teacher) == ("latest", "trust_region")


@pytest.mark.parametrize(
    "one_way",
    [
        "students.b.engine=transformers",
        "run.schedule=sequential",
        "run.weights=lora",
        "students.b.replicas=2",
        "gate.mode=never",
    ],
)
def test_full_weights_can_be_had(one_way: str) -> None:
    overrides = ["run.weights=full", "students.b.engine=vllm", one_way]
    settings = load_settings(preset="smoke", overrides=overrides, environ={})
    assert settings.run.weights == ("lora" if one_way == "run.weights=lora" else "full")


@pytest.mark.parametrize(
    "otherwise",
    [
        "students.b.engine=transformers",
        "run.schedule=sequential",
        "run.weights=lora",
        "gate.mode=never",
    ],
)
def test_replicas_keep_versions_apart_where_an_engine_needs_two_and_holds_one(otherwise: str) -> None:
    overrides = ["run.weights=full", "students.b.engine=vllm", "students.b.replicas=2"]
    settings = load_settings(preset="smoke", overrides=overrides, environ={})
    assert [settings.keeps_apart(student) for student in "ab"] == [False, True]
    settings = load_settings(preset="smoke", overrides=[*overrides, otherwise], environ={})
    assert not settings.keeps_apart("b")


def test_a_student_learns_from_itself_where_it_is_specialized_and_names_no_file() -> None:
    overrides = ["specialize.source=self", "students.a.specialize=true"]
    settings = load_settings(preset="smoke", overrides=overrides, environ={})
    assert [settings.learns_from_itself(student) for student in "ab"] == [True, False]
    for other in ("students.a.examples=file.jsonl", "specialize.source=problems"):
        settings = load_settings(preset="smoke", overrides=[*overrides, other], environ={})
        assert not settings.learns_from_itself("a"), other


THREE = ("students.c.domain=biology", "students.c.engine=scripted", "problems.per_step=3")


def test_a_third_student_may_share_a_domain() -> None:
    settings = load_settings(preset="smoke", overrides=[*THREE[1:], "students.c.domain=physics", "problems.per_step=2"])
    assert (settings.names, settings.domains) == (("a", "b", "c"), ("physics", "chemistry"))
    assert settings.peers_of("b") == ("c", "a"), "from the next one on, and round"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ((*THREE[:2], "problems.per_step=4"), "problems.per_step: expected a multiple of 3, .* got 4"),
        ((*THREE, "run.method=hacpo", "gate.mode=never"), "'hacpo' shares rollouts between two, got a, b, c"),
        (("students.a.unknown_kinds={ biology = 1 }",), "students.a.unknown_kinds: expected domains of other students"),
        (
            ("problems.kinds=6", "students.a.unknown_kinds=4"),
            "in a domain 3 have a constant that could be unknown, got 4; set it to 3, or problems.kinds to 8",
        ),
        (("students.a.unknown_kinds={ physics = 1 }",), "students.a.unknown_kinds: expected domains of other students"),
    ],
)
def test_what_three_students_cannot_have_is_refused(overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_settings(preset="smoke", overrides=overrides, environ={})


@pytest.mark.parametrize("method", ["sdpo", "grpo"])
def test_one_student_alone_learns_from_itself(method: str) -> None:
    one = {"run": {"method": method}, "students": {"solo": {"domain": "physics"}}}
    assert validate(one).names == ("solo",)
    with pytest.raises(ConfigError, match="expected at least two, got solo alone, whom nobody could tutor"):
        validate(one | {"run": {"method": "opcod"}})
    with pytest.raises(ConfigError, match=r"expected sections \[students.<name>\], got none"):
        validate({"students": {}})
