"""How the GPUs of a machine are shared out."""

import pytest

from opcod.local.gpus import (
    Shares,
    apart,
    require_given,
    require_room,
    share_out,
    shared,
    sharing,
    starts,
    visible,
    wanted,
)
from shared.config.loading import load_settings
from shared.config.settings import RunSettings
from shared.errors import ConfigError

VLLM = ("students.a.engine=vllm", "students.b.engine=vllm")
TURNS = "resources.turns=true"
TWO = ("students.a.vllm.tensor_parallel_size=2", "students.b.vllm.data_parallel_size=2")


def settings(*overrides: str) -> RunSettings:
    return load_settings(preset="smoke", overrides=overrides, environ={})


@pytest.mark.parametrize(
    ("overrides", "available", "student_a", "student_b", "trainer_a", "trainer_b"),
    [
        (VLLM, 1, (0,), (0,), (0,), (0,)),
        (VLLM, 2, (0,), (1,), (0,), (1,)),
        (VLLM, 3, (0,), (1,), (2,), (1,)),
        (VLLM, 4, (0,), (1,), (2,), (3,)),
        ((), 4, (0,), (1,), (2,), (3,)),
        ((*VLLM, *TWO), 8, (0, 1), (2, 3), (4,), (5,)),
        ((*VLLM, *TWO), 4, (0, 1), (2, 3), (0,), (2,)),
        ((*VLLM, *TWO), 2, (0, 1), (0, 1), (0,), (1,)),
        ((*VLLM, *TWO, "trainer.ranks=4"), 8, (0, 1), (2, 3), (4, 5, 6, 7), (2, 3, 4, 5)),
        (("trainer.ranks=2",), 6, (0,), (1,), (2, 3), (4, 5)),
        (("trainer.ranks=2",), 5, (0,), (1,), (2, 3), (4, 1)),
        (("trainer.ranks=2",), 3, (0,), (1,), (2, 0), (1, 2)),
        (("trainer.ranks=4",), 8, (0,), (1,), (2, 3, 4, 5), (6, 7, 1, 2)),
        (("trainer.ranks=2",), 2, (0,), (1,), (0, 1), (1, 0)),
    ],
)
def test_engines_come_first_and_share_last(
    overrides: tuple[str, ...],
    available: int,
    student_a: tuple[int, ...],
    student_b: tuple[int, ...],
    trainer_a: tuple[int, ...],
    trainer_b: tuple[int, ...],
) -> None:
    expected = {"student-a": student_a, "student-b": student_b, "trainer-a": trainer_a, "trainer-b": trainer_b}
    assert share_out(settings(*overrides), available) == expected


@pytest.mark.parametrize("engines", [(), TWO, TWO[:1], ("students.a.replicas=2",)])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_no_gpu_is_idle_while_another_has_two_services(engines: tuple[str, ...], ranks: int) -> None:
    chosen = settings(*VLLM, *engines, f"trainer.ranks={ranks}")
    for available in range(max(wanted(chosen).values()), 13):
        shares = share_out(chosen, available)
        assert {name: len(set(gpus)) for name, gpus in shares.items()} == wanted(chosen)
        used = [gpu for gpus in shares.values() for gpu in gpus]
        loads = [used.count(gpu) for gpu in range(available)]
        assert min(loads) > 0 or max(loads) == 1, f"{shares} of {available}"


REPLICAS = ("students.a.replicas=3", "students.b.replicas=3")
OF_A = ("student-a", "student-a-1", "student-a-2")
OF_B = ("student-b", "student-b-1", "student-b-2")


def test_each_replica_has_an_engine_on_gpus_of_its_own() -> None:
    eight = share_out(settings(*VLLM, *REPLICAS), 8)
    assert eight == {name: (gpu,) for gpu, name in enumerate((*OF_A, *OF_B, "trainer-a", "trainer-b"))}
    six = share_out(settings(*VLLM, *REPLICAS), 6)
    assert (six["trainer-a"], six["trainer-b"]) == (six["student-a"], six["student-b"]) == ((0,), (3,))
    split = share_out(settings(*VLLM, REPLICAS[0], "students.a.vllm.tensor_parallel_size=2"), 8)
    assert [split[name] for name in OF_A] == [(0, 1), (2, 3), (4, 5)]


