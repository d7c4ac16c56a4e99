"""What a model takes in one sequence, against what a run asks of it."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from opcod.planning.contexts import crowded, too_long
from opcod.planning.plan import plan_run
from opcod.planning.shapes import KNOWN_SHAPES, context_in, read_shape, vllm_context
from opcod.planning.work import Lengths, prompt_lengths
from opcod.prepare import checks
from opcod.prepare.checks import check_settings
from shared.config.loading import load_settings
from shared.config.settings import Paths, RunSettings
from shared.contracts.messages import ChatMessage
from shared.errors import ConfigError, ModelError
from shared.problems.formats import format_named
from shared.problems.problem import Problem, ProblemSet
from tests.unit.modeling.tiny_model import write_tiny_model

LENGTHS = Lengths(mean=100, longest=300, teacher_extra=0, feedback_extra=0, problems=9, measured=True)


def settings(*overrides: str, preset: str = "phys-chem") -> RunSettings:
    # The tiny model has two blocks, and the embedded one's adapters begin at its 15th.
    blocks = ["lora.first_layer=0"] if preset == "smoke" else []
    return load_settings(preset=preset, overrides=[*blocks, *overrides], environ={})


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
    found = too_long(settings(*overrides), {"a": KNOWN_SHAPES["Qwen/Qwen3-8B"].context}, LENGTHS)
    assert len(found) == len(said) and all(part in each for part, each in zip(said, found, strict=True)), found


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            (),
            [
                "feedback needs 4750 and a revision needs 8060:",
                "set lower max_tokens of rollout and feedback",
            ],
        ),
        (
            ("feedback.revise_share=0",),
            ["longest texts feedback needs 4750: a rollout whose", "set rollout.max_tokens to at most 2846,"],
        ),
        (("rollout.max_tokens=100", "evaluation.max_tokens=100"), []),
        (("gate.mode=never",), []),
        (("run.method=sdpo",), []),
    ],
)
def test_exchanges_that_fit_without_the_longest_texts_alone_are_noted(
    overrides: tuple[str, ...], said: list[str]
) -> None:
    """The run goes on without the feedback of such rollouts, so nobody is refused, but everybody is told."""
    most = ("rollout.max_tokens=3500", "evaluation.max_tokens=3500", "specialize.sampling.max_tokens=3500")
    lengths = replace(LENGTHS, longest=500, teacher_extra=60, feedback_extra=250)
    chosen = settings(*most, "feedback.max_tokens=500", *overrides)
    assert not too_long(chosen, {"a": 4096}, lengths)
    found = crowded(chosen, {"a": 4096}, lengths)
    assert len(found) == bool(said) and all(part in found[0] for part in said), found


def test_students_that_have_no_room_for_any_feedback_are_refused() -> None:
    lengths = replace(LENGTHS, mean=200.4, longest=300, feedback_extra=250)
    chosen = settings("rollout.max_tokens=100", "evaluation.max_tokens=100", "specialize.sampling.max_tokens=100")
    assert not too_long(chosen, {"a": 450 + 1024}, lengths)
    [found] = too_long(chosen, {"a": 450 + 1023}, lengths)
    assert "a usual prompt for feedback has 450 of them" in found and "feedback.max_tokens = 1024: lower it" in found


def test_a_run_whose_longest_question_has_no_room_for_an_answer_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    shape = read_shape(model)
    assert shape is not None and 0 < shape.context < 1000
    paths = Paths(runs_dir=tmp_path / "runs", run="r1", cache_dir=tmp_path / "cache")
    both = [f"students.{name}.{value}" for name in "ab" for value in (f"model={model}", "specialize=false")]
    short, long = (settings(*both, f"rollout.max_tokens={tokens}", preset="smoke") for tokens in (8, 1000))
    assert check_settings(paths, short) == []
    monkeypatch.setattr(checks, "memory_here", lambda: 10**9)
    [little] = check_settings(paths, short)
    assert little.startswith("a run may have 0.9 GiB of this machine's memory and wants about ")
    monkeypatch.undo()
    tight = settings(*both, "rollout.max_tokens=100", preset="smoke")
    noted = check_settings(paths, tight)
    assert [note.partition(" tokens")[0] for note in noted] == [f"student {s} takes sequences of 256" for s in "ab"]
    assert set(noted) <= set(plan_run(paths, tight).notes)
    said = rf"student a takes sequences of {shape.context} tokens.* rollout.max_tokens = 1000"
    with pytest.raises(ConfigError, match=said):
        check_settings(paths, long)
    assert [each for each in plan_run(paths, long).missing if re.match(said, each)]


def characters_and_signs(messages: Sequence[ChatMessage]) -> int:
    """As a tokenizer that cuts words into sixes and all else, of any script, into single characters."""
    return sum(len(re.findall(r"[a-z]{1,6}|[^a-z\s]", turn.content)) for turn in messages)


@pytest.mark.parametrize(
    ("question", "system"),
    [("short", "word " * 1000), ("短" * 250, None), ("C1=CC(=O)N1" * 20, None), ("3.14159" * 30, None)],
)
def test_the_longest_prompt_is_found_whatever_it_is_long_by(question: str, system: str | None) -> None:
    filler = "question " + "somewhat " * 30
    rows = [Problem(f"t{i}", "physics", "", f"{filler} {i}\nA: x\nB: y", "A") for i in range(900)]
    rows[130] = Problem("t130", "physics", "", f"{question}\nA: x\nB: y", "A", system=system)
    problems = ProblemSet(
        "set", format_named("mcq"), ("physics",), tuple(rows[:880]), tuple(rows[880:890]), tuple(rows[890:])
    )
    found = prompt_lengths(problems, settings(), characters_and_signs)
    assert found.longest == characters_and_signs(problems.format.messages(rows[130]))
    assert found.mean < found.longest / 2


REFUSING = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ messages[0].content }}"


def directory_of_problems(tmp_path: Path, **last: str) -> list[str]:
    """Multiple-choice problems of which the last one to train on differs."""
    directory = tmp_path / "problems"
    directory.mkdir()
    for part, count in (("train", 8), ("validation", 4), ("test", 4)):
        rows = [
            {"id": f"{part}-{domain}-{i}", "domain": domain, "question": f"{part} {i}\nA: x\nB: y", "answer": "A"}
            for i in range(count)
            for domain in ("physics", "chemistry")
        ]
        if part == "train":
            rows[-1].update(last)
        (directory / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = [f"problems.source={directory}", "problems.format=mcq"]
    return [*source, "students.a.domain=physics", "students.b.domain=chemistry"]


def test_a_template_that_refuses_a_system_message_is_seen_where_few_rows_have_one(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    (model / "chat_template.jinja").write_text(REFUSING)
    values = (f"model={model}", "specialize=false", "chat_template=none")
    both = [f"students.{name}.{value}" for name in "ab" for value in values]
    few = ("validation_problems=2", "test_problems=2", "max_tokens=8")
    evaluated = [f"evaluation.{value}" for value in few]
    own = ("run.method=grpo", "gate.mode=never", "rollout.max_tokens=8", *evaluated)
    chosen = settings(*both, *directory_of_problems(tmp_path, system="be brief"), *own, preset="smoke")
    paths = Paths(runs_dir=tmp_path / "runs", run="r1", cache_dir=tmp_path / "cache")
    refused = (
        r"student a: .*refuses these messages \(system, user\).*; set students\.a\.chat_template to one that takes"
    )
    # Who probes or specialises takes no steps, and asks for long all the same.
    for takes_steps in (True, False):
        with pytest.raises(ConfigError, match=refused):
            check_settings(paths, chosen, takes_steps=takes_steps)
    check_settings(paths, chosen, "up", takes_steps=False)
    planned = plan_run(paths, chosen)
    assert [each for each in planned.missing if re.match(refused, each)] and planned.lengths is not None


def test_sizes_below_text_config_tell_how_much_a_model_takes(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"max_position_embeddings": 700}}))
    assert (read_shape(tmp_path), context_in(tmp_path)) == (None, 700)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "odd"}))
    assert context_in(tmp_path) == 0


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"rope_scaling": {"type": "longrope", "long_factor": [1]}, "original_max_position_embeddings": 4096}, 4096),
        ({"rope_parameters": {"rope_type": "longrope", "original_max_position_embeddings": 4096}}, 4096),
        ({"rope_parameters": {"full_attention": {"rope_type": "su"}}, "original_max_position_embeddings": 640}, 640),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 4.0}}, 131072),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}, "original_max_position_embeddings": 640}, 131072),
        ({"rope_parameters": {"full_attention": {"rope_type": "dynamic", "factor": 2}}}, 131072),
        # As Hunyuan has it: vLLM takes no more than `max_position_embeddings` then.
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 1.0, "alpha": 1000.0}}, None),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}}, None),
        ({"rope_scaling": {"rope_type": "llama3", "original_max_position_embeddings": 8192}}, None),
        ({"rope_scaling": None}, None),
    ],
)
def test_the_length_is_read_up_to_which_vllm_has_the_trainer_s_angles(
    tmp_path: Path, config: dict[str, object], found: int | None
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 131072, **config}))
    assert vllm_context(tmp_path) == found


def test_a_model_that_its_engine_would_serve_wrongly_begins_no_run_and_is_told_by_a_dry_run(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    config = json.loads((model / "config.json").read_text())
    angles = {"rope_type": "longrope", "short_factor": [1.0, 1.0], "long_factor": [2.0, 2.0], "rope_theta": 1e4}
    config["rope_parameters"] = {**angles, "original_max_position_embeddings": 64}
    (model / "config.json").write_text(json.dumps(config))
    both = [f"students.{name}.{value}" for name in "ab" for value in (f"model={model}", "specialize=false")]
    asked = settings(*both, "rollout.max_tokens=8", preset="smoke")
    paths = Paths(runs_dir=tmp_path / "runs", run="r1", cache_dir=tmp_path / "cache")
    said = r"the transformers engine runs models whose rotary angles stay the same .* change at 64 tokens"
    with pytest.raises(ModelError, match=said):
        check_settings(paths, asked)
    assert [each for each in plan_run(paths, asked).missing if re.match(said, each)]


def test_a_model_is_served_by_vllm_only_as_far_as_its_angles_are_the_trainer_s(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    config = json.loads((model / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    (model / "config.json").write_text(json.dumps(config))
    both = [f"students.{name}.{value}" for name in "ab" for value in (f"model={model}", "specialize=false")]
    served = ["students.a.engine=vllm", "students.a.vllm.url=http://127.0.0.1:9", "rollout.max_tokens=8"]
    paths = Paths(runs_dir=tmp_path / "runs", run="r1", cache_dir=tmp_path / "cache")
    with pytest.raises(
        ConfigError, match=r"students\.a\.vllm\.max_model_len: expected at most 256: a server that takes longer"
    ):
        check_settings(paths, settings(*both, *served, preset="smoke"))
    check_settings(paths, settings(*both, *served, "students.a.vllm.max_model_len=256", preset="smoke"))
