"""Whose batch is adopted, and whose is not."""

import json
from pathlib import Path

import pytest

from services.broker.exchange.batches import Sealed
from services.broker.exchange.groups import GroupReader, Sealer, UnusableBatchError
from shared.contracts.run import PhaseState
from shared.errors import FencedError
from shared.files.store import LocalStore
from tests.fakes.broker import RUN, BrokerBench

OURS = 7


@pytest.fixture
def bench(run_dir: Path) -> BrokerBench:
    """All of step 1 of student a is there; nothing is on disk."""
    bench = BrokerBench(run_dir)
    for trainer in bench.trainers.values():
        trainer.held = True
    bench.run(lambda state: any(phase.step is not None and phase.step.sealed for phase in state.phases))
    return bench


def phase_of(bench: BrokerBench) -> PhaseState:
    """The phase as it is before its step is sealed."""
    phase = next(phase for phase in bench.state.phases if phase.step is not None and phase.step.sealed)
    phase = phase.model_copy(deep=True)
    assert phase.step is not None
    phase.step.sealed = phase.step.counted = False
    return phase


def seal(bench: BrokerBench, fence: int, *, found: bool = False, counted: bool = False) -> Sealed:
    store = LocalStore(bench.run_dir)
    groups = GroupReader(bench.settings, bench.problems, bench.workers, store)
    sealer = Sealer(RUN, store, groups, "0" * 64, fence)
    phase = phase_of(bench)
    assert phase.step is not None
    phase.step.counted = counted
    sealer.found = {phase.student: [phase.step.step] if found else []}
    return sealer.seal(bench.state, phase)


def folder(bench: BrokerBench) -> Path:
    return bench.run_dir / "batches" / phase_of(bench).student


def sealed_under(bench: BrokerBench, fence: int | None) -> bytes:
    """The batch that lies there, as a broker with that token wrote it; None: one that tells no token."""
    path = folder(bench) / "s00001" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    del manifest["fence"]
    path.write_text(json.dumps(manifest if fence is None else manifest | {"fence": fence}))
    return path.read_bytes()


def test_a_batch_says_under_which_token_it_was_sealed(bench: BrokerBench) -> None:
    lying = json.loads((folder(bench) / "s00001" / "manifest.json").read_bytes())
    assert lying["fence"] == bench.state.fence > 0


@pytest.mark.parametrize("fence", [None, OURS - 1, OURS, OURS + 1])
@pytest.mark.parametrize("known", [{"found": True}, {"counted": True}], ids=["found", "counted"])
def test_one_that_was_there_before_or_is_known_to_the_run_is_adopted(
    bench: BrokerBench, fence: int | None, known: dict[str, bool]
) -> None:
    raw = sealed_under(bench, fence)
    sealed = seal(bench, OURS, **known)
    assert (sealed.manifest.fence, (folder(bench) / "s00001" / "manifest.json").read_bytes()) == (fence or 0, raw)


def test_ones_own_is_adopted(bench: BrokerBench) -> None:
    raw = sealed_under(bench, OURS)
    seal(bench, OURS)
    assert (folder(bench) / "s00001" / "manifest.json").read_bytes() == raw


@pytest.mark.parametrize("fence", [None, OURS - 1])
def test_one_that_a_broker_without_a_lease_wrote_meanwhile_is_set_aside(bench: BrokerBench, fence: int | None) -> None:
    raw = sealed_under(bench, fence)
    sealed = seal(bench, OURS)
    assert sealed.manifest.fence == OURS
    aside = f"unannounced-{fence or 0}-s00001"
    assert sorted(path.name for path in folder(bench).iterdir()) == ["s00001", aside]
    assert (folder(bench) / aside / "manifest.json").read_bytes() == raw
    assert seal(bench, OURS) == sealed, "and the own one is adopted from then on"


def test_one_of_a_later_broker_ends_this_one(bench: BrokerBench) -> None:
    raw = sealed_under(bench, OURS + 1)
    with pytest.raises(FencedError, match="token 8, this broker has 7"):
        seal(bench, OURS)
    assert (folder(bench) / "s00001" / "manifest.json").read_bytes() == raw


def test_a_damaged_one_is_told_apart_from_a_disk_that_refuses(bench: BrokerBench) -> None:
    groups = folder(bench) / "s00001" / "groups.jsonl"
    groups.write_bytes(groups.read_bytes()[:-10])
    with pytest.raises(UnusableBatchError, match="restore its files, then resume the run"):
        seal(bench, OURS, found=True)
