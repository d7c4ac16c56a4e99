"""A trainer that shares its card, on a bus in memory: on it in its turn alone, and off it whatever became of a step."""

from shared.bus.keys import CARD
from shared.bus.turns import CardTurn
from shared.clock import SystemClock
from shared.contracts.weights import StepFailed
from tests.fakes.bus.outliving import outlive
from tests.fakes.waiting import wait_until
from tests.unit.trainer.consuming import LEASE_S, QUEUE, Ground, steps_of
from tests.unit.trainer.ground import seal_steps


def test_a_trainer_that_shares_its_card_works_in_its_turn_and_leaves_it_after_each_step(ground: Ground) -> None:
    def turn_of(holder: str) -> CardTurn:
        return CardTurn(ground.bus, holder, SystemClock(), ttl_s=LEASE_S)

    moves: list[str] = []
    engine, own = turn_of("student-a"), turn_of("trainer-a")
    assert engine.ask()
    with ground.running(turn=own) as one:
        real = one.trainer.move

        def move(device: str) -> None:
            assert own.held and not engine.held
            moves.append(f"{device} {one.trainer.step}")
            real(device)

        one.trainer.move = move  # type: ignore[method-assign]
        for sealed in seal_steps(ground.run_dir, ground.tiny_dir, 2):
            ground.bus.publish(QUEUE, sealed)
        wait_until(lambda: bool(ground.bus.waiting(CARD, ttl_s=LEASE_S)), "the trainer to wait for the card")
        outlive(ground.bus.server, LEASE_S)
        assert one.trainer.step == 0 and not own.held
        engine.give_back()
        assert steps_of(ground.read(2)) == [1, 2]
        wait_until(lambda: engine.ask(), "the card for the engine")
        assert one.board.problem() is None
    # To its device and off it again, for what it begins with and for each step.
    assert moves == ["cpu 0", "cpu 0", "cpu 0", "cpu 1", "cpu 1", "cpu 2"]
    engine.give_back()


def test_a_refused_step_leaves_the_card_to_others(ground: Ground) -> None:
    own = CardTurn(ground.bus, "trainer-a", SystemClock(), ttl_s=LEASE_S)
    (sealed,) = seal_steps(ground.run_dir, ground.tiny_dir, 1)
    (ground.run_dir / sealed.uri / "groups.jsonl").write_bytes(b"lost")
    with ground.running(turn=own):
        ground.bus.publish(QUEUE, sealed)
        (failed,) = ground.read(1)
        assert isinstance(failed, StepFailed)
        wait_until(lambda: not own.held, "the end of its turn")
