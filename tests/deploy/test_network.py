"""Network policies proved by connections: what docs/security.md lists gets through, everything else does not.

Each kind of pod of an overlay has a network namespace, and so have those who are no pods of ours; between them stands a
node with the rules that the policies mean (`filtering.py`). What a cluster's own network plugin makes of the policies
only a cluster tells.
"""

import json
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.deploy.deployed import FOLLOWERS, ROOT, Tree, of_kind, pods
from tests.deploy.filtering import NAMESPACE, End, ruleset
from tests.deploy.overlays import ALL, EACH, SERVICES, is_grouped, listening, must_reach
from tests.deploy.tools import tool
from tests.fakes.waiting import wait_until

INSIDE = ["unshare", "--user", "--map-root-user", "--net", "--mount"]
PROGRAM = [*INSIDE, sys.executable, "-m", "tests.deploy.namespaces"]
LIMIT_S = 180
STRANGERS = (
    End("dns", "10.78.0.1", "kube-system", {"k8s-app": "kube-dns"}),
    End("scheduler", "10.78.0.2", "kube-system", {"component": "kube-scheduler"}),
    End("neighbour", "10.78.0.3", "default", {"app": "somebody"}),
    # Labels count in their own namespace only.
    End("false-broker", "10.78.0.4", "default", {"app.kubernetes.io/name": "broker", "opcod/reaches": "redis"}),
    End("proxy", "10.78.0.5", "ingress-nginx", {"app": "nginx"}),
    End("prometheus", "10.78.0.6", "monitoring", {"app": "prometheus"}),
    End("internet", "203.0.113.9", None),
    End("private", "192.168.77.9", None),
    # Of the range that some clouds give to pods and nodes.
    End("shared", "100.64.77.9", None),
    End("metadata", "169.254.169.254", None),
)
RANKS_PORT = 29400
PORTS = (*(("TCP", port) for port in (22, 53, 80, 443, 6379, 6380, RANKS_PORT, *SERVICES.values())), ("UDP", 53))

Connection = tuple[str, str, str, int]
"""Who reaches whom, by which protocol, on which port."""


def ends_of(objects: tuple[Tree, ...]) -> tuple[End, ...]:
    ours = [
        End(name, f"10.77.0.{number}", NAMESPACE, pod["metadata"]["labels"], ports_of(pod))
        for number, (name, pod) in enumerate(pods(objects).items(), start=1)
    ]
    return (*ours, *STRANGERS)


def ports_of(pod: Tree) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for each in pod["spec"]["containers"] for port in each.get("ports", [])}


