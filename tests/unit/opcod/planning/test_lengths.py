"""What a model takes in one sequence, against what a run asks of it."""

import re
from pathlib import Path

import pytest

from opcod.planning.memory import too_long
from opcod.planning.plan import plan_run
from opcod.planning.shapes import KNOWN_SHAPES, read_shape
from opcod.planning.work import Lengths
from opcod.prepare.checks import check_settings
from shared.config.loading import load_settings
from shared.config.settings import Paths, RunSettings
from shared.errors import ConfigError
from tests.unit.modeling.tiny_model import write_tiny_model

LENGTHS = Lengths(mean=100, longest=300, teacher_extra=0, feedback_extra=0, problems=9, measured=True)


def settings(*overrides: str, preset: str = "phys-chem") -> RunSettings:
    return load_settings(preset=preset, overrides=overrides, environ={})


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ((), []),
        (("students.a.vllm.max_model_len=4396",), []),
        (
            ("students.a.vllm.max_model_len=4395", "specialize.sampling.max_tokens=100"),
            [
                "before rollout.max_tokens = 4096: set rollout.max_tokens to at most 4095",
                "before evaluation.max_tokens",
            ],
        ),
        (("specialize.sampling.max_tokens=50000",), ["before specialize.sampling.max_tokens = 50000: set"]),
    ],
)
def test_what_a_model_does_not_take_is_told_by_its_setting(overrides: tuple[str, ...], said: list[str]) -> None:
    found = too_long(settings(*overrides), {"a": KNOWN_SHAPES["Qwen/Qwen3-8B"]}, LENGTHS)
    assert len(found) == len(said) and all(part in each for part, each in zip(said, found, strict=True)), found


def test_a_run_whose_longest_question_has_no_room_for_an_answer_does_not_begin(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    shape = read_shape(model)
    assert shape is not None and 0 < shape.context < 1000
    paths = Paths(runs_dir=tmp_path / "runs", run="r1", cache_dir=tmp_path / "cache")
    both = [f"students.{name}.{value}" for name in "ab" for value in (f"model={model}", "specialize=false")]
    short, long = (settings(*both, f"rollout.max_tokens={tokens}", preset="smoke") for tokens in (8, 1000))
    check_settings(paths, short)
    said = rf"student a takes sequences of {shape.context} tokens.* rollout.max_tokens = 1000"
    with pytest.raises(ConfigError, match=said):
        check_settings(paths, long)
    assert [each for each in plan_run(paths, long).missing if re.match(said, each)]
