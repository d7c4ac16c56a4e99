"""Short ways to read queues in the contract tests."""

from shared.bus.port import Delivery
from tests.contract.conftest import AnyBus
from tests.contract.messages import QUEUES, RESULT_QUEUE


def take(bus: AnyBus, consumer: str = "replica-0", limit: int = 10, block_s: float = 0) -> list[Delivery]:
    return bus.take(QUEUES, consumer, limit=limit, block_s=block_s)


def keys(deliveries: list[Delivery]) -> list[str]:
    return [delivery.message.key for delivery in deliveries]


def results(bus: AnyBus) -> list[str]:
    return keys(bus.take(RESULT_QUEUE, "reader", limit=100, block_s=0))
