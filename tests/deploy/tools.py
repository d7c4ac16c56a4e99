"""Programs that read what we deploy: docker-compose, kustomize, promtool, nft, out of Debian's packages.

They are unpacked, without root and without being installed, into `tools/` of the cache directory, once a machine.
Debian trixie has all but nft as static binaries, which run on older systems, too; nft brings its libraries.
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
    """libraries: packages that a program needs which is no static binary; what lies at `path` calls it with them."""

    package: str
    path: str
    libraries: tuple[str, ...] = ()


TOOLS = {
    "docker-compose": Tool("docker-compose", "usr/libexec/docker/cli-plugins/docker-compose"),
    "kustomize": Tool("kustomize", "usr/bin/kustomize"),
    "promtool": Tool("promtool", "usr/bin/promtool"),
    "prometheus": Tool("prometheus", "usr/bin/prometheus"),
    "nft": Tool(
        "nftables",
        "nft",
        (
            *("libc6", "libnftables1", "libnftnl11", "libmnl0", "libxtables12", "libjansson4", "libgmp10"),
            *("libedit2", "libbsd0", "libmd0", "libtinfo6"),
        ),
    ),
}

WITH_ITS_LIBRARIES = """\
#!/bin/sh
here=$(dirname "$0")
libraries=$(echo "$here"/usr/lib/*-linux-gnu*)
exec "$libraries"/ld-linux-*.so.* --library-path "$libraries" "$here/usr/sbin/$(basename "$0")" "$@"
"""


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
    needed = TOOLS[name]
    packages = (needed.package, *needed.libraries)
    fetched = _run("apt-get", *_apt(root / "apt"), "download", *packages, cwd=root / "apt")
    if fetched.returncode != 0:
        pytest.fail(f"apt-get download {' '.join(packages)} (Debian {SUITE}) failed: {fetched.stderr[-300:]}")
    partial = root / f"{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    for each in packages:
        (package,) = (root / "apt").glob(f"{each}_*.deb")
        unpacked = _run("dpkg-deb", "--extract", str(package), str(partial))
        assert unpacked.returncode == 0, unpacked.stderr
        package.unlink()
    if needed.libraries:
        calling = partial / needed.path
        calling.write_text(WITH_ITS_LIBRARIES)
        calling.chmod(0o755)
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
