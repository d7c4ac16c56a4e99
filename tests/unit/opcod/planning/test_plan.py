"""What a plan says where something is missing, and what the documentation says of plans."""

import re
from pathlib import Path

import pytest

from opcod.planning.cards import GIB
from opcod.planning.plan import Planned, lines, plan_run
from shared.config.loading import load_settings
from shared.config.settings import Paths

PAGE = Path(__file__).resolve().parents[4] / "docs" / "paper-runs.md"
CARD = 80 * 10**9


def plan(tmp_path: Path, preset: str, cards: tuple[int, ...], *overrides: str) -> Planned:
    """On a machine that has no model."""
    paths = Paths(runs_dir=tmp_path / "runs", run="r1", cache_dir=tmp_path / "cache")
    return plan_run(paths, load_settings(preset=preset, overrides=overrides, environ={}), cards)


def test_cards_are_shared_out_also_where_the_problems_are_missing(tmp_path: Path) -> None:
    found = plan(tmp_path, "smoke", (CARD, CARD), f"problems.source=sciknoweval:{tmp_path / 'nowhere'}")
    assert any("nowhere" in each for each in found.missing)
    said = list(lines(found))
    assert "GPUs, of 2: student-a on 0, student-b on 1, trainer-a on 0, trainer-b on 1." in said
    assert not [line for line in said if "No GPU is visible" in line]


@pytest.mark.parametrize("preset", ["laptop", "smoke"])
def test_the_page_has_the_estimates_of_the_plan(tmp_path: Path, preset: str) -> None:
    written = dict(re.findall(rf"^\| `{preset}` \| (.+) \| ([\d.]+) \| [\d.]+ \|$", PAGE.read_text(), re.MULTILINE))
    found = plan(tmp_path, preset, ())
    [all_together] = re.findall(r"counted once: about ([\d.]+) GiB", "\n".join(lines(found)))
    estimated = {need.service.replace("-", " "): f"{need.bytes / GIB:.2f}" for need in found.needs}
    assert len(written) > 2
    assert written.items() <= {**estimated, "all together": all_together}.items()


def test_a_machine_with_too_little_memory_is_named_before_it_is_tried(tmp_path: Path) -> None:
    paths = Paths(runs_dir=tmp_path / "runs", run="r1", cache_dir=tmp_path / "cache")
    found = plan_run(paths, load_settings(preset="smoke", environ={}))
    assert found.host > GIB, "this machine's"
    found.host = 4 * GIB
    assert [line for line in lines(found) if "a run may have 4.0 GiB of this machine's memory and wants about " in line]
    found.host = 64 * GIB
    assert not [line for line in lines(found) if "may be killed" in line]
    assert not plan(tmp_path, "smoke", (CARD, CARD)).host, "cards of another machine"
