"""Who is on which node of a run, and what cannot be."""

from pathlib import Path

import pytest

from opcod.local.gpus import share_out, share_out_all
from opcod.local.nodes import (
    Meeting,
    absent,
    groups_of,
    on_one_node,
    own_address,
    placement,
    read_address,
    read_meeting,
    rendezvous_of,
    write_address,
)
from shared.config.loading import load_settings
from shared.config.settings import RunSettings
from shared.errors import ConfigError, UnavailableError
from tests.fakes.command import call_opcod

APART = "resources.placement={ student-a = [0], student-b = [0], trainer-a = [1, 2], trainer-b = [2, 1] }"


def settings(*overrides: str) -> RunSettings:
    return load_settings(preset="smoke", overrides=overrides, environ={})


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        (1, {"student-a": (0,), "student-b": (0,), "trainer-a": (0,), "trainer-b": (0,)}),
        (2, {"student-a": (0,), "student-b": (1,), "trainer-a": (0,), "trainer-b": (1,)}),
        (3, {"student-a": (0,), "student-b": (1,), "trainer-a": (2,), "trainer-b": (0,)}),
        (4, {"student-a": (0,), "student-b": (1,), "trainer-a": (2,), "trainer-b": (3,)}),
    ],
)
def test_without_a_placement_services_are_dealt_out_in_turn(nodes: int, expected: dict[str, tuple[int, ...]]) -> None:
    assert placement(settings(f"resources.nodes={nodes}")) == expected


