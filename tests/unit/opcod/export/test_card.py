"""A model card says what its run's report says, of these tensors alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import yaml

from opcod.export.card import Exported, Record, render
from shared.config.loading import load_settings
from shared.contracts.models import PreparedModel
from shared.contracts.run import RunState, Split, Status
from shared.modeling.origins import Origin
from shared.problems.loading import load_problems
from shared.problems.manifest import manifest
from shared.results.report import build_report
from shared.results.subsets import KindScore
from tests.fakes.final_state import AFTER, final_state, score

HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"


def record(state: RunState, *overrides: str) -> Record:
    settings = load_settings(preset="smoke", overrides=overrides, environ={})
    problems = manifest(load_problems(settings))
    return Record(settings, state, build_report(state, settings, {}, 100.0, {}, (), problems), problems)


def exported(version: str = "a@v2", *, names: tuple[str, ...] = (), **changes: Any) -> Exported:
    fields: dict[str, Any] = {
        "student": version[0],
        "version": version,
        "names": frozenset({version, *names}),
        "checksum": "c" * 64,
        "base": PreparedModel(path=Path("/somewhere"), sha256="d" * 64),
        "origin": Origin(HUB, "apache-2.0"),
        "adapter_of": None,
        "repository": None,
    }
    return Exported(**(fields | changes))


def metadata(card: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return found


def test_it_names_scores_problems_base_and_tutor() -> None:
    run = record(final_state())
    card = render(run, exported())
    assert "| a | chemistry | 25.0 | 25.0 (0.0 to 75.0) | 50.0 (0.0 to 100.0) | +25.0 (+0.0 to +75.0) |" in card
    assert "| a | physics" in card and "| b | physics (own)" not in card, "the peer's scores are another model's"
    assert run.problems is not None
    assert all(part.sha256 in card for part in run.problems.partitions.values())
    assert "| 1 | b | physics 25.0, chemistry 50.0 |" in card
    assert "d" * 64 in card and "c" * 64 in card
    assert "`run.seed = 0`" in card
    assert "opcod run --config opcod.toml" in card
    assert "opcod export again DIR --student a\n" in card and "the sampling\nof the scores below" in card
    assert "/somewhere" not in card, "a path of this machine tells a reader nothing"


def test_the_hub_reads_its_head() -> None:
    found = metadata(render(record(final_state()), exported()))
    assert (found["license"], found["base_model"], found["library_name"]) == ("apache-2.0", HUB, "transformers")
    results = found["model-index"][0]["results"]
    told = {one["dataset"]["config"]: [metric["value"] for metric in one["metrics"]] for one in results}
    assert told == {"physics": [0.75], "chemistry": [0.5]}


def test_without_a_known_origin_the_head_says_nothing_of_it() -> None:
    card = render(record(final_state()), exported(origin=Origin()))
    assert not {"license", "base_model"} & metadata(card).keys()
    assert "**Licence.** Not known" in card


def test_scores_of_another_version_are_not_this_ones() -> None:
    card = render(record(final_state()), exported("a@v1"))
    assert "model-index" not in metadata(card)
    assert "This version was not tested before and after" in card
    assert "before | after" not in card
    assert "opcod export again DIR --student a --version v1\n" in card, "without it one gets the newest"
    assert "| validation | physics | 4 | 4 | 25.0 | 50.0" in card, "what was measured of it is there"


def test_tensors_that_were_gone_back_to_keep_their_scores() -> None:
    card = render(record(final_state()), exported("a@v3", names=("a@v2",)))
    assert "| a | physics" in card and metadata(card)["model-index"]


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ({"physics": [0, 0, 0, 0], "chemistry": [4, 4, 4, 4]}, "Worse than before training: physics."),
        ({"physics": [4, 0, 0, 0], "chemistry": [4, 4, 4, 4]}, "Not above the best constant answer: physics."),
        (AFTER, "Within the noise of the test (the interval of the change holds 0): physics, chemistry."),
    ],
)
def test_limits_say_what_is_not_good(after: dict[str, list[int]], said: str) -> None:
    assert f"- {said}\n" in render(record(final_state(after)), exported())


def test_a_student_that_ends_below_its_best_says_so() -> None:
    many = 40
    good, bad = {"physics": [4] * many, "chemistry": [4] * many}, {"physics": [0] * many, "chemistry": [0] * many}
    scores = [score("a", 1, good, Split.VALIDATION), score("a", 2, bad, Split.VALIDATION)]
    assert "Student a ends below its best: a@v1" in render(record(final_state(scores=scores)), exported())


def test_a_kind_that_is_lost_is_a_limit_of_the_student_that_lost_it() -> None:
    lost = KindScore(
        student="b", domain="chemistry", kind="lye", problems=9, before=1, after=0, change_interval=(-1.0, -1.0)
    )
    run = record(final_state())
    for student, told in (("a", False), ("b", True)):
        kinds = [lost, lost.model_copy(update={"student": "c"})]
        card = render(replace(run, report=run.report.model_copy(update={"kinds": kinds})), exported(f"{student}@v2"))
        assert (f"Student {student} has lost the kind lye" in card) == told and "Student c has" not in card


def test_an_unfinished_run_says_so() -> None:
    assert "The run was not finished when this was exported (TRAINING)" in render(
        record(final_state(status=Status.TRAINING)), exported()
    )


def test_a_baseline_names_its_method_and_no_tutor() -> None:
    card = render(record(final_state(), "run.method=grpo", "gate.mode=never"), exported())
    assert "then trained by grpo" in card and "(GRPO)" in card
    assert "may tutor" not in card and "break-rate" not in card
    assert "grpo" in metadata(card)["tags"]


def test_an_adapter_says_what_it_belongs_to() -> None:
    card = render(record(final_state()), exported(adapter_of=HUB, repository="owner/name"))
    assert f"vllm serve {HUB} --enable-lora --max-lora-rank 16 --lora-modules a=owner/name" in card
    assert metadata(card)["library_name"] == "peft"
    beside = render(record(final_state()), exported(adapter_of="/here/base", origin=Origin()))
    assert "vllm serve base --enable-lora" in beside and "which lie in `base/`" in beside
