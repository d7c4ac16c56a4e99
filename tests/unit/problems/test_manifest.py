"""The manifest of a problem set."""

from dataclasses import replace

import pytest

from shared.problems.generated import generate
from shared.problems.manifest import manifest
from shared.problems.problem import ProblemSet


@pytest.fixture(scope="module")
def generated() -> ProblemSet:
    return generate(0)


def test_counts_hashes_and_majorities(generated: ProblemSet) -> None:
    written = manifest(generated)
    assert (written.format, written.domains) == ("integer", ("physics", "chemistry"))
    assert written.content_hash == generated.content_hash
    test = written.partitions["test"]
    assert test.count == 320
    assert test.domains["physics"].count == 160
    assert test.domains["physics"].kinds["voltage"] == 16
    answers = [problem.answer for problem in generated.test if problem.domain == "physics"]
    majority = test.domains["physics"]
    assert majority.majority_share == answers.count(majority.majority_answer) / 160
    assert all(answers.count(answer) <= answers.count(majority.majority_answer) for answer in answers)
    assert len({partition.sha256 for partition in written.partitions.values()}) == 4


def test_it_survives_json(generated: ProblemSet) -> None:
    written = manifest(generated)
    assert type(written).model_validate_json(written.model_dump_json()) == written


def test_a_changed_row_changes_only_its_partition(generated: ProblemSet) -> None:
    changed = replace(generated, test=(replace(generated.test[0], answer="0"), *generated.test[1:]))
    before, after = manifest(generated), manifest(changed)
    different = [name for name in before.partitions if before.partitions[name] != after.partitions[name]]
    assert different == ["test"]
    assert before.content_hash != after.content_hash


def test_an_empty_partition_has_no_domains(generated: ProblemSet) -> None:
    empty = manifest(replace(generated, specialise=())).partitions["specialise"]
    assert (empty.count, empty.domains) == (0, {})
