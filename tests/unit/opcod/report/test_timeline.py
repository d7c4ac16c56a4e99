"""Seconds by stage, kept over a run's sittings."""

import json
from pathlib import Path

import pytest

from opcod.report.writing import TIMELINE_FILE, Timeline


def test_stages_add_up_over_sittings(tmp_path: Path) -> None:
    (tmp_path / TIMELINE_FILE).write_text(json.dumps({"wall": 100.0, "loading models": 5.0}))
    timeline = Timeline(tmp_path)
    timeline.add({"loading models": 1.0, "starting services": 2.0})
    assert timeline.stages == {"loading models": 6.0, "starting services": 2.0}
    assert 100.0 <= timeline.wall_s < 110.0
    again = Timeline(tmp_path)
    assert again.stages == timeline.stages
    assert again.wall_s >= 100.0


def test_a_stage_counts_also_when_it_fails(tmp_path: Path) -> None:
    timeline = Timeline(tmp_path)
    with pytest.raises(KeyError), timeline.stage("stopping services"):
        raise KeyError
    assert timeline.stages["stopping services"] >= 0
    assert set(json.loads((tmp_path / TIMELINE_FILE).read_text())) == {"stopping services", "wall"}


def test_wall_time_is_no_stage(tmp_path: Path) -> None:
    Timeline(tmp_path).add({"a": 1.0})
    assert "wall" not in Timeline(tmp_path).stages