def test_trainers_that_share_go_to_the_engine_of_their_own_student_with_the_fewest() -> None:
    two = share_out(settings(*VLLM, "students.a.replicas=2", "students.b.replicas=2"), 2)
    assert two == {
        **{"student-a": (0,), "student-a-1": (1,), "student-b": (0,), "student-b-1": (1,)},
        **{"trainer-a": (0,), "trainer-b": (1,)},
    }
    nodes = settings(*VLLM, "resources.nodes=2", "students.a.replicas=2", "students.b.replicas=2")
    assert share_out(nodes, 2, node=1) == {"student-a-1": (0,), "student-b-1": (1,), "trainer-b": (1,)}


def test_of_a_server_that_is_found_one_replica_is_started() -> None:
    found = settings(*VLLM, *REPLICAS, "students.a.vllm.url=unix:/run/vllm")
    assert list(wanted(found)) == ["student-a", *OF_B, "trainer-a", "trainer-b"]


def test_replicas_are_named_one_by_one_where_their_gpus_are_set() -> None:
    every = "student-a = [0], student-b = [0], trainer-a = [0], trainer-b = [0]"
    with pytest.raises(ConfigError, match="student-a-1 got none"):
        share_out(settings("students.a.replicas=2", f"resources.gpus={{ {every} }}"), 2)
    two = share_out(settings("students.a.replicas=2", f"resources.gpus={{ {every}, student-a-1 = [1] }}"), 2)
    assert two["student-a-1"] == (1,)


def test_replicas_whose_servers_share_a_gpu_start_one_after_the_other_and_fit_in_it() -> None:
    pair = settings(*VLLM, "students.a.replicas=2", "students.a.vllm.gpu_memory_utilization=0.6")
    shares = share_out(pair, 1)
    assert starts(pair, shares, [*shares]) == [
        ["student-a"],
        ["student-a-1"],
        ["student-b"],
        ["trainer-a", "trainer-b"],
    ]
    with pytest.raises(
        ConfigError, match=r"0\.6 of student-a and 0\.6 of student-a-1 are for one GPU \(0\).*fewer replicas"
    ):
        require_room(pair, shares)
    require_room(pair, share_out(pair, 3))


def test_who_takes_turns_has_one_gpu_with_all_others() -> None:
    turns = settings(*VLLM, "resources.turns=true")
    everybody = dict.fromkeys(("student-a", "student-b", "trainer-a", "trainer-b"), (0,))
    assert share_out(turns, 1) == share_out(turns, 4) == everybody
    assert share_out(turns, 0) == {}
    second = "resources.gpus={ student-a = [1], student-b = [1], trainer-a = [1], trainer-b = [1] }"
    assert set(share_out(settings(*VLLM, "resources.turns=true", second), 2).values()) == {(1,)}
    apart_ = "resources.gpus={ student-a = [0], student-b = [0], trainer-a = [1], trainer-b = [1] }"
    with pytest.raises(ConfigError, match="expected one GPU that all take turns on"):
        share_out(settings(*VLLM, "resources.turns=true", apart_), 2)


def test_without_gpus_nobody_gets_one_and_found_or_scripted_engines_never_do() -> None:
    assert share_out(settings(), 0) == {}
    elsewhere = settings("students.a.engine=scripted", *VLLM[1:], "students.b.vllm.url=unix:/run/vllm")
    assert wanted(elsewhere) == {"student-a": 0, "student-b": 0, "trainer-a": 1, "trainer-b": 1}
    assert share_out(elsewhere, 2) == {"trainer-a": (0,), "trainer-b": (1,)}


