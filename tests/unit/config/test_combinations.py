"""Settings that contradict each other are refused, and the message names the one to change."""

import re

import pytest

from shared.config.loading import load_settings
from shared.errors import ConfigError


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
        (["run.weights=full", "students.b.engine=vllm"], "set run.schedule = 'sequential', or students.b.engine"),
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
        (["specialize.sampling.samples=1"], "specialize.sampling.keep: at most specialize.sampling.samples"),
        (["run.weights=full", "loss.teacher=trust_region"], "set loss.teacher = 'ema', or run.weights = 'lora'"),
    ],
)
def test_contradictions_are_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        load_settings(preset="smoke", overrides=overrides, environ={})


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


@pytest.mark.parametrize("one_way", ["students.b.engine=transformers", "run.schedule=sequential", "run.weights=lora"])
def test_full_weights_can_be_had(one_way: str) -> None:
    overrides = ["run.weights=full", "students.b.engine=vllm", one_way]
    settings = load_settings(preset="smoke", overrides=overrides, environ={})
    assert settings.run.weights == ("lora" if one_way == "run.weights=lora" else "full")


def test_a_student_learns_from_itself_where_it_is_specialized_and_names_no_file() -> None:
    overrides = ["specialize.source=self", "students.a.specialize=true"]
    settings = load_settings(preset="smoke", overrides=overrides, environ={})
    assert [settings.learns_from_itself(student) for student in "ab"] == [True, False]
    for other in ("students.a.examples=file.jsonl", "specialize.source=problems"):
        settings = load_settings(preset="smoke", overrides=[*overrides, other], environ={})
        assert not settings.learns_from_itself("a"), other
