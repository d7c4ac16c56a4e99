"""Whole runs of three students and of eight, as `opcod run` starts them: each in training, taught and ended."""

from pathlib import Path

import pytest

from shared.contracts.run import Status
from shared.files.batches import batch_directory, batch_manifest, read_groups
from shared.files.store import LocalStore
from shared.results.report import build_report
from tests.fakes.deployment import STEPS, ScriptedDeployment, assert_applied_once, assert_nothing_left, scripted
from tests.unit.modeling.tiny_model import write_tiny_model

DOMAINS = ("physics", "chemistry", "biology")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("count", [3, 8])
def test_many_students_teach_each_other_and_end(tmp_path: Path, count: int) -> None:
    added = [f"s{number}" for number in range(3, count + 1)]
    domains = [f"students.{name}.domain={DOMAINS[at % 3]}" for at, name in enumerate(added, start=2)]
    model = write_tiny_model(tmp_path / "tiny", context=4096)
    overrides = (*domains, *scripted(*added), "problems.per_step=3", "run.steps_per_round=2")
    running = ScriptedDeployment(tmp_path, "many", model, *overrides, deadline_s=800.0)
    try:
        state = running.finish()
        names = running.settings.names
        assert state.status is Status.DONE, f"{state.status}, paused: {state.paused}, failed: {state.failed}"
        assert state.steps == dict.fromkeys(names, STEPS) and len(names) == count
        assert_nothing_left(running.bus, names)
        for student in names:
            assert_applied_once(running.paths.run_dir, student, STEPS)
            _look_at_tutors(running.paths.run_dir, student)
        report = build_report(state, running.settings, {}, 1.0, {})
        assert {row.student for row in report.taught} == set(names)
        assert len(report.scores) == count * 3 and report.mutual_improvement is not None
    finally:
        running.close()


def _look_at_tutors(run_dir: Path, student: str) -> None:
    """Each group of a batch says who spoke, in a version that the manifest names; and nobody tutors itself."""
    store = LocalStore(run_dir)
    for step in range(1, STEPS + 1):
        directory = batch_directory(student, step)
        manifest = batch_manifest(store.read_manifest(directory), directory, run="many", student=student, step=step)
        groups = read_groups(store, directory, manifest)
        asked = {manifest.tutor_of(group) for group in groups}
        assert asked == set(manifest.tutors.items()) and student not in manifest.tutors
        assert sum(row.feedbacks for row in manifest.taught) == manifest.samples