def test_what_is_set_is_taken_or_refused_by_name() -> None:
    every = "student-a = [1], student-b = [0], trainer-a = [0], trainer-b = [1]"
    chosen = f"resources.gpus={{ {every} }}"
    assert share_out(settings(chosen), 2) == {
        "student-a": (1,),
        "student-b": (0,),
        "trainer-a": (0,),
        "trainer-b": (1,),
    }
    with pytest.raises(ConfigError, match=r"student-a = \[1\], and this machine has 1 GPUs"):
        share_out(settings(chosen), 1)
    with pytest.raises(ConfigError, match=r"expected services out of student-a, .*, got broker"):
        share_out(settings("resources.gpus={ broker = [0] }"), 1)
    with pytest.raises(ConfigError, match=r"trainer-a uses 1, got \[0, 1\]"):
        share_out(settings("resources.gpus={ trainer-a = [0, 1] }"), 2)


def test_nobody_who_uses_one_is_left_to_take_the_first() -> None:
    chosen = "resources.gpus={ student-a = [1], trainer-a = [0] }"
    with pytest.raises(ConfigError, match="student-b and trainer-b got none"):
        share_out(settings(chosen), 2)
    scripted = ("students.a.engine=scripted", "students.b.engine=scripted")
    trainers = "resources.gpus={ trainer-a = [0], trainer-b = [1] }"
    assert share_out(settings(*scripted, trainers), 2) == {"trainer-a": (0,), "trainer-b": (1,)}


def test_a_node_whose_services_use_no_gpu_is_given_none() -> None:
    alone = "resources.placement={ student-a = [1], student-b = [0], trainer-a = [0], trainer-b = [0] }"
    chosen = "resources.gpus={ student-a = [0], trainer-a = [0], trainer-b = [1], student-b = [1] }"
    with pytest.raises(ConfigError, match="expected none, as no service here uses a GPU, got student-a"):
        share_out(settings("students.a.engine=scripted", "resources.nodes=2", alone, chosen), 2, 1)


def test_more_than_there_are_is_an_error() -> None:
    with pytest.raises(ConfigError, match="student-a needs 2 GPUs, this machine has 1"):
        share_out(settings(*VLLM, *TWO), 1)
    with pytest.raises(ConfigError, match=r"trainer-a needs 3 GPUs, this machine has 2; lower trainer\.ranks"):
        share_out(settings("trainer.ranks=3"), 2)
    with pytest.raises(ConfigError, match=r"trainer-a uses 2, got \[2\]"):
        share_out(settings("trainer.ranks=2", "resources.gpus={ trainer-a = [2] }"), 4)


def test_where_no_trainer_is_started_none_is_given_a_gpu_or_refused_for_want_of_one() -> None:
    assert share_out(settings("trainer.ranks=3"), 2, trainers=False) == {"student-a": (0,), "student-b": (1,)}
    chosen = "resources.gpus={ student-a = [0], student-b = [0], trainer-a = [1, 2], trainer-b = [3, 4] }"
    one = share_out(settings("trainer.ranks=2", chosen), 1, trainers=False)
    assert one == {"student-a": (0,), "student-b": (0,)}
    with pytest.raises(ConfigError, match=r"trainer-a = \[1, 2\], and this machine has 1 GPUs"):
        share_out(settings("trainer.ranks=2", chosen), 1)


GIVEN = ("student-a=1", "trainer-a=2")


def test_what_needs_more_gpus_than_its_container_has_is_refused_and_is_told_by_what() -> None:
    require_given(settings(*VLLM, "trainer.ranks=2", "students.b.vllm.tensor_parallel_size=4"), GIVEN)
    require_given(settings(TWO[0]), GIVEN)  # its engine is none of vLLM
    beside = settings(*VLLM, *TWO, "students.a.vllm.url=unix:/run/a.sock")
    with pytest.raises(ConfigError, match=r"student-a needs 2 GPUs and is given 1: .*opcod compose"):
        require_given(beside, GIVEN)
    with pytest.raises(ConfigError, match=r"trainer-a needs 3 GPUs and is given 2: .*lower trainer\.ranks"):
        require_given(settings("trainer.ranks=3"), GIVEN)
    for wrong in ("trainer-c=1", "trainer-a", "broker=1"):
        with pytest.raises(ConfigError, match=f"expected a student or trainer of a, b.*got {wrong}"):
            require_given(settings(), [wrong])


