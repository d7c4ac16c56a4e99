"""Programs that read what we deploy: docker-compose, kustomize and promtool, out of Debian's packages.

They are unpacked, without root and without being installed, into `tools/` of the cache directory, once a machine.
Debian trixie has them as static binaries, which run on older systems, too.
"""

import fcntl
import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from opcod.options import CACHE_DIR

SUITE = "trixie"
APT_TIMEOUT_S = 120
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


@dataclass(frozen=True)
class Tool:
    package: str
    path: str


TOOLS = {
    "docker-compose": Tool("docker-compose", "usr/libexec/docker/cli-plugins/docker-compose"),
    "kustomize": Tool("kustomize", "usr/bin/kustomize"),
    "promtool": Tool("promtool", "usr/bin/promtool"),
    "prometheus": Tool("prometheus", "usr/bin/prometheus"),
}


@cache
def tool(name: str) -> str:
    """Path of the program. Fails the test, saying how to get it; skips it where Debian's packages are out of reach."""
    root = Path(os.environ.get("OPCOD_CACHE_DIR", CACHE_DIR)) / "tools"
    root.mkdir(parents=True, exist_ok=True)
    binary = root / name / TOOLS[name].path
    with (root / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not binary.exists():
            if shutil.which("apt-get") is None:
                return _on_path(name, binary)
            _unpack(name, root)
    return str(binary)


def _on_path(name: str, binary: Path) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"this test needs {name}: install it, or put it at {binary}; without apt-get it is not fetched")
    return found


def _unpack(name: str, root: Path) -> None:
    options = _apt(root / "apt")
    fetched = _run("apt-get", *options, "download", TOOLS[name].package, cwd=root / "apt")
    if fetched.returncode != 0:
        pytest.fail(f"apt-get download {TOOLS[name].package} (Debian {SUITE}) failed: {fetched.stderr[-300:]}")
    (package,) = (root / "apt").glob(f"{TOOLS[name].package}_*.deb")
    partial = root / f"{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    unpacked = _run("dpkg-deb", "--extract", str(package), str(partial))
    assert unpacked.returncode == 0, unpacked.stderr
    package.unlink()
    partial.rename(root / name)


@cache
def _apt(directory: Path) -> tuple[str, ...]:
    """Options with which apt-get uses `directory` instead of the system's, whose lists of packages it leaves alone."""
    for each in ("lists/partial", "cache/archives/partial"):
        (directory / each).mkdir(parents=True, exist_ok=True)
    settings = {
        "Dir::Etc::SourceList": directory / "sources.list",
        "Dir::Etc::SourceParts": "-",
        "Dir::State::Lists": directory / "lists",
        "Dir::Cache": directory / "cache",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "",
    }
    options = tuple(part for name, value in settings.items() for part in ("-o", f"{name}={value}"))
    (directory / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror()} {SUITE} main\n")
    updated = _run("apt-get", *options, "update", "--error-on=any")
    if updated.returncode != 0:
        pytest.skip(
            f"the tools are fetched from Debian's packages, which are out of reach: {updated.stderr[-300:]}",
            allow_module_level=True,
        )
    return options


def mirror() -> str:
    """Where this machine gets Debian's packages from."""
    sites = _run("apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages", "Component: main").stdout
    chosen = [site for site in sites.splitlines() if site.endswith("/debian")]
    if not chosen:
        pytest.skip("the tools are Debian packages, and this machine has no source of them", allow_module_level=True)
    return chosen[0]


def _run(*command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"LC_ALL": "C"}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=APT_TIMEOUT_S, check=False
    )
