"""What goes to the hub, and what is refused before."""

from pathlib import Path

import httpx2
import pytest

pytest.importorskip("torch")

from huggingface_hub.errors import HfHubHTTPError

from opcod.export.hub import open_hub, push
from shared.errors import ConfigError, UnavailableError


class Uploads:
    """Notes what it is asked for; with `fault`, it then fails."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.asked: list[tuple[str, object]] = []
        self._fault = fault

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        self.asked.append((repo_id, {"private": private, "exist_ok": exist_ok}))

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        self.asked.append((repo_id, {path.name for path in folder_path.iterdir()}))
        self.asked.append((repo_id, commit_message))
        if self._fault is not None:
            raise self._fault


def test_all_of_the_directory_goes_into_a_private_repository(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "README.md"):
        (tmp_path / name).write_text("")
    hub = Uploads()
    push(hub, "owner/name", tmp_path, "a@v2 of r1")
    assert hub.asked == [
        ("owner/name", {"private": True, "exist_ok": True}),
        ("owner/name", {"config.json", "model.safetensors", "README.md"}),
        ("owner/name", "a@v2 of r1"),
    ]


@pytest.mark.parametrize("fault", [httpx2.ConnectError("no route"), OSError("disk"), ValueError("refused")])
def test_a_hub_that_does_not_take_it_leaves_the_export_and_says_how_to_go_on(tmp_path: Path, fault: Exception) -> None:
    with pytest.raises(UnavailableError, match=f"hf upload owner/name {tmp_path}"):
        push(Uploads(fault), "owner/name", tmp_path, "message")


HUBS_WORDS = "403 Forbidden: You don't have the rights to create a model under the namespace owner. hf_secret"


def answered(status: int) -> HfHubHTTPError:
    request = httpx2.Request("POST", "https://hub.example/api")
    return HfHubHTTPError(HUBS_WORDS, response=httpx2.Response(status, request=request, headers={"x-request-id": "r7"}))


@pytest.mark.parametrize(
    ("fault", "expected", "came", "remedy"),
    [
        (answered(401), "expected a token that the hub knows", "401", "`hf auth login`"),
        (answered(403), "expected a token that may write to owner/name", "403", "permission"),
        (answered(404), "expected owner/name to be there", "404", "owner's name"),
        (answered(418), "expected the hub to take it", "its answer was 418 (request r7)", "support"),
        (answered(502), "expected the hub to be well", "502", "try again later"),
        (httpx2.ReadTimeout("slow"), "expected an answer", "none came in time", "try again later"),
        (httpx2.ConnectError("no route"), "expected to reach the hub", "no route", "HF_ENDPOINT"),
    ],
)
def test_what_the_hub_refuses_is_told_in_our_words(
    tmp_path: Path, fault: Exception, expected: str, came: str, remedy: str
) -> None:
    with pytest.raises(UnavailableError) as told:
        push(Uploads(fault), "owner/name", tmp_path, "message")
    for part in ("--push owner/name: ", expected, came, remedy, "is whole"):
        assert part in str(told.value)
    assert HUBS_WORDS not in str(told.value)


def test_a_token_that_is_in_a_failure_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with pytest.raises(UnavailableError) as told:
        push(Uploads(ValueError("refused hf_secret")), "owner/name", tmp_path, "message")
    assert "hf_secret" not in str(told.value)
    assert "refused [token]" in str(told.value)


@pytest.mark.parametrize("name", ["name", "owner/name/more", "", "own er/name", "../name"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="expected owner/name"):
        open_hub(name)


def test_who_is_not_logged_in_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="expected a token of the hub"):
        open_hub("owner/name")
    monkeypatch.setenv("HF_TOKEN", "hf_something")
    assert open_hub("owner/name") is not None
