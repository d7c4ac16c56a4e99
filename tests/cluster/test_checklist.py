"""What only a cluster tells, in order: from `apply` to a namespace that is gone. `make test-cluster` runs it.

No cluster has run it so far.
"""

import json
import time
from pathlib import Path

import pytest

from tests.cluster.cluster import READY_S, RUN_DIR, SERVICES, STEPS, STUDENTS, Cluster, kubectl
from tests.fakes.deployment import assert_applied_once

GROUP = "10001"
ALLOWED = (
    ("broker", "redis", 6379),
    ("inspector", "redis", 6379),
    ("student-a", "redis", 6379),
    ("trainer-b", "redis", 6379),
    ("broker", "student-a", 8100),
    ("broker", "student-b", 8100),
    ("broker", "inspector", 8090),
    ("inspector", "broker", 8080),
)
FORBIDDEN = (
    ("student-a", "broker", 8080),
    ("student-a", "student-b", 8100),
    ("student-a", "inspector", 8090),
    ("trainer-a", "student-a", 8100),
    ("trainer-a", "trainer-b", 8200),
    ("inspector", "student-a", 8100),
    ("broker", "trainer-a", 8200),
)
OUTSIDE = ("1.1.1.1", 443)


def test_laptop_cpu_with_smoke_is_applied_and_prepared_in_a_namespace_of_its_own(prepared: Cluster) -> None:
    assert prepared.get("namespace", prepared.namespace)["status"]["phase"] == "Active"


def test_the_namespace_refuses_a_pod_with_privileges(prepared: Cluster) -> None:
    pod = ("run", "privileged", "--image=opcod", "--privileged", "--dry-run=server")
    done = kubectl("--namespace", prepared.namespace, *pod)
    assert done.returncode != 0 and b"violates PodSecurity" in done.stderr, done.stderr


def test_every_service_rolls_out(up: Cluster) -> None:
    assert {service: up.pod(service)["status"]["phase"] for service in SERVICES} == dict.fromkeys(SERVICES, "Running")


def test_probes_pass_nothing_is_restarted_and_services_lead_to_ready_pods(up: Cluster) -> None:
    for service in SERVICES:
        pod = up.pod(service)
        (status,) = pod["status"]["containerStatuses"]
        assert (status["ready"], status["restartCount"]) == (True, 0), service
        slices = up.get("endpointslices", "--selector", f"kubernetes.io/service-name={service}")["items"]
        ends = [end for each in slices for end in each["endpoints"] or () if end["conditions"]["ready"]]
        assert [end["addresses"] for end in ends] == [[pod["status"]["podIP"]]], service


def test_killed_pods_come_back_and_the_run_goes_on(up: Cluster) -> None:
    up.until_step(1)
    for service in ("trainer-a", "student-b", "broker"):
        up.run("delete", "pod", up.pod(service)["metadata"]["name"], "--grace-period=1", "--wait=true")
    up.until_rolled_out()
    up.until_step(2)


def test_an_eviction_is_allowed_and_its_pod_comes_back(up: Cluster) -> None:
    budgets = up.get("poddisruptionbudgets")["items"]
    assert {each["metadata"]["name"]: each["status"]["disruptionsAllowed"] for each in budgets} == {
        f"student-{student}": 1 for student in STUDENTS
    }
    name = up.pod("student-a")["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": up.namespace}}
    path = f"/api/v1/namespaces/{up.namespace}/pods/{name}/eviction"
    up.run("create", "--raw", path, "--filename", "-", given=json.dumps(eviction))
    up.run("wait", "--for=delete", f"pod/{name}", f"--timeout={READY_S:.0f}s", timeout_s=READY_S + 30)
    up.until_rolled_out()


def test_stopped_as_a_whole_it_goes_on_where_it_was(up: Cluster) -> None:
    up.scale(0)
    deadline = time.monotonic() + READY_S
    while [each for each in up.get("pods", "--selector", "opcod/reaches=redis")["items"]]:
        assert time.monotonic() < deadline, "pods do not end"
        time.sleep(2)
    up.scale(1)
    up.until_rolled_out()


def test_users_groups_and_files_are_as_the_manifests_say(up: Cluster) -> None:
    for service in SERVICES:
        assert up.execute(service, "id", "-u").strip() == GROUP, service
        assert GROUP in up.execute(service, "id", "-G").split(), service
        refused = up.execute(service, "sh", "-c", "touch /opt/written 2>&1 || true")
        assert "Read-only file system" in refused, service
        up.execute(service, "sh", "-c", f"touch {RUN_DIR}/.{service} && rm {RUN_DIR}/.{service}")
        assert up.execute(service, "sh", "-c", "stat -Lc '%a %g' /data/secrets/key").split() == ["440", GROUP], service
        token = up.execute(service, "sh", "-c", "ls /var/run/secrets/kubernetes.io 2>&1 || true")
        assert "No such file" in token, f"{service} has a token of the cluster"
    assert up.execute("redis", "stat", "-c", "%g", "/data").strip() == "999"


def test_the_command_line_answers_in_the_brokers_pod(up: Cluster) -> None:
    assert up.execute("broker", "opcod", "status").count(" ready") == len(SERVICES)


@pytest.mark.parametrize(("source", "target", "port"), ALLOWED)
def test_the_network_lets_through(up: Cluster, source: str, target: str, port: int) -> None:
    assert up.reaches(source, target, port)


def test_the_network_lets_nobody_else_through(up: Cluster) -> None:
    """A network plugin that does not enforce policies fails here."""
    up.begin_stranger()
    passed = [(source, target) for source, target, port in FORBIDDEN if up.reaches(source, target, port)]
    for _, target, port in {(None, target, port) for _, target, port in ALLOWED}:
        if up.reaches("stranger", f"{target}.{up.namespace}", port):
            passed.append(("stranger", target))
    passed += [(service, OUTSIDE[0]) for service in SERVICES if up.reaches(service, *OUTSIDE)]
    assert not passed


def test_the_run_ends_with_every_step_applied_once_and_its_report(up: Cluster, tmp_path: Path) -> None:
    assert up.until_done().steps == dict.fromkeys(STUDENTS, STEPS)
    up.manifests(tmp_path)
    for student in STUDENTS:
        assert_applied_once(tmp_path, student, STEPS)
    assert "no dead letters" in up.execute("broker", "opcod", "dlq", "list")
    report = f"until test -f {RUN_DIR}/report/report.md; do sleep 1; done; head -1 {RUN_DIR}/report/report.md"
    assert up.execute("broker", "sh", "-c", report).startswith("# Run check")


def test_the_namespace_goes_with_all_in_it(up: Cluster) -> None:
    up.delete()
    gone = kubectl("get", "namespace", up.namespace)
    assert gone.returncode != 0 and b"NotFound" in gone.stderr, gone.stderr
    volumes = json.loads(kubectl("get", "persistentvolumes", "--output", "json").stdout)["items"]
    bound = [each for each in volumes if each["spec"].get("claimRef", {}).get("namespace") == up.namespace]
    assert [each["status"]["phase"] for each in bound if each["status"]["phase"] == "Bound"] == []
