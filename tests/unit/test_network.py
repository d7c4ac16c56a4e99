"""How a machine finds out by which address others reach it."""

import pytest

from shared.errors import UnavailableError
from shared.network import address_towards, interface_towards


def test_a_machine_faces_itself_on_its_loopback() -> None:
    assert address_towards("127.0.0.1") == "127.0.0.1"
    assert interface_towards("localhost") == "lo"


def test_a_host_that_nobody_knows_is_named() -> None:
    with pytest.raises(UnavailableError, match=r"expected a way from this node to no-such-node\.invalid"):
        address_towards("no-such-node.invalid")
