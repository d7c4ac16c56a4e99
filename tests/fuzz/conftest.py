"""How long the fuzz targets go on, and their seed; how many examples each tried stands below the results.

By itself each tries a fixed number of examples, the same each time. OPCOD_FUZZ_S: seconds of all that were selected
together; then `--hypothesis-seed` decides where they begin.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fuzz.harness import Fuzz

TOGETHER_S = float(os.environ.get("OPCOD_FUZZ_S", "0"))
SHRINKING_S = 400.0
"""What hypothesis may take on top, and some more."""


def is_target(item: pytest.Item) -> bool:
    return "fuzz" in getattr(item, "fixturenames", ())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in filter(is_target, items):
        item.add_marker(pytest.mark.timeout(TOGETHER_S + SHRINKING_S))


@pytest.fixture
def fuzz(
    tmp_path: Path, request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> Iterator[Fuzz]:
    targets = sum(map(is_target, request.session.items))
    share_s = TOGETHER_S / targets if TOGETHER_S else None
    target = Fuzz(tmp_path, seed=int(request.config.getoption("--hypothesis-seed")), seconds=share_s)
    yield target
    time = "" if share_s is None else f" in {share_s:g} s, --hypothesis-seed={target.seed}"
    record_property("fuzz", f"{target.tried:,} examples{time}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    ended = [each for reports in terminalreporter.stats.values() for each in reports if told_when(each) == "teardown"]
    for report in ended:
        for told in (value for name, value in report.user_properties if name == "fuzz"):
            terminalreporter.write_line(f"{report.nodeid.partition('::')[2]}: {told}")


def told_when(report: object) -> str | None:
    return getattr(report, "when", None)
