"""A data set by directory or hub id: the hub client's cache first, then the hub, and clear words when neither helps."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from shared.errors import ConfigError, ProblemSetError, UnavailableError
from shared.problems.loading import dataset_directory, load_problem_set
from tests.fakes.sciknoweval import two_domains

FILES = ("optics/train.json", "optics/test.json")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub client, which is told to stay off the network."""
    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


def cached(cache: Path, revision: str = "main") -> Path:
    """The data set `school/science` in the client's cache, as downloading leaves it."""
    root = cache / "datasets--school--science"
    snapshot = two_domains(root / "snapshots" / COMMIT)
    (root / "refs").mkdir(exist_ok=True)
    (root / "refs" / revision).write_text(COMMIT)
    return snapshot


def test_a_directory_is_taken_as_it_is(tmp_path: Path) -> None:
    assert dataset_directory(str(two_domains(tmp_path)), FILES) == tmp_path


@pytest.mark.parametrize(("where", "revision"), [("school/science", "main"), ("school/science@v2", "v2")])
def test_a_data_set_in_the_clients_cache_needs_no_network(hub_cache: Path, where: str, revision: str) -> None:
    snapshot = cached(hub_cache, revision)
    assert dataset_directory(where, FILES) == snapshot


def test_problems_load_from_a_hub_id(hub_cache: Path) -> None:
    cached(hub_cache)
    loaded = load_problem_set("sciknoweval:school/science", "mcq", domains=("optics", "acids"), validation_per_domain=3)
    assert len(loaded.test) == 8
    assert loaded.provenance is not None
    assert loaded.provenance.source == "sciknoweval:school/science"


@pytest.mark.parametrize("where", ["school/science", "school/science@v2"])
def test_without_cache_and_hub_it_says_what_to_do(hub_cache: Path, where: str) -> None:
    assert not any(hub_cache.iterdir())
    with pytest.raises(
        UnavailableError, match=r"school/science is no directory here, .*; connect once, or name a local"
    ):
        dataset_directory(where, FILES)


def test_files_that_the_cache_lacks_are_looked_for_on_the_hub(hub_cache: Path) -> None:
    (cached(hub_cache) / "optics" / "test.json").unlink()
    with pytest.raises((UnavailableError, ProblemSetError), match=r"school/science"):
        dataset_directory("school/science", FILES)


@pytest.mark.parametrize("where", ["", "science", "a/b/c", "/no/such/place", "school/science@", "../x/y"])
def test_what_is_neither_directory_nor_hub_id_is_refused(where: str) -> None:
    with pytest.raises(ConfigError, match="expected a directory or a hub data set"):
        dataset_directory(where, FILES)
