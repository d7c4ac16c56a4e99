"""One namespace for the whole checklist, and the page that it ends with; skipped but by `make test-cluster`."""

import os
import subprocess
import uuid
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.cluster.cluster import PREPARED_S, ROOT, Cluster, NoClusterError, facts, require_cluster

WANTED = "OPCOD_CLUSTER"
PAGE = Path(os.environ.get("OPCOD_CLUSTER_PAGE", ROOT / "build" / "cluster.md"))


@dataclass
class Report:
    """What stands on the page. checks: title, outcome, seconds, what was said."""

    facts: dict[str, str] = field(default_factory=dict)
    checks: list[tuple[str, str, float, str]] = field(default_factory=list)
    left: str = ""


REPORT = pytest.StashKey[Report]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REPORT] = Report()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(3600))
            if not os.environ.get(WANTED):
                item.add_marker(pytest.mark.skip(reason="needs a cluster; `make test-cluster` runs these"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    told = yield
    asked = os.environ.get(WANTED) and Path(__file__).parent in item.path.parents
    if asked and (told.when == "call" or told.outcome != "passed"):
        title = item.name.removeprefix("test_").replace("_", " ")
        said = "" if call.excinfo is None else call.excinfo.exconly()[:1500]
        item.config.stash[REPORT].checks.append((title, told.outcome, call.duration, said))
    return told


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    report = config.stash[REPORT]
    if report.facts:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(page(report))
        terminalreporter.section("the page to send back")
        terminalreporter.write(page(report))
        terminalreporter.write_line(f"It lies in {PAGE}, too.")


def page(report: Report) -> str:
    revision = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    lines = [
        "# opcod on a cluster",
        "",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, revision {revision.stdout.strip() or 'unknown'}",
        "",
        *(f"- {name}: {value}" for name, value in report.facts.items()),
        "",
        "| check | outcome | seconds |",
        "|---|---|---|",
        *(f"| {title} | {outcome} | {seconds:.0f} |" for title, outcome, seconds, _ in report.checks),
        "",
    ]
    for title, outcome, _, said in report.checks:
        if outcome == "failed":
            lines += [f"## {title}", "", "```", said, "```", ""]
    if report.left:
        lines += ["## What was there at the end", "", "```", report.left, "```", ""]
    return "\n".join(lines)


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> Iterator[Cluster]:
    """Where our namespace will be. It is deleted at the end, whatever happened."""
    try:
        server = require_cluster()
    except NoClusterError as error:
        pytest.skip(str(error))
    report = pytestconfig.stash[REPORT]
    report.facts = facts(server)
    namespace = f"opcod-check-{uuid.uuid4().hex[:6]}"
    ours = Cluster(namespace, ROOT / "build" / "k8s" / namespace)
    try:
        yield ours
    finally:
        report.left = left_by(ours)
        ours.delete()


def left_by(cluster: Cluster) -> str:
    """Empty if the namespace is gone."""
    try:
        warnings = cluster.run("get", "events", "--field-selector", "type=Warning", "--sort-by=.lastTimestamp")
        return (
            "\n".join([cluster.run("get", "pods"), *warnings.splitlines()[-20:]])
            if cluster.get("pods")["items"]
            else ""
        )
    except AssertionError as error:
        return str(error)


@pytest.fixture(scope="session")
def prepared(cluster: Cluster) -> Cluster:
    """With all objects there, and the job `prepare` done."""
    cluster.apply()
    cluster.run(
        "wait", "--for=condition=complete", "job/prepare", f"--timeout={PREPARED_S:.0f}s", timeout_s=PREPARED_S + 30
    )
    return cluster


@pytest.fixture(scope="session")
def up(prepared: Cluster) -> Cluster:
    """With every service ready."""
    prepared.until_rolled_out()
    return prepared
