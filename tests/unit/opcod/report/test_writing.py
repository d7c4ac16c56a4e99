"""What a report is written from."""

from pathlib import Path

import pytest

from opcod.report.writing import records_of, state_of
from shared.config.settings import Paths
from shared.contracts.run import STATE_FILE
from shared.contracts.weights import step_records
from shared.errors import StorageError


@pytest.mark.parametrize("content", ["{}", "", "[" * 5000, "\\ud800"])
def test_a_file_of_another_version_is_named(content: str, tmp_path: Path) -> None:
    paths = Paths(runs_dir=tmp_path, run="r", cache_dir=tmp_path)
    record = paths.run_dir / step_records("a") / "s00001.json"
    record.parent.mkdir(parents=True)
    assert records_of(paths, "a") == []
    for file, read in (
        (record, lambda: records_of(paths, "a")),
        (paths.run_dir / STATE_FILE, lambda: state_of(paths.run_dir)),
    ):
        file.write_text(content)
        with pytest.raises(StorageError, match=f"^{file} does not fit this version of opcod: ") as refused:
            read()
        assert len(str(refused.value)) < 500
