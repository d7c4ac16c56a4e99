"""The plan of the GPUs' memory: what fits which cards, what follows for settings, and what is refused, with numbers."""

from dataclasses import replace

import pytest

from opcod.local.gpus import Shares, share_out
from opcod.planning.cards import GIB, RESERVE, CardPlan, CardPlanner
from opcod.planning.host import host_needs
from opcod.planning.memory import GPU_CHUNK_ROWS, MemoryPart, sequence_bytes, trainer_need
from opcod.planning.shapes import KNOWN_SHAPES, shape_of
from opcod.planning.work import Lengths
from shared.config.loading import load_settings
from shared.config.settings import RunSettings

# config.json of Qwen/Qwen3-8B, as far as sizes hang on it.
QWEN3_8B = {
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": False,
    "model_type": "qwen3",
}
GB = 10**9
LENGTHS = Lengths(mean=300.0, longest=800, teacher_extra=200, feedback_extra=400, problems=5, measured=True)
TURNS = ("resources.turns=true",)
FULL = ("run.weights=full", "run.schedule=sequential")
TWO_COPIES = ("students.a.vllm.data_parallel_size=2", "students.b.vllm.data_parallel_size=2")
SHORT = ("rollout.max_tokens=1024", "evaluation.max_tokens=1024", "specialize.sampling.max_tokens=1024")


def settings(*overrides: str) -> RunSettings:
    return load_settings(preset="phys-chem", overrides=overrides, environ={})


def planner(cards: int, size_gb: float, *overrides: str) -> CardPlanner:
    """Of the paper's pair on cards of one size."""
    shape, chosen = shape_of(QWEN3_8B), settings(*overrides)
    assert shape is not None
    shares = share_out(chosen, cards)
    return CardPlanner(chosen, {"a": shape, "b": shape}, LENGTHS, shares, [round(size_gb * GB)] * cards)


def taken(plan: CardPlan, service: str) -> float:
    """GB of a service, on the first of its cards."""
    return next(need.bytes for card in plan.cards for need in card.needs if need.service == service) / GB


def part(plan: CardPlan, service: str, name: str) -> MemoryPart:
    parts = [p for card in plan.cards for need in card.needs if need.service == service for p in need.parts]
    return next(each for each in parts if each.name.startswith(name))


@pytest.mark.parametrize(
    ("cards", "size_gb", "overrides", "fits"),
    [
        (1, 80, (), False),
        (1, 80, TURNS, True),
        (1, 24, TURNS, False),
        (1, 141, (), True),
        (2, 80, (), True),
        (4, 80, (), True),
        (8, 80, TWO_COPIES, True),
        (1, 24, (), False),
        (2, 24, (), False),
        (4, 24, (), False),
        (4, 24, (*SHORT, "lora.rank=16"), True),
        (1, 80, FULL, False),
        (2, 80, FULL, False),
        (4, 80, FULL, False),
        (8, 80, (*FULL, *TWO_COPIES), False),
        (4, 288, FULL, True),
    ],
)
def test_which_cards_hold_two_students_of_8b(
    cards: int, size_gb: float, overrides: tuple[str, ...], fits: bool
) -> None:
    plan = planner(cards, size_gb, *overrides).plan()
    assert (not plan.refused) == fits, plan.refused
    assert all((card.left >= 0) for card in plan.cards) == fits
    assert bool(plan.servers) == fits and (plan.pass_tokens is not None) == fits


def test_in_turns_each_has_the_card_but_for_what_the_others_keep_there() -> None:
    """CUDA's contexts, and the servers' graphs."""
    plan = planner(1, 80, *TURNS).plan()
    (card,) = plan.cards
    resting = {need.service: need.resting / GIB for need in card.needs}
    assert resting == {"student-a": 1.75, "student-b": 1.75, "trainer-a": 0.75, "trainer-b": 0.75}
    for need in card.needs:
        others = sum(kept for service, kept in resting.items() if service != need.service)
        assert need.bytes / GIB + others <= card.room / GIB
    # Each alone may grow as if the others were not there.
    assert plan.pass_tokens == 16384
    assert plan.servers["a"] == plan.servers["b"]
    grown = part(plan, "student-a", "keys and values").bytes
    assert grown > 2 * part(planner(2, 80).plan(), "student-a", "keys and values").bytes
    assert "let them take turns on one (resources.turns = true)" in planner(1, 80).plan().refused[0]
    assert "take turns" not in planner(1, 80, "students.a.engine=transformers").plan().refused[0]
    assert "take turns" not in planner(1, 24).plan().refused[0]


