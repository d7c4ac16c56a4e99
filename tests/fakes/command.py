"""`opcod`, called in this process as a shell would: a process of its own would take a second to begin."""

import sys

import pytest

from opcod.main import main


def call_opcod(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code."""
    monkeypatch.setattr(sys, "argv", ["opcod", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    code = ended.value.code or 0
    assert isinstance(code, int)
    return code
