"""A cluster by `kubectl`, and on it one namespace in which the overlay laptop-cpu runs the preset smoke."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from shared.contracts.run import STATE_FILE, RunState, Status

ROOT = Path(__file__).resolve().parents[2]
REGISTRY = "OPCOD_REGISTRY"
"""Where the images come from, such as `registry.example.org/`; without it they are on the nodes."""

RUN, RUN_DIR = "check", "/data/runs/check"
STEPS = 12
STUDENTS = ("a", "b")
STATEFUL = tuple(f"{service}-{student}" for service in ("student", "trainer") for student in STUDENTS)
DEPLOYED = ("broker", "inspector")
SERVICES = (*STATEFUL, *DEPLOYED)
IMAGES = ("opcod", "opcod-model", "valkey/valkey")

COMMAND_S = 120.0
PREPARED_S = 1800.0
"""Images are pulled meanwhile."""

READY_S = 600.0
DONE_S = 1200.0

MANIFESTS = f"""\
import sys, tarfile
from pathlib import Path
root = Path("{RUN_DIR}")
with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
    for path in [*root.glob("weights/*/v*/manifest.json"), *root.glob("batches/*/s*/manifest.json")]:
        archive.add(path, path.relative_to(root))
"""
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5)"
UNREACHED = ("TimeoutError", "timed out", "ConnectionRefusedError", "No route to host", "Network is unreachable")

Json = dict[str, Any]


class NoClusterError(Exception):
    """Why there is none, and what would bring one."""


def kubectl(
    *arguments: str, given: str | None = None, timeout_s: float = COMMAND_S
) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        ["kubectl", *arguments],
        input=None if given is None else given.encode(),
        capture_output=True,
        timeout=timeout_s,
        check=False,
    )


def require_cluster() -> Json:
    """What its server says of its version. Raises NoClusterError."""
    if shutil.which("kubectl") is None:
        raise NoClusterError("expected kubectl on PATH, found none; install it, 1.32 or newer")
    done = kubectl("version", "--output", "json", "--request-timeout=15s", timeout_s=60)
    try:
        server: Json = json.loads(done.stdout)["serverVersion"]
    except (json.JSONDecodeError, KeyError) as error:
        said = done.stderr.decode(errors="replace").strip()[-400:]
        raise NoClusterError(f"no cluster answers kubectl, name one by KUBECONFIG=FILE: {said}") from error
    return server


class Cluster:
    """namespace: ours, and that of a stranger is called after it. Whatever fails says which command did, and what it
    wrote."""

    def __init__(self, namespace: str, root: Path) -> None:
        self.namespace = namespace
        self.strangers = f"{namespace}-stranger"
        self._root = root
        self.registry = os.environ.get(REGISTRY, "")

    # Commands -----------------------------------------------------------------------------------------
    def run(self, *arguments: str, given: str | None = None, timeout_s: float = COMMAND_S) -> str:
        """One kubectl command in our namespace; its output."""
        return self._bytes(*arguments, given=given, timeout_s=timeout_s).decode(errors="replace")

    def _bytes(self, *arguments: str, given: str | None = None, timeout_s: float = COMMAND_S) -> bytes:
        done = kubectl("--namespace", self.namespace, *arguments, given=given, timeout_s=timeout_s)
        said = done.stderr.decode(errors="replace")[-2000:]
        assert done.returncode == 0, f"kubectl {' '.join(arguments)} ended with {done.returncode}: {said}"
        return done.stdout

    def get(self, *arguments: str) -> Json:
        found: Json = json.loads(self.run("get", *arguments, "--output", "json"))
        return found

    def pod(self, service: str) -> Json:
        """The one pod of a service that is not on its way out. service: such as `broker`, `student-a`."""
        name, _, student = service.partition("-")
        labels = f"app.kubernetes.io/name={name}" + (f",opcod/student={student}" if student else "")
        pods = [
            each
            for each in self.get("pods", "--selector", labels)["items"]
            if "deletionTimestamp" not in each["metadata"]
        ]
        assert len(pods) == 1, f"expected one pod of {service}, found {[each['metadata']['name'] for each in pods]}"
        return dict(pods[0])

    def execute(self, service: str, *command: str) -> str:
        container = "redis" if service == "redis" else "opcod"
        return self.run("exec", self.pod(service)["metadata"]["name"], "--container", container, "--", *command)

    def reaches(self, source: str, host: str, port: int) -> bool:
        """Whether a connection is made from a pod of `source`; `stranger` is one of another namespace."""
        there = self.strangers if source == "stranger" else self.namespace
        name = "stranger" if source == "stranger" else self.pod(source)["metadata"]["name"]
        done = kubectl("--namespace", there, "exec", name, "--", "python", "-c", CONNECT, host, str(port))
        said = done.stderr.decode(errors="replace")
        assert done.returncode == 0 or any(word in said for word in UNREACHED), f"{source} -> {host}:{port}: {said}"
        return done.returncode == 0

    # What a person does -------------------------------------------------------------------------------
    def kustomization(self) -> Path:
        """A folder for `kubectl apply -k`: laptop-cpu in our namespace, with a run of some steps."""
        told = {
            "OPCOD_PRESET": "smoke",
            "OPCOD_RUN": RUN,
            "OPCOD_RUN_DIR": RUN_DIR,
            "OPCOD_SET_RUN__STEPS_PER_ROUND": str(STEPS),
        }
        changes = [{"op": "add", "path": f"/data/{name}", "value": value} for name, value in told.items()]
        described = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": self.namespace,
            "resources": [os.path.relpath(ROOT / "k8s" / "overlays" / "laptop-cpu", self._root)],
            "images": [{"name": name, "newName": self.registry + name} for name in IMAGES] if self.registry else [],
            "patches": [
                {"target": {"kind": "ConfigMap", "name": "opcod-environment"}, "patch": yaml.safe_dump(changes)}
            ],
        }
        self._root.mkdir(parents=True, exist_ok=True)
        (self._root / "kustomization.yaml").write_text(yaml.safe_dump(described))
        return self._root

    def apply(self) -> None:
        """Namespace, secrets, overlay."""
        secrets = self._root / "secrets"
        subprocess.run(
            [sys.executable, "-m", "opcod.main", "keys", str(secrets)], cwd=ROOT, capture_output=True, check=True
        )
        self.run("create", "namespace", self.namespace)
        self.run("create", "secret", "generic", "opcod-secrets", f"--from-file={secrets}")
        shutil.rmtree(secrets)
        self.run("apply", "--kustomize", str(self.kustomization()))

    def until_rolled_out(self) -> None:
        for kind, names in (("deployment", DEPLOYED), ("statefulset", ("redis", *STATEFUL))):
            for name in names:
                self.run("rollout", "status", f"{kind}/{name}", f"--timeout={READY_S:.0f}s", timeout_s=READY_S + 30)

    def scale(self, replicas: int) -> None:
        for kind, names in (("deployment", DEPLOYED), ("statefulset", STATEFUL)):
            self.run("scale", f"--replicas={replicas}", *(f"{kind}/{name}" for name in names))

    def begin_stranger(self) -> None:
        """A pod in a namespace of its own, which has nothing to do with us but the image."""
        kubectl("create", "namespace", self.strangers)
        image = self.pod("broker")["spec"]["containers"][0]["image"]
        self._in_strangers("run", "stranger", f"--image={image}", "--command", "--", "sleep", "3600")
        self._in_strangers("wait", "--for=condition=Ready", "pod/stranger", f"--timeout={READY_S:.0f}s")

    def _in_strangers(self, *arguments: str) -> None:
        done = kubectl("--namespace", self.strangers, *arguments, timeout_s=READY_S + 30)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr.decode(errors='replace')[-2000:]}"

    def delete(self) -> None:
        """Both namespaces, with all in them."""
        for namespace in (self.strangers, self.namespace):
            self.run("delete", "namespace", namespace, "--ignore-not-found", "--timeout=300s", timeout_s=330)

    # What becomes of it -------------------------------------------------------------------------------
    def state(self) -> RunState | None:
        """None while there is none, or nobody to ask for it."""
        try:
            return RunState.model_validate_json(self.execute("broker", "cat", f"{RUN_DIR}/{STATE_FILE}"))
        except (AssertionError, ValueError):
            return None

    def until(self, reached: Callable[[RunState], bool], what: str, timeout_s: float = DONE_S) -> RunState:
        deadline = time.monotonic() + timeout_s
        while (state := self.state()) is None or not reached(state):
            assert state is None or state.failed is None, f"the run failed: {state.failed}"
            assert time.monotonic() < deadline, (
                f"waited {timeout_s:.0f} s for {what}; the run is at {state and state.status}"
            )
            time.sleep(2)
        return state

    def until_step(self, step: int) -> None:
        self.until(lambda state: min(state.steps.values(), default=0) >= step, f"step {step} of both students")

    def until_done(self) -> RunState:
        return self.until(lambda state: state.status is Status.DONE, "the end of the run")

    def manifests(self, directory: Path) -> Path:
        """Those of all versions and batches of the run, as they lie in its directory."""
        name = self.pod("broker")["metadata"]["name"]
        told = self._bytes("exec", name, "--container", "opcod", "--", "python", "-c", MANIFESTS)
        with tarfile.open(fileobj=io.BytesIO(told)) as archive:
            archive.extractall(directory, filter="data")
        return directory


def facts(server: Mapping[str, Any]) -> dict[str, str]:
    """What kind of cluster it is, without names or addresses of its machines."""

    def listed(*what: str) -> list[Json]:
        done = kubectl("get", *what, "--output", "json")
        return list(json.loads(done.stdout)["items"]) if done.returncode == 0 else []

    nodes = [each["status"]["nodeInfo"] for each in listed("nodes")]
    kinds = sorted({f"{each['containerRuntimeVersion']}, {each['osImage']}, {each['architecture']}" for each in nodes})
    default = "storageclass.kubernetes.io/is-default-class"
    classes = [
        each["provisioner"]
        for each in listed("storageclasses")
        if each["metadata"].get("annotations", {}).get(default) == "true"
    ]
    system = sorted(each["metadata"]["name"] for each in listed("daemonsets", "--namespace", "kube-system"))
    return {
        "Kubernetes": str(server.get("gitVersion")),
        "nodes": f"{len(nodes)}: {'; '.join(kinds)}",
        "default storage": ", ".join(classes) or "none",
        "daemons of kube-system": ", ".join(system) or "none that this user sees",
    }
