"""A hub's token in pods and compose: only what fetches has it, as a file; it may be missing, and nothing tells it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from shared.errors import EXIT_USAGE
from tests.deploy.deployed import PROFILES, Tree, compose, pods
from tests.deploy.overlays import EACH

TOKEN = "hf_onlythehubknows"
FILE = "/data/hub/HF_TOKEN"
SCRIPTED = ("A__ENGINE=scripted", "A__SPECIALIZE=false", "B__SPECIALIZE=false", "B__ENGINE=scripted")


@EACH
def test_in_a_cluster_it_is_for_who_fetches_and_may_be_missing(objects: tuple[Tree, ...]) -> None:
    secret = {"secretName": "opcod-hub", "optional": True, "defaultMode": 0o440}
    for name, pod in pods(objects).items():
        assert (secret in [volume.get("secret") for volume in pod["spec"]["volumes"]]) == (name == "prepare"), name
    (container,) = pods(objects)["prepare"]["spec"]["containers"]
    (variable,) = (each["value"] for each in container["env"] if each["name"] == "HF_TOKEN_PATH")
    (mount,) = (each for each in container["volumeMounts"] if each["name"] == "hub")
    assert variable == FILE == f"{mount['mountPath']}/HF_TOKEN"


@pytest.mark.parametrize("profiles", PROFILES, ids="+".join)
def test_in_compose_it_lies_on_a_volume_that_only_who_fetches_sees(profiles: tuple[str, ...]) -> None:
    fetching = 0
    for name, service in compose(*profiles)["services"].items():
        mounts = [mount for mount in service.get("volumes", ()) if mount["source"] == "hub"]
        if not name.startswith("prepare") or name == "prepared":
            assert not mounts or name == "keys", f"{name}: keys makes the volume, for the person who fills it"
            continue
        fetching += 1
        (mount,) = mounts
        assert (mount["target"], mount.get("read_only")) == ("/data/hub", True)
        assert service["environment"]["HF_TOKEN_PATH"] == FILE
        assert "HF_TOKEN" not in service["environment"]
    assert fetching == 1


def test_the_hubs_client_takes_it_from_the_file(tmp_path: Path) -> None:
    code = "import huggingface_hub; print(huggingface_hub.get_token())"
    read = partial(
        subprocess.check_output,
        [sys.executable, "-c", code],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HF_TOKEN_PATH": str(tmp_path / "HF_TOKEN")},
        timeout=120,
        text=True,
    )
    assert read() == "None\n"
    (tmp_path / "HF_TOKEN").write_text("hf_secret\n")
    assert read() == "hf_secret\n"


@contextmanager
def refusing_hub() -> Iterator[tuple[str, list[str]]]:
    """A hub on loopback that gives the model to nobody, and what it was shown. It says so with what it was shown, which
    is the worst that a hub, or a proxy before it, does."""
    shown: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            shown.append(self.headers.get("Authorization", ""))
            self.send_response(403)
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("X-Error-Message", f"not for {shown[-1]}")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", shown
        server.shutdown()


def prepare(root: Path, secret: dict[str, str], settings: tuple[str, ...]) -> "subprocess.CompletedProcess[bytes]":
    """As a container starts it, with its volumes in root/data."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("OPCOD_", "HF_"))}
    places = {"OPCOD_RUNS_DIR": "runs", "OPCOD_CACHE_DIR": "cache", "HF_HOME": "hub"}
    variables = {
        **ours,
        **{name: str(root / "data" / place) for name, place in places.items()},
        **dict(f"OPCOD_SET_STUDENTS__{setting}".split("=") for setting in settings),
        **secret,
        "OPCOD_RUN": "r1",
        "HF_HUB_VERBOSITY": "debug",
    }
    command = [sys.executable, "-m", "opcod.main", "prepare"]
    return subprocess.run(command, env=variables, capture_output=True, timeout=240, check=False)


def assert_untold(root: Path, done: "subprocess.CompletedProcess[bytes]", *names: str) -> None:
    """names: of files that were written, among others."""
    written = {path: path.read_bytes() for path in (root / "data").rglob("*") if path.is_file()}
    assert set(names) <= {path.name for path in written}
    assert TOKEN.encode() not in done.stdout + done.stderr
    assert not [path for path, content in written.items() if TOKEN.encode() in content]


def test_a_preparation_that_the_hub_refuses_shows_it_to_the_hub_and_to_nobody_else(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{TOKEN}\n")
    with refusing_hub() as (url, shown):
        done = prepare(
            tmp_path, {"HF_TOKEN_PATH": str(file), "HF_ENDPOINT": url}, (*SCRIPTED[:3], "B__MODEL=school/gated")
        )
    assert done.returncode == EXIT_USAGE, done.stderr
    assert f"Bearer {TOKEN}" in shown
    assert b"could not fetch it" in done.stderr and b"not for Bearer [token]" in done.stderr
    assert_untold(tmp_path, done, "prepare.error")


def test_a_preparation_that_ends_well_keeps_it_nowhere(tmp_path: Path) -> None:
    done = prepare(tmp_path, {"HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "1"}, SCRIPTED)
    assert done.returncode == 0, done.stderr
    assert_untold(tmp_path, done, "config.toml", "problems.json", "prepared.json")