@cache
def refusal() -> str | None:
    """Why namespaces cannot be made here, if so."""
    try:
        done = subprocess.run([*INSIDE, "ip", "link"], capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError as error:
        return str(error)
    return None if done.returncode == 0 else done.stderr.strip()


@pytest.fixture(autouse=True)
def _namespaces_can_be_made() -> None:
    if (why := refusal()) is not None:
        pytest.skip(f"needs network namespaces, as root or as a user who may make user namespaces: {why}")


def plan(objects: tuple[Tree, ...], *, filtered: bool = True) -> str:
    ends = ends_of(objects)
    told = {
        "called_from": str(Path("/proc/self/ns/net").readlink()),
        "addresses": {end.name: end.address for end in ends},
        "ports": PORTS,
        "rules": ruleset(objects, ends) if filtered else "",
        "nft": tool("nft"),
    }
    return json.dumps(told)


def connections(objects: tuple[Tree, ...], *, filtered: bool = True) -> set[Connection]:
    """Those that are made. Each other one is refused by a rule, at once."""
    done = subprocess.run(
        PROGRAM,
        cwd=ROOT,
        input=plan(objects, filtered=filtered),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outcomes = {
        (source, target, protocol, port): what for source, target, protocol, port, what in json.loads(done.stdout)
    }
    unclear = {each: what for each, what in outcomes.items() if what not in ("open", "refused")}
    assert not unclear, unclear
    assert len(outcomes) == len(ends_of(objects)) * (len(ends_of(objects)) - 1) * len(PORTS)
    return {each for each, what in outcomes.items() if what == "open"}


def listed(objects: tuple[Tree, ...]) -> set[Connection]:
    """Who may reach whom, as docs/security.md says in words. What strangers do among each other is not our business."""
    ends = ends_of(objects)
    return {
        (source.name, target.name, protocol, port)
        for source in ends
        for target in ends
        for protocol, port in PORTS
        if source != target and may(source, target, protocol, port, objects)
    }


def may(source: End, target: End, protocol: str, port: int, objects: tuple[Tree, ...]) -> bool:
    serves = protocol == "TCP" and (target.name, port) in listening(objects)
    match (source.namespace == NAMESPACE, target.namespace == NAMESPACE):
        case (True, True):
            ranks = is_grouped(source.name, objects) and is_grouped(target.name, objects)
            return (serves or ranks) and must_reach(source.name, target.name, objects)
        case (True, False):
            return leaves(source.name, target.name, protocol, port, external_redis="redis" not in pods(objects))
        case (False, True):
            kinds = {each["kind"] for each in objects}
            proxied = "Ingress" in kinds and source.name == "proxy" and target.name in ("broker", "inspector")
            scraped = "PodMonitor" in kinds and source.name == "prometheus" and target.name != "redis"
            return serves and (proxied or scraped)
        case _:
            return True


def leaves(source: str, target: str, protocol: str, port: int, *, external_redis: bool) -> bool:
    """Names are looked up, models fetched over HTTPS from the internet alone; a Redis of one's own lies anywhere."""
    looks_up = target == "dns" and port == 53
    fetches = (source, target, protocol, port) == ("prepare", "internet", "TCP", 443)
    service = source.partition("-")[0] in SERVICES and not source.endswith(FOLLOWERS)
    return looks_up or fetches or (external_redis and service and (protocol, port) == ("TCP", 6380))


@EACH
def test_what_the_list_allows_connects_and_nothing_else_does(objects: tuple[Tree, ...]) -> None:
    assert connections(objects) ^ listed(objects) == set()


def test_without_policies_everybody_reaches_everybody() -> None:
    """So it is by the policies that somebody is not reached."""
    objects = ALL["laptop-cpu"]
    ends = ends_of(objects)
    assert len(connections(objects, filtered=False)) == len(ends) * (len(ends) - 1) * len(PORTS)


@pytest.mark.parametrize(
    ("name", "opened"),
    [
        ("default-deny", {("neighbour", "trainer-a", "TCP", 8200)}),
        ("to-redis", {("student-a", "redis", "TCP", 6379)}),
        ("allow-dns", {("report", "dns", "UDP", 53)}),
    ],
)
def test_a_policy_that_is_missing_shows(name: str, opened: set[Connection]) -> None:
    """opened: connections that are there with it and not without, or the reverse."""
    whole = ALL["laptop-cpu"]
    fewer = tuple(each for each in whole if (each["kind"], each["metadata"]["name"]) != ("NetworkPolicy", name))
    assert len(of_kind(whole, "NetworkPolicy")) - len(of_kind(fewer, "NetworkPolicy")) == 1
    assert opened <= connections(fewer) ^ listed(whole)


def host_network() -> tuple[list[str], list[str], str]:
    named = Path("/run/netns")
    return (
        sorted(link.name for link in Path("/sys/class/net").iterdir()),
        sorted(each.name for each in named.iterdir()) if named.exists() else [],
        Path("/proc/net/route").read_text(),
    )


def test_nothing_is_left_of_it_whatever_ends_it() -> None:
    before = host_network()
    process = subprocess.Popen(PROGRAM, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stdin is not None
    process.stdin.write(plan(ALL["laptop-cpu"]))
    process.stdin.close()

    def has_begun() -> bool:
        """One of its ends is there."""
        return "end0:" in Path(f"/proc/{process.pid}/net/dev").read_text()

    wait_until(has_begun, "the first end to be there", deadline_s=LIMIT_S, pause_s=0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait(LIMIT_S) == -signal.SIGKILL
    assert host_network() == before


def test_it_touches_no_network_that_it_did_not_make() -> None:
    told = json.loads(plan(ALL["laptop-cpu"]))
    done = subprocess.run(
        [sys.executable, "-m", "tests.deploy.namespaces"],
        cwd=ROOT,
        input=json.dumps(told | {"addresses": {}}),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 1 and "expected to be in a network namespace of its own" in done.stderr
