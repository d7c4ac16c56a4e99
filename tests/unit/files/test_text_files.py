"""Small text files as people write them: any editor's UTF-8 is read, everything else is refused by its name."""

from collections.abc import Callable
from pathlib import Path

import pytest

from shared.bus.redis_url import with_password
from shared.config.loading import load_settings, read_toml
from shared.errors import ConfigError
from shared.files.text import expanded, read_text
from shared.http.access import read_keys
from shared.problems.loading import load_problem_set

TEXT = 'name = "Zürich 東京"\n'

READERS: dict[str, Callable[[Path], object]] = {
    "keys": read_keys,
    "settings": read_toml,
    "password": lambda path: with_password("redis://host", path),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_utf_8_is_read_with_and_without_a_mark(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(TEXT, encoding=encoding)
    assert read_text(file, "settings") == TEXT
    assert read_toml(file) == {"name": "Zürich 東京"}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1"])
def test_other_encodings_are_refused_with_the_files_name_and_without_its_content(
    tmp_path: Path, encoding: str, reader: str
) -> None:
    file = tmp_path / "file"
    file.write_text("sEcReTé", encoding=encoding)
    with pytest.raises(ConfigError, match=rf"in {file} as UTF-8 text, got other bytes at \d+; save it as") as refused:
        READERS[reader](file)
    assert "cReT" not in str(refused.value)


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_refused(tmp_path: Path, reader: str) -> None:
    with pytest.raises(ConfigError, match=str(tmp_path)):
        READERS[reader](tmp_path)
    with pytest.raises(ConfigError, match="none"):
        READERS[reader](tmp_path / "none")


def test_keys_after_a_byte_order_mark_are_those_that_are_meant(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("first\nread second\n", encoding="utf-8-sig")
    keys = read_keys(file)
    assert keys.scope_of("first") is not None and keys.scope_of("second") is not None


def test_a_key_that_no_header_can_hold_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("plain\nschlüssel\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r":2: expected a key of ASCII characters") as refused:
        read_keys(file)
    assert "schl" not in str(refused.value)


def test_a_name_that_no_file_system_takes_is_refused_and_one_that_is_free_is_not(tmp_path: Path) -> None:
    assert expanded(tmp_path / "free") == tmp_path / "free"
    with pytest.raises(ConfigError, match=r"that can be looked at, got '.*: File name too long") as refused:
        expanded(tmp_path / ("a" * 300))
    assert len(str(refused.value)) < 250


def test_settings_and_problems_name_a_path_that_is_too_long(tmp_path: Path) -> None:
    long = tmp_path / ("a" * 300)
    with pytest.raises(ConfigError, match="File name too long"):
        load_settings(config=long)
    with pytest.raises(ConfigError, match="File name too long"):
        load_problem_set(str(long), "integer")


@pytest.mark.parametrize("path", ["~nobody-here/x", "~nobody-here", "~a\0b/x", f"~{'n' * 5000}"])
def test_the_home_of_a_user_that_is_none_is_refused(path: str) -> None:
    assert expanded("~/x") == Path.home() / "x" and expanded("a/~x") == Path("a/~x")
    with pytest.raises(ConfigError, match="there is no home here") as refused:
        expanded(path)
    assert len(str(refused.value)) < 200