def test_replicas_are_planned_like_the_first_and_have_the_cache_of_the_one_with_the_least_room() -> None:
    eight = planner(8, 80, "students.a.replicas=3", "students.b.replicas=3").plan()
    assert [[need.service for need in card.needs] for card in eight.cards] == [
        *(["student-a"], ["student-a-1"], ["student-a-2"], ["student-b"], ["student-b-1"], ["student-b-2"]),
        *(["trainer-a"], ["trainer-b"]),
    ]
    assert {round(taken(eight, f"student-{name}"), 6) for name in ("a", "a-1", "a-2", "b", "b-1", "b-2")} == {
        round(taken(planner(4, 80).plan(), "student-a"), 6)
    }
    # One replica of a beside b's trainer: all of a have the smaller cache, and what b's has is left alone.
    three = planner(3, 80, "students.a.replicas=2", "students.b.engine=scripted").plan()
    assert {need.service for need in three.cards[1].needs} == {"student-a-1"}
    two = planner(2, 80, "students.a.replicas=2", "students.b.engine=scripted").plan()
    first, second = (part(two, name, "keys and values").bytes for name in ("student-a", "student-a-1"))
    assert first == second == two.servers["a"].kv_cache_memory_bytes
    on_host = {
        need.service for need in host_needs(settings("students.a.replicas=2"), {"a": KNOWN_SHAPES["Qwen/Qwen3-8B"]})
    }
    assert {"student-a-1", "engine-a-1", "student-a", "engine-a"} <= on_host


def test_a_share_that_is_set_is_of_each_replicas_own_card() -> None:
    """Of the larger card more is taken, so that a trainer has no room beside it."""
    shape = KNOWN_SHAPES["Qwen/Qwen3-8B"]
    chosen = settings("students.a.replicas=2", "students.a.vllm.gpu_memory_utilization=0.75")
    shares: Shares = {"student-a": (0,), "trainer-a": (0,), "student-a-1": (1,)}
    plan = CardPlanner(chosen, {"a": shape}, LENGTHS, shares, [80 * GB, 32 * GB]).plan()
    assert taken(plan, "student-a") == pytest.approx(60, abs=0.1)
    assert taken(plan, "student-a-1") == pytest.approx(24, abs=0.1)
    assert "student-a 55.9, trainer-a" in plan.refused[0]


def test_what_is_advised_for_replicas_that_do_not_fit_can_be_done() -> None:
    (reason,) = planner(1, 80, "students.a.replicas=2", "run.stream=false").plan().refused
    assert "start fewer replicas (students.<x>.replicas)" in reason and "turns" not in reason
    small = planner(6, 80, "students.a.replicas=2", "students.a.vllm.gpu_memory_utilization=0.1").plan()
    assert len(small.refused) == 1, "once for all replicas"


def test_the_least_that_an_adapter_of_8b_takes() -> None:
    """About 23 GB of a server and 26 of a trainer with its longest row."""
    least = planner(1, 80).plan()
    assert taken(least, "student-a") == pytest.approx(22.9, abs=0.1)
    assert taken(least, "trainer-a") == pytest.approx(26.2, abs=0.1)
    (reason,) = least.refused
    assert "GPU 0 has 74.5 GiB, of which 71.5 can be planned with" in reason
    assert "needs 91.3 at least (student-a 21.3, student-b 21.3, trainer-a 24.4, trainer-b 24.4)" in reason
    assert "give them more cards (resources.gpus)" in reason


