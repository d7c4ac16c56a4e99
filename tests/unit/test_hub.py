"""The door to the hub: whatever keeps something from being fetched is said in words, as what it is."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx2
import pytest

pytest.importorskip("torch")

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError

from opcod.export.hub import open_hub
from shared.errors import ConfigError, ModelError, ProblemSetError, UnavailableError
from shared.hub import DATA_SET, MODEL, HubKind, fetch
from shared.modeling.resolving import find_model, resolve_model
from shared.problems.loading import dataset_directory

COMMIT = "0123456789abcdef0123456789abcdef01234567"
UNUSABLE = ["Qwen/Qwen3--8B", "foo/bar..baz", "foo/-bar", "foo/bar.git", f"foo/{'n' * 97}", "foo/bär"]


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return cache


@pytest.mark.parametrize("name", UNUSABLE)
@pytest.mark.parametrize("look", [find_model, resolve_model])
def test_names_that_the_hub_cannot_have_are_refused(
    hub_cache: Path, look: Callable[[str, Path], Path | None], name: str
) -> None:
    with pytest.raises(ModelError, match="expected a directory or a model of the hub"):
        look(name, hub_cache)
    with pytest.raises(ProblemSetError, match="expected a directory or a data set of the hub"):
        dataset_directory(name, ["train.json"])
    with pytest.raises(ConfigError, match="expected owner/name"):
        open_hub(name)


def answered(status: int) -> HfHubHTTPError:
    request = httpx2.Request("GET", "https://hub.example/api")
    return HfHubHTTPError("said hf_secret", response=httpx2.Response(status, request=request))


@pytest.mark.parametrize(
    ("fault", "refusal", "told"),
    [
        (ImportError("Using SOCKS proxy, but the 'socksio' package is not installed"), ConfigError, "proxy"),
        (httpx2.UnsupportedProtocol("missing an 'http://' or 'https://' protocol"), ConfigError, "HF_ENDPOINT"),
        (UnicodeEncodeError("ascii", "ü", 0, 1, "ordinal not in range(128)"), ConfigError, "HF_TOKEN"),
        (httpx2.RemoteProtocolError("peer closed connection"), UnavailableError, "peer closed connection"),
        (httpx2.ProxyError("502 Bad Gateway"), UnavailableError, "502 Bad Gateway"),
        (json.JSONDecodeError("Expecting value", "<html>", 0), UnavailableError, "login page"),
        (KeyError("id"), UnavailableError, "login page"),
        (OSError(28, "No space left on device"), ConfigError, "No space left"),
        (answered(503), UnavailableError, "its answer was 503"),
        (answered(401), ConfigError, "accept its terms on its page, and set HF_TOKEN"),
        (answered(403), ConfigError, "accept its terms on its page, and set HF_TOKEN"),
        (answered(404), ConfigError, "expected a public"),
    ],
)
@pytest.mark.parametrize("kind", [MODEL, DATA_SET])
def test_what_the_client_raises_is_told_in_words(
    monkeypatch: pytest.MonkeyPatch, kind: HubKind, fault: Exception, refusal: type[Exception], told: str
) -> None:
    def failing(*_: object, **__: object) -> str:
        raise fault

    monkeypatch.setattr("huggingface_hub.snapshot_download", failing)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with pytest.raises(refusal, match=told) as refused:
        fetch(kind, "foo/bar", ["*.json"])
    assert f"{kind.words} foo/bar" in str(refused.value)
    assert "hf_secret" not in str(refused.value)


@contextmanager
def hub(monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], *, sent: int | None = None) -> Iterator[None]:
    """A hub on loopback with one repository; without files it answers with a login page. sent: bytes of each file
    after which it hangs up."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body, headers = self._answer()
            self.send_response(200)
            for name, value in {"X-Repo-Commit": COMMIT, "Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[:sent] if headers else body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def _answer(self) -> tuple[bytes, dict[str, str]]:
            if not files:
                return b"<html>Log in</html>", {}
            if "/tree/" in self.path:
                listed = [
                    {"type": "file", "path": name, "size": len(body), "oid": "b" * 40} for name, body in files.items()
                ]
                return json.dumps(listed).encode(), {}
            if "/api/" in self.path:
                return json.dumps({"id": "foo/bar", "sha": COMMIT}).encode(), {}
            name = self.path.rpartition("/")[2]
            return files[name], {"ETag": f'"{name.encode().hex()}"'}

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
        template = f"{constants.ENDPOINT}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield
        server.shutdown()


def test_a_login_page_is_no_model(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub(monkeypatch, {}), pytest.raises(UnavailableError, match="login page"):
        resolve_model("foo/bar", hub_cache)


def test_a_download_cut_in_the_middle_is_no_model(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub(monkeypatch, {"config.json": b"{}" * 500}, sent=10), pytest.raises(UnavailableError, match="model foo"):
        resolve_model("foo/bar", hub_cache)


WHOLE = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "model.safetensors.index.json": json.dumps(
        {"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}
    ).encode(),
    "m-1.safetensors": b"one",
    "m-2.safetensors": b"two",
}


def cached_by_others(cache: Path, files: dict[str, bytes]) -> Path:
    """The model foo/bar as a program leaves it that fetches file by file: nothing says which ones there are."""
    snapshot = cache / "models--foo--bar" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(COMMIT)
    for name, body in files.items():
        (snapshot / name).write_bytes(body)
    return snapshot


@pytest.mark.parametrize(
    "missing", ["config.json", "m-2.safetensors", "tokenizer.json", "model.safetensors.index.json"]
)
def test_a_part_of_a_model_is_none_and_is_completed(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    cached_by_others(hub_cache, {name: body for name, body in WHOLE.items() if name != missing})
    assert find_model("foo/bar", hub_cache) is None
    with monkeypatch.context() as offline, pytest.raises(UnavailableError, match="only a part of the model foo/bar"):
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        resolve_model("foo/bar", hub_cache)
    with hub(monkeypatch, WHOLE):
        assert (resolve_model("foo/bar", hub_cache) / missing).read_bytes() == WHOLE[missing]
    assert find_model("foo/bar", hub_cache) is not None


def test_a_whole_model_needs_no_hub(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = cached_by_others(hub_cache, WHOLE)
    with hub(monkeypatch, {}):
        assert find_model("foo/bar", hub_cache) == resolve_model("foo/bar", hub_cache) == snapshot


def test_a_hub_model_without_weights_that_are_read_says_what_it_has(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pickled = {"config.json": b"{}", "tokenizer.json": b"{}", "pytorch_model.bin": b"code"}
    with hub(monkeypatch, pickled), pytest.raises(ModelError, match="can run code"):
        resolve_model("foo/bar", hub_cache)
    with pytest.raises(ModelError, match="can run code"):
        find_model("foo/bar", hub_cache)


@pytest.mark.parametrize("vocabulary", ["tokenizer.model", "vocab.txt", "qwen.tiktoken"])
def test_vocabularies_of_every_kind_are_fetched(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch, vocabulary: str
) -> None:
    files = {name: body for name, body in WHOLE.items() if name != "tokenizer.json"} | {vocabulary: b"words"}
    with hub(monkeypatch, files):
        assert (resolve_model("foo/bar", hub_cache) / vocabulary).read_bytes() == b"words"
    (hub_cache / "models--foo--bar" / "snapshots" / COMMIT / vocabulary).unlink()
    assert find_model("foo/bar", hub_cache) is None


@pytest.mark.parametrize("beside", ["tokenizer.model", "README.md"])
def test_a_model_that_was_fetched_without_what_stands_beside_it_is_whole(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch, beside: str
) -> None:
    with hub(monkeypatch, {**WHOLE, beside: b"more"}):
        snapshot = resolve_model("foo/bar", hub_cache)
    (snapshot / beside).unlink()
    assert find_model("foo/bar", hub_cache) == snapshot