def test_a_gpu_is_named_once() -> None:
    with pytest.raises(ConfigError, match=r"trainer-a: expected each GPU once, got \[1, 1\]"):
        settings("trainer.ranks=2", "resources.gpus={ trainer-a = [1, 1] }")


def test_two_servers_on_one_gpu_must_fit() -> None:
    one = settings(*VLLM, *(f"students.{name}.vllm.gpu_memory_utilization=0.9" for name in "ab"))
    shares = share_out(one, 1)
    assert ("student-a", "student-b", 0) in shared(shares)
    with pytest.raises(ConfigError, match=r"0.9 of student-a and 0.9 of student-b are for one GPU \(0\)"):
        require_room(one, shares)
    require_room(one, share_out(one, 2))
    halves = [f"students.{name}.vllm.gpu_memory_utilization=0.4" for name in "ab"]
    require_room(settings(*VLLM, *halves), shares)
    require_room(settings(*VLLM), shares)  # what is left to the plan fits by it
    require_room(settings(*VLLM, *[f"students.{n}.vllm.gpu_memory_utilization=0.9" for n in "ab"], TURNS), shares)


def test_it_is_said_who_shares_a_gpu_and_how() -> None:
    shares = share_out(settings(*VLLM), 1)
    assert "student-a and trainer-b share GPU 0, and so its memory" in sharing(shares, turns=False)
    assert sharing(shares, turns=True) == ["student-a, student-b, trainer-a, trainer-b take turns on GPU 0"]
    assert sharing({}, turns=True) == []


WORKERS = ("inspector", "student-a", "student-b", "trainer-a", "trainer-b")


@pytest.mark.parametrize(
    ("overrides", "available", "turns"),
    [
        (VLLM, 0, [[*WORKERS[1:3], "inspector", *WORKERS[3:]]]),
        (VLLM, 1, [["student-a", "inspector"], ["student-b"], ["trainer-a", "trainer-b"]]),
        (VLLM, 2, [["student-a", "student-b", "inspector"], ["trainer-a", "trainer-b"]]),
        (VLLM, 3, [["student-a", "student-b", "inspector", "trainer-a"], ["trainer-b"]]),
        (VLLM, 4, [[*WORKERS[1:3], "inspector", *WORKERS[3:]]]),
        ((), 1, [list(WORKERS)]),
        (VLLM[1:], 1, [["student-b", "inspector"], ["student-a", "trainer-a", "trainer-b"]]),
        (("students.a.engine=scripted", *VLLM[1:], "students.b.vllm.url=unix:/run/vllm"), 1, [[*WORKERS]]),
    ],
)
def test_on_a_gpu_with_a_server_all_start_one_after_the_other_and_servers_first(
    overrides: tuple[str, ...], available: int, turns: list[list[str]]
) -> None:
    one = settings(*overrides)
    found = starts(one, share_out(one, available), WORKERS)
    assert [sorted(turn) for turn in found] == [sorted(turn) for turn in turns]


def test_who_shares_a_gpu_works_in_turns() -> None:
    shares: Shares = {"trainer-a": (0,), "trainer-b": (0,)}
    assert apart(shares, ["trainer-a", "trainer-b"]) == [["trainer-a"], ["trainer-b"]]
    assert apart({**shares, "trainer-b": (1,)}, ["trainer-a", "trainer-b"]) == [["trainer-a", "trainer-b"]]
    assert apart({}, ["trainer-a", "trainer-b"]) == [["trainer-a", "trainer-b"]]
    assert apart({}, []) == []


def test_indices_are_into_what_we_may_see() -> None:
    assert visible((0, 2), {}) == "0,2"
    assert visible((0, 2), {"CUDA_VISIBLE_DEVICES": "4, 5,GPU-7"}) == "4,GPU-7"
