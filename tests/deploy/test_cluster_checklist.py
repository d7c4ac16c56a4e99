"""`make test-cluster` without a cluster: what it would apply, who is told what where there is none, and that a failure
is on the page and leaves no namespace. The checklist itself only a cluster runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.cluster import IMAGES, REGISTRY, RUN, RUN_DIR, STEPS, Cluster, NoClusterError, require_cluster
from tests.cluster.test_checklist import ALLOWED, FORBIDDEN
from tests.deploy.deployed import ROOT, of_kind, overlay, pod_containers, pods, rendered
from tests.deploy.overlays import ALL, listening, must_reach

ANSWERING = """\
#!/bin/sh
echo "$@" >> "$SAID"
case "$*" in
  version*) echo '{"serverVersion": {"gitVersion": "v1.32.4"}}' ;;
  *apply*) echo "error: injected" >&2; exit 1 ;;
  *get*) echo '{"items": []}' ;;
esac
"""
"""A kubectl whose cluster refuses what is applied."""

SILENT = """\
#!/bin/sh
echo '{"clientVersion": {}}'
echo "The connection to the server localhost:8080 was refused" >&2
exit 1
"""


def put(directory: Path, text: str) -> Path:
    directory.mkdir()
    (directory / "kubectl").write_text(text)
    (directory / "kubectl").chmod(0o755)
    return directory


def checklist(programs: Path, page: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {
        **os.environ,
        **variables,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "OPCOD_CLUSTER": "1",
        "OPCOD_CLUSTER_PAGE": str(page),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "tests/cluster"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("registry", ["", "registry.example.org/"])
def test_it_applies_laptop_cpu_in_its_own_namespace(registry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REGISTRY, registry)
    name = f"opcod-check-{'own' if registry else 'none'}"
    objects = rendered(Cluster(name, ROOT / "build" / "k8s" / name).kustomization())
    plainly = overlay("laptop-cpu")
    assert {each["metadata"].get("namespace", name) for each in objects} == {name}
    (namespace,) = of_kind(objects, "Namespace").values()
    assert namespace["metadata"]["name"] == name
    assert namespace["metadata"]["labels"] == next(iter(of_kind(plainly, "Namespace").values()))["metadata"]["labels"]
    told, before = (of_kind(each, "ConfigMap")["opcod-environment"]["data"] for each in (objects, plainly))
    assert dict(told.items() - before.items()) == {
        "OPCOD_PRESET": "smoke",
        "OPCOD_RUN": RUN,
        "OPCOD_RUN_DIR": RUN_DIR,
        "OPCOD_SET_RUN__STEPS_PER_ROUND": str(STEPS),
    }
    used, known = (
        {each["image"] for pod in pods(some).values() for each in pod_containers(pod)} for some in (objects, plainly)
    )
    assert used == {f"{registry}{image}" for image in known}
    assert {image.rpartition(":")[0] for image in known} == set(IMAGES)
    assert len(objects) == len(plainly)


def test_what_it_expects_of_the_network_is_what_the_policies_are_for() -> None:
    objects = ALL["laptop-cpu"]
    assert all(must_reach(source, target, objects) for source, target, _ in ALLOWED)
    assert not [each for each in FORBIDDEN if must_reach(each[0], each[1], objects)]
    assert {(target, port) for _, target, port in (*ALLOWED, *FORBIDDEN)} <= listening(objects)


def test_without_kubectl_and_without_a_cluster_it_says_what_would_bring_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoClusterError, match="expected kubectl on PATH"):
        require_cluster()
    monkeypatch.setenv("PATH", f"{put(tmp_path / 'silent', SILENT)}{os.pathsep}/bin{os.pathsep}/usr/bin")
    with pytest.raises(NoClusterError, match=r"KUBECONFIG=FILE: The connection to the server \S+ was refused"):
        require_cluster()


def test_without_a_cluster_all_of_it_is_skipped_with_words(tmp_path: Path) -> None:
    done = checklist(put(tmp_path / "programs", SILENT), tmp_path / "page.md")
    assert done.returncode == 0, done.stdout
    assert "no cluster answers kubectl, name one by KUBECONFIG=FILE" in done.stdout
    assert " passed" not in done.stdout and not (tmp_path / "page.md").exists()


def test_a_cluster_that_refuses_is_told_on_the_page_and_nothing_is_left_in_it(tmp_path: Path) -> None:
    said, page = tmp_path / "said", tmp_path / "page.md"
    done = checklist(put(tmp_path / "programs", ANSWERING), page, SAID=str(said))
    assert done.returncode == 1, done.stdout + done.stderr
    text = page.read_text()
    assert text in done.stdout
    assert "- Kubernetes: v1.32.4" in text
    assert "| laptop cpu with smoke is applied and prepared in a namespace of its own | failed |" in text
    assert "error: injected" in text and " passed |" not in text
    told = said.read_text().splitlines()
    (made,) = {line.split()[-1] for line in told if " create namespace " in line}
    assert not (ROOT / "build" / "k8s" / made / "secrets").exists()
    ended = [line for line in told if " delete namespace " in line]
    assert [line.split()[4] for line in ended] == [f"{made}-stranger", made], ended
