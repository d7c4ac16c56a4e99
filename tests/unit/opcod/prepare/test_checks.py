"""What is asked of the machine before anything is written."""

from pathlib import Path

import pytest

from opcod.prepare.checks import check_settings
from shared.config.settings import Paths
from shared.errors import ConfigError
from tests.fakes.deployment import scripted_settings


def test_only_what_takes_steps_needs_the_disk_for_them(tmp_path: Path) -> None:
    settings = scripted_settings(f"resources.min_free_disk_bytes={10**18}")
    paths = Paths(runs_dir=tmp_path / "runs", run="full", cache_dir=tmp_path / "cache")
    with pytest.raises(ConfigError, match=r"expected 1000000000\.0 GB free"):
        check_settings(paths, settings)
    check_settings(paths, settings, "up", takes_steps=False)
    assert not paths.run_dir.exists()
