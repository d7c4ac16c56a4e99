"""A network file system that fails for a moment: what lies there is whole, and is read the next time."""

import errno
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from shared.files import store


class StaleFiles:
    """Each file and directory under `root` fails `failures` times before it is opened or listed; none by default.

    tries: by name of the file or directory.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self.root = root
        self.failures = 0
        self.error = errno.ESTALE
        self.tries: Counter[str] = Counter()
        open_, listdir = Path.open, os.listdir

        def opened(path: Path, mode: str = "r", *more: Any, **options: Any) -> Any:
            if mode.startswith("r"):
                self._look(path)
            return open_(path, mode, *more, **options)

        def listed(path: Any = ".") -> list[str]:
            self._look(Path(path))
            return listdir(path)

        monkeypatch.setattr(store, "FIRST_WAIT_S", 0.001)
        monkeypatch.setattr(Path, "open", opened)
        monkeypatch.setattr(os, "listdir", listed)

    def fail(self, failures: int, error: int = errno.ESTALE) -> None:
        self.failures, self.error = failures, error
        self.tries.clear()

    def _look(self, path: Path) -> None:
        if not path.is_relative_to(self.root):
            return
        self.tries[path.name] += 1
        if self.tries[path.name] <= self.failures:
            raise OSError(self.error, os.strerror(self.error), str(path))
