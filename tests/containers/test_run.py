"""A run of the preset smoke from `up` to its end, as docs/deploy.md says a person does it."""

import json
from typing import Any

from playwright.sync_api import expect

from tests.browser.chromium import chromium, viewer
from tests.containers.project import LASTING, SERVICES, Event, Project
from tests.deploy.deployed import compose
from tests.fakes.waiting import wait_until

QUESTION = "A circuit carries 3 A through 4 ohm. What is the voltage?"
CONTAINERS = compose("cpu")["services"]
OUR_UID, REDIS_UID = "10001", "999"
CGROUP_MEMORY = "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes"


def first(events: list[Event], service: str, action: str) -> Event:
    return next(event for event in events if (event.service, event.action) == (service, action))


def test_smoke_from_up_to_its_report(project: Project) -> None:
    with project.events() as events:
        announced = project.begin("first")
    assert "opcod is up" in announced
    assert_order(events)
    for service in LASTING:
        assert_confined(project, service)
    assert_owners(project)
    assert_keys(project)
    assert_page(announced, project)
    assert_watched(project)

    assert project.until_done().steps == {"a": 1, "b": 1}
    project.until_ended("report")
    assert (project.run_dir() / "report" / "report.md").read_text().startswith("# Run first")
    assert project.command("status").count(" ready") == len(SERVICES)
    assert project.command("ask", QUESTION, "--seed", "1").startswith("a (a@v1) answers:")
    assert "b" in project.command("feedback", "tail", "--no-follow")

    project.compose("stop")
    ends = {service: project.state(service) for service in LASTING}
    assert {service: (end["ExitCode"], end["OOMKilled"]) for service, end in ends.items()} == dict.fromkeys(
        LASTING, (0, False)
    )


def assert_order(events: list[Event]) -> None:
    """Nothing starts before what it needs is there."""
    for name, service in CONTAINERS.items():
        began = first(events, name, "start").at_s
        for other, need in service.get("depends_on", {}).items():
            if other not in CONTAINERS:
                continue  # of another profile
            if need["condition"] == "service_healthy":
                assert first(events, other, "health_status: healthy").at_s < began, (name, other)
            elif need["condition"] == "service_started":
                assert first(events, other, "start").at_s < began, (name, other)
            else:
                died = first(events, other, "die")
                assert died.code == 0 and died.at_s < began, (name, other)


def assert_confined(project: Project, service: str) -> None:
    """A user of no rights on a file system that takes nothing, within the file's bound of memory."""
    uid = REDIS_UID if service == "redis" else OUR_UID
    assert project.execute(service, "id", "-u").strip() == uid
    refused = project.execute(service, "sh", "-c", "touch /opt/written 2>&1 || true")
    assert "Read-only file system" in refused, service
    limit = project.execute(service, "sh", "-c", CGROUP_MEMORY)
    assert int(limit) == int(CONTAINERS[service]["mem_limit"]), service
    capabilities = project.execute(service, "grep", "CapEff", "/proc/self/status").split()
    assert int(capabilities[1], 16) == 0, service


def assert_owners(project: Project) -> None:
    for volume in ("runs", "cache", "secrets"):
        assert project.execute("broker", "stat", "-c", "%u", f"/data/{volume}").strip() == OUR_UID, volume
    assert project.execute("redis", "stat", "-c", "%u", "/data").strip() == REDIS_UID
    assert project.execute("broker", "stat", "-c", "%a", "/data/secrets/key").strip() == "600"


def assert_keys(project: Project) -> None:
    run = "/v1/runs/first"
    assert project.ask_api(run, None).status_code == 401
    assert project.ask_api(run, "nobody's").status_code == 401
    assert project.ask_api(run, project.keys.strongest).status_code == 200


def assert_page(announced: str, project: Project) -> None:
    """The announced link opens the page, once, through the published port."""
    (link,) = [word for word in announced.split() if "/login?once=" in word]
    assert link.startswith(project.page)
    with chromium() as browser:
        with viewer(browser, project.page) as person:
            person.open(link.removeprefix(project.page))
            expect(person.page.get_by_text("first").first).to_be_visible()
            assert person.faults == []
        with viewer(browser, project.page) as another:
            another.open(link.removeprefix(project.page))
            assert another.page.url.startswith(f"{project.page}/login")


def assert_watched(project: Project) -> None:
    """Prometheus of the profile `monitor` takes its files, and reaches every service."""
    project.compose("--profile", "monitor", "up", "--detach", "--no-deps", "prometheus")
    project.until_healthy("prometheus")

    def ask(path: str) -> Any:
        url = f"http://127.0.0.1:9090/api/v1/{path}"
        told = project.engine.docker("exec", project.container_name("prometheus"), "wget", "-q", "-O", "-", url)
        return json.loads(told)["data"]

    def seen() -> list[str]:
        return sorted(each["labels"]["instance"] for each in ask("targets")["activeTargets"] if each["health"] == "up")

    wait_until(lambda: len(seen()) == len(SERVICES), "Prometheus to reach all services", pause_s=1)
    assert [group["name"] for group in ask("rules")["groups"]] == ["opcod"]