def test_the_least_that_full_weights_of_8b_take() -> None:
    """24 bytes a parameter, and the gradient of the output layer in fp32."""
    plan = planner(4, 80, *FULL).plan()
    assert taken(plan, "trainer-a") == pytest.approx(24 * 8.19 + 4 * 0.62 + 6.3, abs=0.2)
    assert len(plan.refused) == 2, "each trainer by its card"
    assert 'train an adapter (run.weights = "lora")' in plan.refused[0]
    assert "more cards" not in plan.refused[0], "it would not fit one of its own either"
    assert "adapters" not in {each.name for card in plan.cards for need in card.needs for each in need.parts}


def test_a_card_is_filled_but_for_the_reserve() -> None:
    plan = planner(2, 80).plan()
    for card in plan.cards:
        assert 0 <= card.left < 0.01 * card.bytes
        assert sum(need.bytes for need in card.needs) <= (1 - RESERVE) * card.bytes
    server = plan.servers["a"]
    assert server.gpu_memory_utilization is not None and server.kv_cache_memory_bytes is not None
    assert server.gpu_memory_utilization * 80 <= taken(plan, "student-a") < (server.gpu_memory_utilization + 0.001) * 80
    assert part(plan, "student-a", "keys and values").bytes == server.kv_cache_memory_bytes
    # 4096 + 1024 + 800 + 200 + 4096, a tenth more, in steps of 256.
    assert server.max_model_len == 11264


def test_what_is_planned_is_nested_as_settings_are() -> None:
    plan = planner(2, 80).plan()
    assert plan.settings() == {
        "optimizer": {"micro_batch_tokens": plan.pass_tokens},
        "students": {
            name: {
                "vllm": {
                    "gpu_memory_utilization": plan.servers[name].gpu_memory_utilization,
                    "kv_cache_memory_bytes": plan.servers[name].kv_cache_memory_bytes,
                    "max_model_len": 11264,
                }
            }
            for name in "ab"
        },
    }


def test_larger_passes_get_half_of_what_is_left_beside_a_server_and_all_alone() -> None:
    tight = planner(2, 56).plan()
    assert tight.pass_tokens is not None and 1024 < tight.pass_tokens < 16384
    grown = (
        part(tight, "trainer-a", "activations").bytes - part(planner(1, 56).plan(), "trainer-a", "activations").bytes
    )
    spare = 0.96 * 56 * GB - 1e9 * (22.85 + 26.2)
    assert 0.3 * spare < grown <= 0.51 * spare
    assert planner(4, 56).plan().pass_tokens == 16384, "each on a card of its own"


def test_a_server_alone_gets_no_more_than_its_slots_can_use() -> None:
    plan = planner(4, 80, "students.a.slots=4").plan()
    shape = shape_of(QWEN3_8B)
    assert shape is not None
    assert plan.servers["a"].kv_cache_memory_bytes == 4 * sequence_bytes("a", settings(), shape, LENGTHS)
    assert plan.cards[0].left > 40 * GB > plan.cards[1].left


def test_experts_that_a_token_does_not_go_through_take_their_room() -> None:
    config = QWEN3_8B | {"model_type": "qwen3_moe", "hidden_size": 2048, "num_key_value_heads": 4, "num_experts": 128}
    config |= {"moe_intermediate_size": 768, "num_experts_per_tok": 8, "intermediate_size": 6144}
    shape = shape_of(config, {"all of its weights": (30_532_122_624,)})
    assert shape is not None
    for size, fits in ((80, True), (64, False)):
        plan = replace(planner(4, size), shapes={"a": shape, "b": shape}).plan()
        assert (not plan.refused) == fits
        assert part(plan, "student-a", "weights").bytes == part(plan, "trainer-a", "weights").bytes == 61_064_245_248
        assert all(card.left >= 0 for card in plan.cards) == fits


def test_two_copies_share_the_slots_and_two_halves_the_weights() -> None:
    copies = planner(8, 288, *TWO_COPIES, "students.a.slots=8").plan()
    halves = planner(8, 288, "students.a.vllm.tensor_parallel_size=2", "students.a.slots=8").plan()
    whole = planner(8, 288, "students.a.slots=8").plan()
    one, two, split = (plan.servers["a"].kv_cache_memory_bytes or 0 for plan in (whole, copies, halves))
    assert one == 2 * two == 2 * split
    assert part(halves, "student-a", "weights").bytes * 2 == part(whole, "student-a", "weights").bytes


