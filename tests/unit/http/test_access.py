"""Key files: what is read, what is refused, and that the strongest key is found."""

from pathlib import Path

import pytest

from shared.errors import ConfigError
from shared.http.access import Scope, new_keys, read_keys


def test_a_line_is_a_scope_and_a_key_and_a_bare_key_may_do_everything(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("read r-1\n\nask a-1\nbare\n")
    keys = read_keys(path)
    found = [keys.scope_of(key) for key in ("r-1", "a-1", "bare", "read", "", "R-1")]
    assert found == [Scope.READ, Scope.ASK, Scope.ADMIN, None, None, None]
    assert keys.strongest == "bare"


def test_new_keys_are_one_a_scope_and_never_the_same(tmp_path: Path) -> None:
    texts = {new_keys() for _ in range(3)}
    assert len(texts) == 3
    path = tmp_path / "keys"
    path.write_text(texts.pop())
    words = [line.split() for line in path.read_text().splitlines()]
    assert [word for word, _ in words] == ["admin", "ask", "read"]
    assert all(len(key) >= 32 for _, key in words)
    assert read_keys(path).strongest == words[0][1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found it empty"),
        ("\n \n", "found it empty"),
        ("root secret\n", "keys:1: expected `<key>` or `<scope> <key>` with a scope of read, ask, admin"),
        ("ok\nread a b\n", "keys:2: expected"),
    ],
)
def test_what_is_no_key_is_named_without_telling_it(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_keys(path)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_keys(tmp_path / "keys")
