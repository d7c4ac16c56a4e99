import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from services.student.app import build_app
from tests.fakes.access import LOCAL
from tests.fakes.student import StudentBench
from tests.fakes.waiting import WAIT_S
from tests.unit.modeling.tiny_model import write_tiny_model

# What imports torch cannot even be collected where it is not installed: `make setup` installs it.
_WITH_TORCH = ["test_transformers.py", "test_decoding.py", "test_kvcache.py", "test_sampling.py", "test_streaming.py"]
collect_ignore = [] if find_spec("torch") else _WITH_TORCH


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def patience_s() -> float:
    """How long people's requests wait for the engine: in no test, unless it gives another time."""
    return WAIT_S


@pytest.fixture
def bench(tmp_path: Path, patience_s: float) -> Iterator[StudentBench]:
    """A student whose worker turns in a thread of its own."""
    bench = StudentBench(tmp_path, f"serving.request_timeout_s={patience_s}")
    bench.turn()
    thread = threading.Thread(target=bench.worker.run)
    thread.start()
    yield bench
    bench.engine.go.set()
    bench.stopping.set()
    thread.join(WAIT_S)
    bench.close()


@pytest.fixture
def client(bench: StudentBench) -> Iterator[TestClient]:
    with TestClient(build_app(bench.config, bench.board, bench.interactive, bench.clock), base_url=LOCAL) as opened:
        yield opened