def test_what_is_set_is_kept() -> None:
    chosen = [f"students.{s}.vllm.gpu_memory_utilization=0.4" for s in "ab"]
    plan = planner(2, 80, *chosen, "optimizer.micro_batch_tokens=2048", "students.a.vllm.max_model_len=12000").plan()
    assert not plan.refused
    assert plan.pass_tokens is None
    assert taken(plan, "student-a") == pytest.approx(32.0, abs=1e-6)
    assert plan.servers["a"].gpu_memory_utilization is None and plan.servers["a"].kv_cache_memory_bytes is None
    assert (plan.servers["a"].max_model_len, plan.servers["b"].max_model_len) == (None, 11264)
    cache = planner(2, 80, "students.a.vllm.kv_cache_memory_bytes=3000000000").plan()
    assert part(cache, "student-a", "keys and values").bytes == 3 * GB
    assert cache.servers["a"].kv_cache_memory_bytes is None
    assert cache.servers["a"].gpu_memory_utilization == pytest.approx(24.2 / 80, abs=0.002)


def test_heads_that_a_server_cannot_share_out_are_refused_with_the_sizes_that_can() -> None:
    """Qwen2.5-7B's heads; of Qwen3-8B's each of eight cards has one of keys."""
    eight = ("students.a.vllm.tensor_parallel_size=8",)
    assert not planner(8, 80, *eight).plan().refused
    shape = shape_of({**QWEN3_8B, "num_attention_heads": 28, "num_key_value_heads": 4})
    assert shape is not None
    (refused,) = replace(planner(8, 80, *eight), shapes={"a": shape, "b": shape}).plan().refused
    assert "students.a.vllm.tensor_parallel_size = 8 does not share out" in refused
    assert "28 heads of queries and 4 of keys: set 1 or 2 or 4 or 28, and" in refused


def test_a_share_that_is_too_small_is_refused_with_what_is_needed() -> None:
    plan = planner(4, 80, "students.a.vllm.gpu_memory_utilization=0.25").plan()
    (reason,) = plan.refused
    assert "students.a.vllm.gpu_memory_utilization = 0.25 is 18.6 GiB of a card of 74.5" in reason
    assert "needs 21.3 with one sequence of the longest: raise it" in reason


def test_a_server_alone_on_its_card_may_be_set_to_nearly_all_of_it() -> None:
    assert not planner(4, 80, "students.a.vllm.gpu_memory_utilization=0.98").plan().refused
    assert planner(2, 80, "students.a.vllm.gpu_memory_utilization=0.98").plan().refused, "a trainer is beside it"


def test_recomputation_is_what_lets_a_trainer_share_its_card() -> None:
    all_kept = ("trainer.recompute=false", "students.a.specialize=false", "students.b.specialize=false")
    kept = planner(2, 72, *all_kept).plan()
    assert "make activations again (trainer.recompute = true)" in kept.refused[0]
    assert "shorten answers or passes (rollout.max_tokens, optimizer.micro_batch_tokens)" in kept.refused[0]
    assert not planner(4, 72, *all_kept).plan().refused
    assert not planner(2, 72).plan().refused


def test_a_run_that_goes_on_keeps_its_passes_while_they_fit() -> None:
    assert replace(planner(2, 80), begun=3072).plan().pass_tokens == 3072
    assert replace(planner(2, 80), begun=10**6).plan().pass_tokens == 16384


def test_specialists_come_before_the_run_and_add_nothing_to_it() -> None:
    plan = planner(2, 80).plan()
    assert [[need.service for need in card.before] for card in plan.cards] == [["specialist-a"], ["specialist-b"]]
    brought = planner(2, 80, "students.a.specialize=false", "students.b.specialize=false").plan()
    assert not any(card.before for card in brought.cards)
    assert [card.left for card in plan.cards] == [card.left for card in brought.cards]
    long = planner(4, 36, "rollout.max_tokens=1024", "specialize.sampling.max_tokens=30000").plan()
    assert any("to fine-tune student a takes" in reason for reason in long.refused)


