"""The plan of a run: sizes of models, counts of work, bounds of memory, and what `--dry-run` says of it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from opcod.planning.memory import (
    Need,
    micro_batch_tokens,
    served_tokens,
    student_need,
    total_bytes,
    trainer_need,
    vllm_need,
)
from opcod.planning.shapes import KNOWN_SHAPES, ModelShape, read_shape
from opcod.planning.work import Lengths, Work, estimate, prompt_lengths, total_steps, work_of
from shared.config.loading import load_settings, preset_names
from shared.config.settings import RunSettings
from shared.contracts.messages import ChatMessage
from shared.problems.evaluation import evaluated_problems
from shared.problems.loading import load_problems
from tests.fakes.command import call_opcod
from tests.fakes.sciknoweval import row, two_domains, write
from tests.unit.modeling.tiny_model import write_tiny_model

LENGTHS = Lengths(mean=20.0, longest=30, teacher_extra=10, feedback_extra=12, problems=5, measured=True)
REFUSING = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ messages[0].content }}"
)
TINY = ModelShape(32, 64, 2, 8, 4, 4, 258, tied=True, context=256)


def settings(*overrides: str, preset: str = "smoke") -> RunSettings:
    return load_settings(preset=preset, overrides=overrides, environ={})


def work_by_kind(chosen: RunSettings) -> dict[str, Work]:
    problems = load_problems(chosen)
    work = work_of(chosen, len(problems.train), evaluated_problems(chosen, problems), LENGTHS)
    return {each.kind: each for each in work}


@pytest.mark.parametrize(("name", "parameters"), [("embedded", 134_515_008), ("Qwen/Qwen3-8B", 8_190_735_360)])
def test_known_shapes_have_the_published_number_of_parameters(name: str, parameters: int) -> None:
    assert KNOWN_SHAPES[name].parameters == parameters


def test_every_model_that_a_preset_names_has_a_known_shape() -> None:
    for preset in preset_names():
        for student in settings(preset=preset).students.values():
            assert student.model in KNOWN_SHAPES, f"{preset}: {student.model}"


def test_a_shape_is_that_of_the_real_model(tmp_path: Path) -> None:
    from shared.modeling.adapters import LoraSpec, attach_lora
    from shared.modeling.loading import load_model

    directory = write_tiny_model(tmp_path)
    shape, model = read_shape(directory), load_model(directory)
    assert shape is not None and replace(shape, counted=0) == TINY
    assert shape.parameters == TINY.parameters == model.num_parameters()
    adapted = attach_lora(model, LoraSpec(4, 2.0, 1), seed=0)
    trainable = sum(each.numel() for each in adapted.parameters() if each.requires_grad)
    assert shape.adapter_parameters(4, 1) == trainable


def test_a_shape_that_config_json_does_not_tell_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 32, "num_attention_heads": 4}))
    assert read_shape(tmp_path) is None


def test_activations_bound_what_autograd_keeps(tmp_path: Path) -> None:
    """Against the bytes that a real forward pass saves for its backward pass."""
    import torch

    from services.trainer.model.model import StudentModel
    from services.trainer.model.trained import TrainedAdapter
    from services.trainer.step.trees import Tree
    from shared.modeling.adapters import LoraSpec
    from shared.modeling.loading import load_model

    model = StudentModel(TrainedAdapter(load_model(write_tiny_model(tmp_path)), LoraSpec(4, 2.0, 1), 0))
    tree, saved = Tree(), {}
    tree.insert(list(range(200)))

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {each.untyped_storage().data_ptr() for each in model.network.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.hidden([tree], [(0, 199)])
    kept = sum(size for pointer, size in saved.items() if pointer not in weights)
    bound = TINY.activation_bytes(200, 1, 2, 200, dense=True)
    assert kept <= bound <= 3 * kept


def test_work_counts_jobs_texts_and_tokens() -> None:
    chosen = settings("run.rounds=2", "run.steps_per_round=3", "feedback.revise_share=0.5")
    assert total_steps(chosen) == 12
    work = work_by_kind(chosen)
    assert (work["rollout"].jobs, work["rollout"].texts) == (12 * 2, 12 * 2 * 3)
    assert work["rollout"].prompt_tokens == 72 * 20
    assert work["rollout"].output_tokens == 72 * 16
    assert work["feedback"].prompt_tokens == 72 * (20 + 12 + 16)
    assert (work["revise"].jobs, work["revise"].texts) == (12, 36)
    assert work["revise"].prompt_tokens == 36 * (20 + 10 + 16 + 32)
    validated, tested = work["eval (validation)"], work["eval (test)"]
    assert (validated.jobs, validated.texts) == (3 * 2, 3 * 2 * 8), "at the start of both rounds and after the last"
    assert (tested.jobs, tested.texts) == (2 * 2, 2 * 2 * 8)


@pytest.mark.parametrize("override", ["run.method=sdpo", "run.method=grpo", "gate.mode=never"])
def test_without_tutors_there_is_no_feedback(override: str) -> None:
    chosen = settings("gate.mode=cognizance", override)
    work = work_by_kind(chosen)
    assert (work["feedback"].jobs, work["feedback"].output_tokens, work["revise"].jobs) == (0, 0, 0)
    assert work["rollout"].jobs == 4


def test_prompt_lengths_are_measured_or_estimated() -> None:
    problems = load_problems(settings())
    measured = prompt_lengths(problems, settings(), lambda messages: sum(len(turn.content) for turn in messages))
    assert measured.measured
    assert measured.longest == max(len(problem.question) for problem in problems.all_problems())
    assert measured.mean <= measured.longest
    assert measured.teacher_extra > 0
    assert measured.feedback_extra > 0
    assert not prompt_lengths(problems, settings(), None).measured
    assert estimate([ChatMessage(role="user", content="x" * 100)]) > 100 / 4


def test_memory_grows_with_what_it_is_for() -> None:
    shape = KNOWN_SHAPES["embedded"]

    def parts(*overrides: str) -> dict[str, int]:
        chosen = settings("students.a.slots=10", *overrides)
        needs = (
            student_need("a", chosen, shape, LENGTHS, gpu=True),
            trainer_need("a", chosen, shape, LENGTHS, gpu=True),
        )
        return {f"{need.service}/{part.name.split(':')[0]}": part.bytes for need in needs for part in need.parts}

    before = parts()
    assert before["student-a/weights"] == 2 * shape.parameters
    assert before["trainer-a/optimizer, fp32"] == 8 * shape.adapter_parameters(16, 15)
    for overrides, changed in (
        (("students.a.slots=20",), {"student-a/keys and values", "student-a/logits and prefill"}),
        (("optimizer.micro_batch_tokens=100",), {"trainer-a/activations"}),
        (
            ("lora.rank=32",),
            {"trainer-a/adapter and gradient, fp32", "trainer-a/optimizer, fp32", "trainer-a/EMA teacher, fp32"},
        ),
    ):
        after = parts(*overrides)
        assert {name for name in before if before[name] != after.get(name)} == changed
    assert "trainer-a/EMA teacher, fp32" not in parts("gate.mode=cognizance", "run.method=grpo")


def test_activations_are_kept_least_where_they_are_made_again() -> None:
    def kept(recompute: str, *, gpu: bool) -> int:
        chosen = settings(f"trainer.recompute={recompute}")
        need = trainer_need("a", chosen, KNOWN_SHAPES["embedded"], LENGTHS, gpu=gpu)
        return next(part.bytes for part in need.parts if part.name.startswith("activations"))

    assert kept("auto", gpu=True) == kept("true", gpu=True) < kept("true", gpu=False)
    assert kept("true", gpu=True) < kept("false", gpu=True) < kept("auto", gpu=False), "attention keeps its weights"


@pytest.mark.parametrize(("dtype", "each"), [("bfloat16", 2 + 8 + 8 + 6), ("float32", 4 + 4 + 8 + 4)])
def test_full_weights_are_kept_exactly_besides(dtype: str, each: int) -> None:
    """Bytes a parameter: the model's, exact ones with their gradient, moments, and the teacher's."""
    shape = KNOWN_SHAPES["embedded"]
    chosen = settings("run.weights=full", f"students.a.dtype={dtype}")
    parts = {part.name: part for part in trainer_need("a", chosen, shape, LENGTHS, gpu=True).parts}
    kept = [part.bytes for name, part in parts.items() if "weights" in name or "optimizer" in name or "EMA" in name]
    assert sum(kept) == each * shape.parameters
    assert not any(part.shared for part in parts.values())
    versions = next(p for p in student_need("a", chosen, shape, LENGTHS, gpu=True).parts if "versions" in p.name)
    assert versions.bytes == 3 * shape.parameters * (2 if dtype == "bfloat16" else 4)


@pytest.mark.parametrize(("need", "more"), [(student_need, {"weights, packed"}), (trainer_need, set())])
def test_what_is_kept_on_a_cpu_only_is_counted_there(need: Callable[..., Need], more: set[str]) -> None:
    names = {gpu: [part.name for part in need("a", settings(), TINY, LENGTHS, gpu=gpu).parts] for gpu in (False, True)}
    assert set(names[False]) - set(names[True]) == {"freed, but kept by the allocator"} | more


def test_a_vllm_server_holds_adapters_instead_of_merged_versions() -> None:
    shape = KNOWN_SHAPES["embedded"]
    on_cpu, on_gpu, more = (
        {part.name.split(":")[0]: part.bytes for part in vllm_need("a", chosen, shape, LENGTHS, gpu=gpu).parts}
        for chosen, gpu in (
            (settings(), False),
            (settings(), True),
            (settings("students.a.vllm.max_loras=8"), True),
        )
    )
    assert on_cpu["keys and values"] == 2**30 != on_gpu["keys and values"]
    assert on_gpu["4 adapters"] == 4 * 2 * shape.adapter_parameters(16, 0) == more["8 adapters"] // 2, "of all blocks"


def test_on_a_gpu_a_vllm_server_needs_a_cache_for_one_sequence_whatever_its_slots() -> None:
    shape = KNOWN_SHAPES["embedded"]
    few, many = (
        {
            part.name: part.bytes
            for part in vllm_need("a", settings(f"students.a.slots={slots}"), shape, LENGTHS, gpu=True).parts
        }
        for slots in (1, 100)
    )
    assert few["keys and values: 1 × 256 tokens"] == many["keys and values: 1 × 256 tokens"]
    assert few["logits and prefill"] < many["logits and prefill"]


def test_a_server_takes_sequences_of_the_runs_length_and_no_longer_ones_than_the_model() -> None:
    shape = KNOWN_SHAPES["embedded"]
    # 30 of prompt with 12 more, a rollout of 16 and a feedback of 32; a tenth more, in steps of 256.
    assert served_tokens("a", settings(), shape, LENGTHS) == 256
    assert served_tokens("a", settings("rollout.max_tokens=300"), shape, LENGTHS) == 512
    assert served_tokens("a", settings("rollout.max_tokens=9000"), shape, LENGTHS) == shape.context == 8192
    assert served_tokens("a", settings("students.a.vllm.max_model_len=77"), shape, LENGTHS) == 77
    own = ("students.a.specialize=true", "specialize.source=self", "specialize.sampling.max_tokens=1000")
    assert served_tokens("a", settings(*own), shape, LENGTHS) == 1280, "answers to be fine-tuned on are drawn with it"


def test_with_full_weights_a_vllm_server_holds_one_version() -> None:
    chosen = settings("run.weights=full", "run.schedule=sequential", "students.a.engine=vllm")
    names = {part.name for part in vllm_need("a", chosen, KNOWN_SHAPES["embedded"], LENGTHS, gpu=False).parts}
    assert names == {"weights", "keys and values", "runtime"}


def test_a_micro_batch_holds_a_row_at_least_and_a_mini_batch_at_most() -> None:
    row = LENGTHS.longest + 16
    assert micro_batch_tokens(settings("optimizer.micro_batch_tokens=10"), LENGTHS) == row
    assert micro_batch_tokens(settings("optimizer.micro_batch_tokens=100"), LENGTHS) == 100
    assert micro_batch_tokens(settings("optimizer.micro_batch_tokens=100000"), LENGTHS) == 2 * 3 * row


def test_weights_of_one_model_count_once_on_a_cpu() -> None:
    need = student_need("a", settings(), TINY, LENGTHS, gpu=False)
    pair = [need, replace(need, service="trainer-a")]
    once = total_bytes(pair, {"student-a": "m", "trainer-a": "m"})
    twice = total_bytes(pair, {"student-a": "m", "trainer-a": "n"})
    assert twice - once == 2 * TINY.parameters
    assert twice == 2 * need.bytes


class TestCommand:
    """`opcod run --dry-run`, called in this process."""

    @pytest.fixture
    def dry_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> "DryRun":
        return DryRun(tmp_path, monkeypatch, capsys)

    def test_it_shows_the_plan_and_writes_nothing(self, dry_run: "DryRun", tmp_path: Path) -> None:
        code, said, error = dry_run("--preset", "smoke", "--set", "run.seed=7")
        assert (code, error) == (0, "")
        assert "seed = 7" in said
        for words in ("Leak check: passed", "1 rounds of 1, 1 a student, 2 in all", "student-a", "trainer-b"):
            assert words in said
        assert "embedded is not on this machine and is fetched first" in said, "the cache is empty"
        assert "estimated: no tokenizer is here" in said
        assert list(tmp_path.iterdir()) == []

    def test_sciknowevals_files_leaks_and_stems_are_named(self, dry_run: "DryRun", tmp_path: Path) -> None:
        data = two_domains(tmp_path / "data", train=40)
        leak = [row(100, "Leak?", ["1", "2", "3", "4"]), row(101, "Stem?", ["1", "2", "3", "4"])]
        test = [row(102, "Leak?", ["4", "2", "3", "1"]), row(103, "Stem?", ["5", "6", "7", "8"])]
        kept = [json.loads(line) for line in (data / "optics" / "train.json").read_text().splitlines()]
        write(data, "optics", [*kept, *leak], test)
        code, said, error = dry_run(*self.optics(data), "--set", "students.a.specialize=false")
        assert (code, error) == (0, "")
        assert "optics/train.json: sha256 " in said
        assert "Left out of training, 1: optics-100 (as optics-102 in test)" in said
        assert "share a stem with training ones, 1: optics-103" in said

    def test_all_that_is_missing_is_said_at_once(self, dry_run: "DryRun", tmp_path: Path) -> None:
        code, said, error = dry_run(*self.optics(tmp_path / "nowhere"), "--set", "students.a.model=/no/model")
        assert code == 2
        assert "[problems]" in said
        for words in ("nowhere", "students.a.specialize: expected students.a.examples", "/no/model"):
            assert words in error
        assert "Traceback" not in error

    def test_each_service_is_shown_as_it_would_be_here_and_on_a_gpu(
        self, dry_run: "DryRun", monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        _, said, _ = dry_run("--preset", "smoke")
        rows = [[cell.strip() for cell in line.split("│")] for line in said.splitlines() if "│" in line]
        trainer = next(row for row in rows if "trainer-a" in row)
        here, on_gpu = (float(cell) for cell in trainer[3:5])
        assert 0 < here < on_gpu, "logits come in larger chunks"
        redis = next(row for row in rows if "redis" in row)
        assert redis[4] == "", "what holds no model is not on a GPU"

    def test_cards_that_are_named_are_planned_one_by_one(self, dry_run: "DryRun") -> None:
        code, said, error = dry_run("--preset", "smoke", "--gpus", "2x16,1x24")
        assert (code, error) == (0, "")
        rows = [[cell.strip() for cell in line.split("│")] for line in said.splitlines() if "│" in line]
        cards = {row[1]: row[4] for row in rows if row[1].startswith("GPU ")}
        assert cards == {"GPU 0": "14.90", "GPU 1": "14.90", "GPU 2": "22.35"}
        on = {row[2]: float(row[4]) for row in rows if row[2].startswith(("student", "trainer"))}
        assert set(on) == {"student-a", "student-b", "trainer-a", "trainer-b"}
        assert "Planned: optimizer.micro_batch_tokens = 16384." in said
        assert "All processes of the run in the host's memory: " in said

    def test_cards_that_cannot_hold_it_are_refused_with_the_numbers(self, dry_run: "DryRun") -> None:
        code, said, error = dry_run("--preset", "smoke", "--gpus", "1x2")
        assert code == 2
        assert "Memory by card" in said, "all that is known comes first"
        assert "GPU 0 has 1.9 GiB, of which 1.8 can be planned with; what runs there needs" in error
        assert "Planned:" not in said

    @pytest.mark.parametrize("arguments", [("--gpus", "two"), ("--gpus", "2x80", "--resume", "r1")])
    def test_cards_are_named_in_one_way_and_for_a_plan(self, dry_run: "DryRun", arguments: tuple[str, ...]) -> None:
        code, _, error = dry_run("--preset", "smoke", *arguments)
        assert code == 2
        assert "expected" in error and "Traceback" not in error

    def test_a_language_beyond_the_sanitizer_is_noted(self, dry_run: "DryRun", tmp_path: Path) -> None:
        for name in ("train", "validation", "test"):
            rows = [
                {"id": f"{name} {n}", "domain": domain, "question": f"{name} {n}: ความเร็วของรถเป็นเท่าไร", "answer": "12"}
                for n, domain in enumerate(("physics", "chemistry") * 8)
            ]
            (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
        _, said, _ = dry_run("--preset", "smoke", "--set", f"problems.source={tmp_path}")
        assert "Note: 48 of 48 questions are in Thai, of which the sanitizer knows no forms" in " ".join(said.split())

    def test_a_replica_that_is_started_elsewhere_is_noted(self, dry_run: "DryRun") -> None:
        own = ["run.weights=full", "students.b.engine=vllm", "students.b.replicas=2", "students.b.vllm.url=unix:/run/b"]
        _, said, _ = dry_run("--preset", "smoke", *(part for one in own for part in ("--set", one)))
        words = " ".join(said.split())
        assert "Note: student b: one of 2 replicas is started here, as its vLLM server is found by its URL" in words
        assert "student a: one of" not in words

    @pytest.mark.model
    def test_a_student_that_thinks_is_noted_where_a_teacher_is_shown_the_solution(
        self, dry_run: "DryRun", tmp_path: Path
    ) -> None:
        directory = write_tiny_model(tmp_path / "thinking")
        (directory / "chat_template.jinja").write_text("{{ messages[-1].content }}<think>")
        own = [f"students.b.model={directory}", "students.b.chat_template=none", "gate.mode=never"]
        for method, noted in (("sdpo", True), ("grpo", False)):
            settings = [*own, f"run.method={method}"]
            _, said, _ = dry_run("--preset", "smoke", *(part for one in settings for part in ("--set", one)))
            assert ("Note: student b thinks before it answers" in said) == noted, method
            assert "student a thinks" not in said

    @pytest.mark.model
    @pytest.mark.parametrize("student", ["a", "b"])
    def test_a_chat_template_that_refuses_is_named_with_its_words(
        self, dry_run: "DryRun", tmp_path: Path, student: str
    ) -> None:
        directory = write_tiny_model(tmp_path / "refusing")
        (directory / "chat_template.jinja").write_text(REFUSING)
        own = ["lora.first_layer=0", f"students.{student}.model={directory}", f"students.{student}.chat_template=none"]
        code, said, error = dry_run("--preset", "smoke", *(part for one in own for part in ("--set", one)))
        assert (code, "Steps: " in said) == (2, True), error
        refusal = f"student {student}: the model's chat template refuses these messages (system, user): System role not"
        assert refusal in error
        assert f'set students.{student}.chat_template to one that takes them, such as "compact"' in error

    def test_a_run_that_has_begun_has_no_dry_run(self, dry_run: "DryRun") -> None:
        code, _, error = dry_run("--resume", "r1")
        assert (code, "--dry-run: expected no --resume" in error) == (2, True)

    @staticmethod
    def optics(data: Path) -> list[str]:
        chosen = [
            f"problems.source=sciknoweval:{data}",
            "problems.format=mcq",
            "problems.validation_per_domain=4",
            "evaluation.test_problems=2",
            "students.a.domain=optics",
            "students.b.domain=acids",
            "students.a.specialize=true",
            "students.a.chat_template=none",
        ]
        return ["--preset", "smoke", *(part for setting in chosen for part in ("--set", setting))]


class DryRun:
    """Calls the command as a shell would; returns (exit code, stdout, stderr)."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._directory, self._monkeypatch, self._capsys = directory, monkeypatch, capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        places = ["--runs-dir", str(self._directory / "runs"), "--cache-dir", str(self._directory / "cache")]
        code = call_opcod(self._monkeypatch, "run", "--dry-run", *arguments, *places)
        said = self._capsys.readouterr()
        return code, said.out, said.err
