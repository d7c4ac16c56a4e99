"""Exports load with Hugging Face `datasets`, which comes with `make check-trl`'s environment and runs there."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from services.inspector.store.store import Store
from tests.unit.inspector.http.test_export import NASTY, exported, fill
from tests.unit.inspector.told import seal

datasets = pytest.importorskip("datasets", reason="datasets is not installed; `make check-trl` runs this")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("format_", "loader"), [("jsonl", "json"), ("parquet", "parquet")])
def test_an_export_is_a_dataset(client: TestClient, store: Store, tmp_path: Path, format_: str, loader: str) -> None:
    fill(store)
    path = tmp_path / f"exchanges.{format_}"
    path.write_bytes(exported(client, f"format={format_}"))
    loaded = datasets.load_dataset(loader, data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["problem_id"] == ["p1", "p2", "p3"]
    assert loaded[0]["response"] == NASTY
    assert loaded[0]["revision"]["change"] == "fixed"
    assert loaded[1]["revision"] is None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("format_", "loader"), [("jsonl", "json"), ("parquet", "parquet")])
@pytest.mark.parametrize("rows", ["critiques", "preferences"])
def test_what_others_train_on_is_a_dataset(
    client: TestClient, store: Store, tmp_path: Path, rows: str, format_: str, loader: str
) -> None:
    fill(store)
    seal(tmp_path, wrong=("5 N", "7 N"))
    path = tmp_path / f"{rows}.{format_}"
    path.write_bytes(exported(client, f"rows={rows}&format={format_}"))
    loaded = datasets.load_dataset(loader, data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    if rows == "critiques":
        assert loaded["revised"] == ["The force is 6 N."]
    else:
        assert [one[0]["content"] for one in loaded["rejected"]] == ["5 N", "7 N"]
        assert loaded[0]["prompt"] == [{"role": "user", "content": "whole question"}]
