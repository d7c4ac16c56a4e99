"""Reading the small text files that people write: keys, passwords, settings.

What always holds: one way for all of them. They are UTF-8 whatever the locale says, a byte order mark counts as
nothing, and what is no such text is refused with the file's name; no message holds a part of the content.
"""

from pathlib import Path

from shared.errors import ConfigError, shown

LFS_POINTER = b"version https://git-lfs"
"""What stands in the place of a large file where Git LFS has not fetched it."""

FETCH_LFS = "found a pointer of Git LFS: `git lfs pull` fetches the file itself"


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file only names what Git LFS keeps. Raises OSError."""
    with path.open("rb") as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER


def is_plain(text: str) -> bool:
    """Whether files, arguments and addresses can hold it: there is no NUL in it, and UTF-8 can write it. Bytes of a
    shell that are no UTF-8 come as lone surrogates.
    """
    return not any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text)


def expanded(path: str | Path) -> Path:
    """A path as somebody wrote it, `~` for a home. Raises ConfigError where there is none, or for one that the system
    cannot look at, such as one with too long a name."""
    try:
        found = Path(path).expanduser()
        found.exists()
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"expected a path, there is no home here that `~` means in {shown(str(path))}") from error
    except OSError as error:
        raise ConfigError(f"expected a path that can be looked at, got {shown(str(path))}: {error.strerror}") from error
    return found


def read_text(path: Path, what: str) -> str:
    """The file's text; what: it is expected to hold. Raises ConfigError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"expected {what} in {path}, cannot read it: {error.strerror}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = error.start
    else:
        if "\0" not in text:
            return text
        place = data.index(0)
    raise ConfigError(
        f"expected {what} in {path} as UTF-8 text, got other bytes at {place}; save it as UTF-8, without formatting"
    )