def test_a_gpus_chunk_is_planned_as_the_trainer_takes_it() -> None:
    torch = pytest.importorskip("torch")
    from services.trainer.step.divergence import chunk_rows

    assert chunk_rows(151_936, torch.device("cuda")) == GPU_CHUNK_ROWS


def test_an_adapter_for_a_vllm_server_is_kept_exactly_and_rounded() -> None:
    shape = KNOWN_SHAPES["Qwen/Qwen3-8B"]
    each = shape.adapter_parameters(64, 0)
    parts = {part.name: part.bytes for part in trainer_need("a", settings(), shape, LENGTHS, gpu=True).parts}
    assert parts["adapter and gradient, fp32, and rounded"] == (4 + 4 + 2) * each
    assert parts["EMA teacher, fp32 and rounded"] == (4 + 2) * each


def test_moments_on_the_host_are_planned_there_and_a_tensor_s_at_a_time_on_the_card() -> None:
    shape = KNOWN_SHAPES["Qwen/Qwen3-8B"]
    full = ("run.weights=full", "run.schedule=sequential")
    for more in (full, (), (*full, "trainer.ranks=4")):
        plain, hosted = (settings(*more, *set_to) for set_to in ((), ("optimizer.offload=moments",)))
        before, after = (trainer_need("a", each, shape, LENGTHS, gpu=True) for each in (plain, hosted))
        trained = shape.parameters // hosted.trainer.ranks if more else shape.adapter_parameters(64, 0)
        # The largest of an adapter's tensors is B of gate or up, of all weights the embedding.
        largest = 151_936 * 4096 // hosted.trainer.ranks if more else 64 * 12_288
        assert before.bytes - after.bytes == pytest.approx(8 * (trained - largest), abs=64)
        on_host = [{need.service: need.bytes for need in host_needs(each, {"a": shape})} for each in (plain, hosted)]
        assert on_host[1]["trainer-a"] - on_host[0]["trainer-a"] == pytest.approx(
            8 * trained * (hosted.trainer.ranks if more else 1), abs=64
        )
        assert on_host[1]["student-a"] == on_host[0]["student-a"]
    assert trainer_need("a", settings("optimizer.offload=moments"), shape, LENGTHS, gpu=False) == trainer_need(
        "a", settings(), shape, LENGTHS, gpu=False
    )


def test_ranks_share_out_full_weights_and_each_holds_a_whole_adapter() -> None:
    def parts(*overrides: str, gpu: bool = True) -> dict[str, int]:
        need = trainer_need("a", settings(*overrides), KNOWN_SHAPES["Qwen/Qwen3-8B"], LENGTHS, gpu=gpu)
        return {part.name: part.bytes for part in need.parts}

    full = ("run.weights=full", "run.schedule=sequential")
    four = parts(*full, "trainer.ranks=4")
    kept = sum(size for name, size in four.items() if "of 4 parts one" in name)
    assert kept == pytest.approx(20 / 4 * 8.19e9, rel=1e-3)
    # Both models' embedding and output layer in bf16, and two blocks of each.
    assert four["weights that are whole"] == pytest.approx(2 * 2 * (1.245e9 + 0.193e9), rel=1e-2)
    assert sum(four.values()) < 0.45 * sum(parts(*full).values())
    untaught = parts(*full, "trainer.ranks=4", "run.method=grpo", "gate.mode=cognizance")
    assert four.keys() - untaught.keys() == {"EMA teacher, fp32, of 4 parts one"}
    assert untaught["weights that are whole"] < four["weights that are whole"]
    assert parts("trainer.ranks=4") == parts()
    alone, twice = parts(gpu=False), parts("trainer.ranks=2", gpu=False)
    assert {name for name in alone if twice[name] == alone[name]} == {"weights"}, "mapped once by both"
    assert twice["runtime"] == 2 * alone["runtime"]
