"""Signals: noted where everything is stopped in order, raised where one thing takes long."""

import os
import signal
import time

import pytest

from opcod.local.signals import SIGNALS, interruptible, stoppable
from shared.errors import StoppedError


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with interruptible() as interrupted:
        assert not interrupted()
        os.kill(os.getpid(), number)
        assert interrupted()
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", SIGNALS)
def test_what_takes_long_is_stopped_by_a_signal_also_where_signals_are_noted(number: signal.Signals) -> None:
    with interruptible() as interrupted:
        with pytest.raises(StoppedError, match="stopped while fetching"), stoppable("fetching"):
            os.kill(os.getpid(), number)
            time.sleep(5)
        assert not interrupted()
        os.kill(os.getpid(), number)
        assert interrupted(), "noted again afterwards"