def test_replicas_are_dealt_out_like_others_and_placed_by_name() -> None:
    two = ("resources.nodes=2", "students.a.replicas=2")
    assert placement(settings(*two)) == {
        "student-a": (0,),
        "student-a-1": (1,),
        "student-b": (0,),
        "trainer-a": (1,),
        "trainer-b": (0,),
    }
    chosen = "student-a = [0], student-b = [0], trainer-a = [1], trainer-b = [1]"
    with pytest.raises(ConfigError, match="expected nodes of student-a, student-a-1, student-b, "):
        placement(settings(*two, f"resources.placement={{ {chosen} }}"))
    placed = placement(settings(*two, f"resources.placement={{ {chosen}, student-a-1 = [1] }}"))
    assert placed["student-a-1"] == (1,)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("resources.nodes=5",), r"nothing is on \[4\]"),
        (("resources.nodes=2", "resources.placement={ student-a = [0] }"), "expected nodes of student-a, student-b, "),
        (("resources.nodes=3", APART), r"trainer-a = \[1, 2\]: expected trainer\.ranks to be a multiple of 2.* got 1"),
        (
            ("resources.nodes=3", APART.replace("student-a = [0]", "student-a = [0, 1]")),
            "expected one node; only ranks",
        ),
        (("resources.nodes=2", APART), r"trainer-a: expected nodes out of 0 to 1 .* each once, got \[1, 2\]"),
        (("resources.nodes=3", APART.replace("[1, 2]", "[1, 1]")), r"each once, got \[1, 1\]"),
        (("resources.nodes=3", APART.replace("[1, 2]", "[]")), r"each once, got \[\]"),
    ],
)
def test_a_placement_that_cannot_be_is_refused(overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        placement(settings(*overrides))


def test_every_node_shares_out_its_own_gpus() -> None:
    spread = settings("trainer.ranks=4", "resources.nodes=3", APART)
    assert share_out(spread, 4, 0) == {"student-a": (0,), "student-b": (1,)}
    assert share_out(spread, 4, 1) == {"trainer-a": (0, 1), "trainer-b": (2, 3)}
    assert share_out_all(spread, 4) == {
        "student-a": (0,),
        "student-b": (1,),
        "trainer-a": (4, 5, 8, 9),
        "trainer-b": (6, 7, 10, 11),
    }
    with pytest.raises(ConfigError, match="trainer-a needs 2 GPUs, this machine has 1"):
        share_out(spread, 1, 1)
    # What is done before a run is done on the first machine.
    assert share_out(on_one_node(spread), 4) == share_out(settings(), 4)


def test_ranks_on_several_nodes_are_told_where_the_first_of_them_is(tmp_path: Path) -> None:
    spread = settings("trainer.ranks=2", "resources.nodes=3", APART)
    meeting = Meeting(
        id="1",
        address="10.0.0.5",
        port=29400,
        redis_url="redis://10.0.0.5:6379",
        redis_password_file=None,
        key_file=tmp_path / "key",
    )
    meeting.save(tmp_path)
    assert read_meeting(tmp_path) == meeting
    with pytest.raises(ConfigError, match="expected node 1, where trainer-a begins, to have joined before node 2"):
        groups_of(spread, 2, meeting, tmp_path)
    assert absent(tmp_path, (1, 2), meeting) == f"not joined: node 1, 2 (`opcod join {tmp_path.name}`)"
    for node in (1, 2):
        write_address(tmp_path, node, meeting, f"10.0.0.{5 + node}")
        assert read_address(tmp_path, node, meeting) == f"10.0.0.{5 + node}"
        assert read_address(tmp_path, node, meeting.model_copy(update={"id": "2"})) is None
    assert absent(tmp_path, (1, 2), meeting) is None
    assert groups_of(spread, 0, meeting, tmp_path) == {}
    assert groups_of(spread, 2, meeting, tmp_path) == {
        "trainer-a": {"OPCOD_NODES": "2", "OPCOD_NODE_RANK": "1", "OPCOD_RENDEZVOUS": "10.0.0.6:29400"},
        "trainer-b": {"OPCOD_NODES": "2", "OPCOD_NODE_RANK": "0", "OPCOD_RENDEZVOUS": "10.0.0.7:29401"},
    }


def test_a_meeting_that_cannot_be_read_is_not_taken_for_one_that_is_over(tmp_path: Path) -> None:
    assert read_meeting(tmp_path) is None
    (tmp_path / "meeting.json").write_text('{"id": 1}')
    with pytest.raises(UnavailableError, match=r"expected to read .*meeting\.json, by which node 0 is met"):
        read_meeting(tmp_path)
    (tmp_path / "meeting.json").unlink()
    (tmp_path / "meeting.json").mkdir()
    with pytest.raises(UnavailableError, match="Is a directory"):
        read_meeting(tmp_path)


@pytest.mark.parametrize("text", [None, "", ":29400", "node0:0", "node0:x", "::1"])
def test_a_rendezvous_is_a_host_and_maybe_a_port(text: str | None) -> None:
    two = settings("resources.nodes=2")
    assert rendezvous_of("node0", two) == ("node0", 29400)
    assert rendezvous_of("node0:65535", two) == ("node0", 65535)
    with pytest.raises(ConfigError, match="--rendezvous: expected host or host:port"):
        rendezvous_of(text, two)


def test_trainers_on_several_nodes_have_a_port_each() -> None:
    spread = settings("trainer.ranks=2", "resources.nodes=3", APART)
    assert rendezvous_of("node0:65534", spread) == ("node0", 65534)
    with pytest.raises(ConfigError, match=r"expected a port of at most 65534, as 2 trainers .* got 65535"):
        rendezvous_of("node0:65535", spread)


def test_a_host_that_nobody_knows_is_refused() -> None:
    assert own_address("127.0.0.2") == "127.0.0.2"
    with pytest.raises(ConfigError, match="expected a name or IPv4 address of this machine"):
        own_address("no-such-node.invalid")
    # Of a net for documentation, RFC 5737: no machine has it.
    with pytest.raises(ConfigError, match=r"expected an address of this machine, .* got 192\.0\.2\.1"):
        own_address("192.0.2.1")


def test_a_run_on_several_nodes_does_not_begin_without_a_rendezvous(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ("--runs-dir", str(tmp_path), "--cache-dir", str(tmp_path / "cache"))
    monkeypatch.delenv("OPCOD_RENDEZVOUS", raising=False)
    words = ("run", "--run", "pair", "--preset", "smoke", "--set", "resources.nodes=2", *places)
    assert call_opcod(monkeypatch, *words) == 2
    assert "--rendezvous: expected host or host:port" in capsys.readouterr().err
    assert not (tmp_path / "pair").exists()
