"""Before ranks are started: a GPU for each, and none for two."""

import signal

import pytest
from structlog.testing import capture_logs

from services.trainer.ranks import launching
from services.trainer.ranks.launching import Node, cards_for, interface_to_first, is_rank, launch, node_of
from shared.config.environment import ServiceEnvironment
from shared.errors import ConfigError, UnavailableError
from shared.gpus import VISIBLE
from shared.network import interface_towards


@pytest.mark.parametrize(("visible", "ranks", "cards"), [("", 2, 0), ("-1", 2, 0), ("0,1", 2, 2), ("4,5,6", 2, 3)])
def test_there_is_a_gpu_for_each_or_none(monkeypatch: pytest.MonkeyPatch, visible: str, ranks: int, cards: int) -> None:
    monkeypatch.setenv(VISIBLE, visible)
    assert cards_for(ranks) == cards


@pytest.mark.parametrize(
    ("visible", "said"),
    [
        ("0", r"trainer\.ranks: expected a GPU for each of 2 ranks, this process was given 1"),
        ("3,3", r"expected each GPU once, got 3,3"),
    ],
)
def test_ranks_that_would_share_one_are_refused(monkeypatch: pytest.MonkeyPatch, visible: str, said: str) -> None:
    monkeypatch.setenv(VISIBLE, visible)
    with pytest.raises(ConfigError, match=said):
        cards_for(2)


def test_a_rank_is_what_the_agent_has_started() -> None:
    assert is_rank({"TORCHELASTIC_RUN_ID": "trainer-a-0", "RANK": "0"})
    assert not is_rank({"RANK": "0"})


def told(**variables: str) -> ServiceEnvironment:
    base = {"run": "r1", "run_dir": "/run", "cache_dir": "/cache", "redis_url": "redis://127.0.0.1"}
    return ServiceEnvironment.model_validate(base | variables)


def test_one_node_needs_no_rendezvous_and_several_share_the_ranks_equally() -> None:
    assert node_of(told()) == Node()
    second = node_of(told(nodes="2", node_rank="1", rendezvous="[::1]:29400"))
    assert (second.number, second.of, second.rendezvous) == (1, 2, ("[::1]", 29400))
    assert second.ranks(8) == 4
    with pytest.raises(ConfigError, match=r"trainer\.ranks: expected a multiple of the 2 nodes .* got 3"):
        second.ranks(3)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, r"OPCOD_RENDEZVOUS: expected host:port of the first of 2 nodes.*got None"),
        ({"rendezvous": "node0"}, "got 'node0'"),
        ({"rendezvous": "node0:0"}, "got 'node0:0'"),
        ({"rendezvous": ":29400"}, "got ':29400'"),
        ({"rendezvous": "node0:29400", "node_rank": "2"}, "OPCOD_NODE_RANK: expected 0 to 1.*got 2"),
    ],
)
def test_nodes_that_could_not_meet_are_refused(variables: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        node_of(told(nodes="2", **variables))
    assert refused.value.exit_code == 2


def test_a_first_node_that_has_no_name_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    names = iter(["first.invalid", "first.invalid"])
    monkeypatch.setattr(launching, "interface_towards", lambda host: interface_towards(next(names, host)))
    with capture_logs() as logs:
        assert interface_to_first("localhost") == "lo"
    (line,) = (each for each in logs if each["event"] == "waiting for the first node")
    assert "first.invalid" in line["reason"] and line["at_most_s"] == launching.MEET_S


def test_a_first_node_that_never_has_a_name_is_named_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "MEET_S", 0.05)
    with pytest.raises(UnavailableError, match=r"expected a way from this node to first\.invalid"):
        interface_to_first("first.invalid")


def test_who_waits_for_the_first_node_ends_when_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "interface_to_first", lambda _: signal.raise_signal(signal.SIGTERM))
    monkeypatch.setenv("OPCOD_PARENT_PID", "")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        launch("nothing", "trainer-a", 2, node=Node(1, 2, ("first", 29400)))
    assert ended.value.code == 0 and signal.getsignal(signal.SIGTERM) is before
