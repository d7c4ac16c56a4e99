"""Full weights on a real vLLM server: swaps under load, refusals, reloads that fail, loss and return."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from psutil import CONN_LISTEN

from services.student.app import build_engine, build_loader
from services.student.config import StudentConfig
from services.student.engines.port import EngineState, Generation
from services.student.engines.vllm.engine import VllmEngine
from services.student.weights.loader import VersionRefusedError, WeightLoader
from shared.contracts.messages import Sampling
from shared.errors import ModelError
from tests.vllm.asking import kill_while_asked, mean_difference, processes_of, request
from tests.vllm.models import Models

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]
BRIEF = Sampling(temperature=1.0, top_p=1.0, max_tokens=6)
TURNS = 2
NEAR, FAR = 0.15, 0.6
"""Mean |difference| of log-probs from a sample's own version, and from another one."""

LONG = "The body moves on. " * 20
"""Longer than a block of the prefix cache."""


@pytest.fixture(scope="module")
def full_config(tmp_path_factory: pytest.TempPathFactory) -> StudentConfig:
    from tests.vllm.bench import vllm_config

    return vllm_config(tmp_path_factory.mktemp("full") / "test", "run.weights=full", "run.schedule=sequential")


@pytest.fixture(scope="module")
def models(full_config: StudentConfig) -> Models:
    models = Models(full_config)
    models.publish(1)
    models.publish(2)
    return models


@pytest.fixture(scope="module")
def engine(full_config: StudentConfig, models: Models) -> Iterator[VllmEngine]:  # noqa: ARG001 - publishes versions
    engine = build_engine(full_config)
    assert isinstance(engine, VllmEngine) and engine.health().state is EngineState.EMPTY
    loader = build_loader(full_config, engine)
    for version in ("a@v0", "a@v1"):
        loader.load(version)
    yield engine
    engine.close()


@pytest.fixture
def loader(full_config: StudentConfig, engine: VllmEngine) -> WeightLoader:
    return build_loader(full_config, engine)


def test_the_routes_without_a_key_are_behind_a_socket_of_this_user_alone(engine: VllmEngine) -> None:
    socket = Path(engine.server.life.client.url.removeprefix("unix:"))
    assert socket.parent.stat().st_mode & 0o077 == 0
    listening = [c for p in processes_of(engine) for c in p.net_connections(kind="tcp") if c.status == CONN_LISTEN]
    assert all(connection.laddr.ip.startswith("127.") for connection in listening)


def serves(engine: VllmEngine, models: Models, version: str, others: tuple[str, ...] = ()) -> None:
    """Samples of a version have its log-probs, and not those of others."""
    samples = engine.generate([request(f"{LONG} Why {n}?", n, version, BRIEF) for n in range(2)])
    assert mean_difference(models, version, samples) < NEAR
    for other in others:
        assert mean_difference(models, other, samples) > FAR


def test_one_prompt_asked_of_two_versions_gets_each_ones_own_log_probs(engine: VllmEngine, models: Models) -> None:
    """Also with the keys and values of the other one in the prefix cache, there and back."""
    serves(engine, models, "a@v0", others=("a@v1",))
    serves(engine, models, "a@v1", others=("a@v0",))
    serves(engine, models, "a@v0", others=("a@v1",))
    mixed = [request("What is 2 plus 3?", n, f"a@v{n % 2}", BRIEF) for n in range(4)]
    samples = engine.generate(mixed)
    for steps in (0, 1):
        assert mean_difference(models, f"a@v{steps}", samples[steps::2]) < NEAR


def test_swaps_under_load_lose_and_mislabel_nothing(engine: VllmEngine, loader: WeightLoader, models: Models) -> None:
    """Two versions are asked for all the time while a third comes; the watch looks on and sees nothing wrong."""
    life = engine.server.life
    through: dict[str, list[Generation]] = {"a@v0": [], "a@v1": [], "a@v2": []}
    lost: list[BaseException] = []

    def keep_asking(version: str) -> None:
        try:
            for turn in range(TURNS):
                through[version].extend(engine.generate([request(f"{LONG} {turn}?", turn, version, BRIEF)]))
                engine.server.look()
        except BaseException as error:  # noqa: BLE001 - whatever was lost is told
            lost.append(error)

    asking = [threading.Thread(target=keep_asking, args=(f"a@v{steps}",)) for steps in (0, 1, 0, 1)]
    for thread in asking:
        thread.start()
    loader.load("a@v2")
    keep_asking("a@v2")
    for thread in asking:
        thread.join(300)
    assert lost == []
    assert {version: len(samples) for version, samples in through.items()} == {
        "a@v0": 2 * TURNS,
        "a@v1": 2 * TURNS,
        "a@v2": TURNS,
    }
    for version, samples in through.items():
        for sample in samples:
            assert mean_difference(models, version, [sample]) < FAR
        assert mean_difference(models, version, samples) < NEAR
    assert engine.server.life == life and engine.health().state is EngineState.READY
    engine.unload("a@v2")


@pytest.mark.parametrize("fault", ["shape", "not finite"])
def test_a_bad_version_never_reaches_the_server(
    engine: VllmEngine, loader: WeightLoader, models: Models, fault: str
) -> None:
    tensors = dict(models.tensors(3))
    name = next(name for name in tensors if "down_proj" in name)
    if fault == "shape":
        tensors[name] = tensors[name][:-1].contiguous()
    else:
        tensors[name] = tensors[name].clone()
        tensors[name][0, 0] = torch.nan
    shutil.rmtree(models.directory(3), ignore_errors=True)
    models.publish(3, tensors)
    with pytest.raises(VersionRefusedError, match="names or shapes differ" if fault == "shape" else "finite"):
        loader.load("a@v3")
    assert "a@v3" not in engine.versions()
    serves(engine, models, "a@v1")


def test_a_reload_that_fails_at_the_server_leaves_the_last_version_serving(
    engine: VllmEngine, models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are gone by the time that vLLM reads them."""
    gone = tmp_path / "v4"
    shutil.copytree(models.directory(2), gone)
    serves(engine, models, "a@v1")
    life, reload = engine.server.life, engine.server.life.client.reload

    def too_late(directory: Path, timeout_s: float) -> None:
        if directory.name == "a@v4":
            (gone / "model.safetensors").unlink()
        reload(directory, timeout_s)

    monkeypatch.setattr(life.client, "reload", too_late)
    with pytest.raises(ModelError, match="again"):
        engine.load("a@v4", gone)
    assert "a@v4" not in engine.versions() and engine.server.life == life
    serves(engine, models, "a@v1", others=("a@v0",))
    assert engine.health().state is EngineState.READY


def test_a_killed_server_comes_back_with_base_weights_and_reads_its_version_again(
    engine: VllmEngine, loader: WeightLoader, models: Models
) -> None:
    kill_while_asked(engine)
    loader.load("a@v1")
    assert engine.health().state is EngineState.READY
    serves(engine, models, "a@v1", others=("a@v0",))
