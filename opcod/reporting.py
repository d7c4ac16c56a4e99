"""Writing a run's report: report.json, report.md and the pictures."""

from collections.abc import Mapping

from opcod.problem_manifest import read_manifest
from opcod.report import Report, build_report
from opcod.report_text import to_markdown
from opcod.timeline import Timeline
from shared.blobs.local import atomic_write
from shared.config.settings import Paths, RunSettings
from shared.contracts.run import RunState
from shared.contracts.steps import StepRecord, step_records


def write_report(
    paths: Paths, settings: RunSettings, state: RunState, timeline: Timeline, restarts: Mapping[str, int]
) -> Report:
    """The report as it stands now; an unfinished run has one too, and it says so."""
    from opcod.pictures import draw

    directory = paths.run_dir / "report"
    directory.mkdir(exist_ok=True)
    steps = [record for student in sorted(settings.students) for record in records_of(paths, student)]
    report = build_report(state, settings, timeline.stages, timeline.wall_s, restarts, steps, read_manifest(paths))
    draw(report, directory)
    atomic_write(directory / "report.json", report.model_dump_json(indent=1).encode())
    atomic_write(directory / "report.md", to_markdown(report).encode())
    return report


def records_of(paths: Paths, student: str) -> list[StepRecord]:
    """What the broker kept of each step of a student."""
    found = sorted((paths.run_dir / step_records(student)).glob("*.json"))
    return [StepRecord.model_validate_json(path.read_bytes()) for path in found]
