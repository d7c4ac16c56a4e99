"""What a person sees while a run is prepared."""

from pathlib import Path

from opcod.prepare.models import progress_of


def test_progress_is_a_line_for_people_and_never_a_result_for_programs(tmp_path: Path) -> None:
    log = tmp_path / "specialize-a.log"
    log.write_text("student a: 80 examples\nupdate 5/40, loss 1.234\n")
    assert progress_of(log, None) == "update 5/40, loss 1.234"
    log.write_text('update 40/40, loss 0.9\n{"path": "/cache/x", "cached": false, "seconds": 61.2}\n')
    assert progress_of(log, 0) == "done"
    assert progress_of(log, 3) == "ended with exit code 3"
