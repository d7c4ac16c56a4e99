"""Leases on a server whose clock is moved by hand: none runs out because a machine stood still for a while."""

from tests.fakes.bus.memory_server import MemoryServer
from tests.fakes.student import HandClock
from tests.fakes.waiting import wait_until


def pass_s(server: MemoryServer, seconds: float) -> None:
    """Whatever is not renewed meanwhile is older by so much."""
    assert isinstance(server.clock, HandClock)
    with server.changed:
        server.clock.now_s += seconds
        server.changed.notify_all()


def is_renewed(server: MemoryServer, lease_s: float) -> bool:
    """All that is held has been, since time last passed."""
    return server.left_s(lease_s) > 0.9 * lease_s


def outlive(server: MemoryServer, lease_s: float) -> None:
    """Two and a half leases pass, each half of one once all that is held was renewed since the last."""
    for _ in range(5):
        pass_s(server, lease_s / 2)
        wait_until(lambda: is_renewed(server, lease_s), "the renewal of all that is held", pause_s=0.01)
