"""Every error that opcod raises on purpose, and the exit code a command ends with when it reaches the top.

A message says what was expected, what came and what to do about it. Whatever came, it can be printed, logged and sent:
it is text in UTF-8, and short.
"""

import errno
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

MAX_MESSAGE_CHARS = 4000
"""Some screens: the end of a log fits, a file of somebody else's does not."""

MAX_SHOWN_CHARS = 60
"""Of a value that came."""

MAX_REASON_CHARS = 200
"""Of what a library says."""

# 2 is what argparse and click end with; 69, 74 and 75 are EX_UNAVAILABLE, EX_IOERR and EX_TEMPFAIL of sysexits.h; 130
# is what a shell says of a program that Ctrl-C has ended.
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 69
EXIT_IO = 74
EXIT_TEMPORARY = 75
EXIT_INTERRUPTED = 130

_DENIED = (errno.EACCES, errno.EPERM)
_UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EIO)

_LEFT_OUT = " […] "

_JOINERS = "\u200c\u200d"
"""Not to be seen, and part of how some scripts, and some pictures, are written."""


class OpcodError(Exception):
    """Root of all errors raised on purpose; `exit_code` is what a command line ends with."""

    exit_code = 1

    def __str__(self) -> str:
        return presentable(super().__str__())


class ConfigError(OpcodError):
    """A setting, preset, command-line value or input file that cannot be used."""

    exit_code = EXIT_USAGE


class ProblemSetError(ConfigError):
    """A problem set that is empty, malformed, or whose partitions overlap."""


class ModelError(ConfigError):
    """A model directory that cannot be used: missing, without safetensors, or of the wrong shape."""


class PromptError(ConfigError):
    """Messages that a model's chat template refuses, or that would be more than text in it."""


class UnavailableError(OpcodError):
    """A peer or server that did not answer before its deadline."""

    exit_code = EXIT_UNAVAILABLE


class RequestError(ConfigError):
    """A request to a service that cannot be answered as it is. `code` and `param` are as in OpenAI's errors."""

    def __init__(self, message: str, *, status: int = 400, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param


class NotFoundError(RequestError):
    """Something that was asked for by its name, and that is not there."""

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message, status=404, code=code, param=param)


class StorageError(OpcodError):
    """A file that could not be written, or that is not what its manifest says."""

    exit_code = EXIT_IO


class WriteError(StorageError):
    """A file that the system would not write now, as on a full disk; what was there is untouched, and it may be tried
    again."""


class ReadError(StorageError):
    """A file that the system would not read now, as where a volume is away; that says nothing about what is in it."""


class FencedError(OpcodError):
    """Another process holds the lease now; whoever gets this must stop writing."""

    exit_code = EXIT_TEMPORARY


class MalformedMessageError(OpcodError):
    """A message whose schema is unknown or whose body does not validate."""


class StoppedError(OpcodError):
    """Somebody asked to stop; what was asked for is not there, and nothing is half-written."""

    exit_code = EXIT_INTERRUPTED


def shown(value: object) -> str:
    """What came, for a message: its repr, of a text or anything longer only the beginning and how long it is."""
    if isinstance(value, str):
        cut = f"… ({len(value):,} characters)" if len(value) > MAX_SHOWN_CHARS else ""
        return f"{value[:MAX_SHOWN_CHARS]!r}{cut}"
    told = repr(value)
    return told if len(told) <= MAX_SHOWN_CHARS else f"{told[:MAX_SHOWN_CHARS]}… ({len(told):,} characters)"


def presentable(message: str) -> str:
    """The message as anybody can take it: nothing in it moves a terminal's cursor or is no UTF-8, and of one too long
    the middle is left out, since what was expected stands before it and what to do behind it.
    """
    text = "".join(_escaped(character) for character in message)
    if len(text) <= MAX_MESSAGE_CHARS:
        return text
    kept = (MAX_MESSAGE_CHARS - len(_LEFT_OUT)) // 2
    return f"{text[:kept]}{_LEFT_OUT}{text[-kept:]}"


def printable(text: str) -> str:
    """A text of a model's or a stranger's for a terminal: nothing in it moves the cursor, sets the clipboard or turns
    the order in which it is read. It is whole, with its lines and with the blanks and joiners of all scripts."""
    return "".join(
        character if character in _JOINERS or unicodedata.category(character) == "Zs" else _escaped(character)
        for character in text
    )


def reason(error: BaseException) -> str:
    """What an error of a library says, on one line, and cut: some name all that they would have taken."""
    # Here and not above: a health check is a process every few seconds, which imports this module.
    from pydantic import ValidationError

    said = _faults(error) if isinstance(error, ValidationError) else " ".join(str(error).split())
    said = said or type(error).__name__
    return said if len(said) <= MAX_REASON_CHARS else f"{said[:MAX_REASON_CHARS]}…"


def file_fault(error: OSError) -> str | None:
    """What the system refuses and of which file, on one line; None of an error that is of no file."""
    if error.filename is None:
        # What refuses a write does not name the file, nor that it is the output.
        if error.errno not in _UNWRITTEN:
            return None
        return (
            f"expected to write the output or a file, the system says: {error.strerror}; see to the disk or the "
            "terminal that they go to, as by making room on it"
        )
    advice = "; correct its permissions, or those of the directories above it" if error.errno in _DENIED else ""
    return presentable(f"expected to use {error.filename}, the system says: {error.strerror}{advice}")


def _faults(error: "ValidationError") -> str:
    """The first three, without the values that came, which may be all of a file."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    told = [": ".join(filter(None, (".".join(map(str, each["loc"])), each["msg"]))) for each in faults[:3]]
    return "; ".join(told) + (f"; and {len(faults) - 3} more" if len(faults) > 3 else "")


def _escaped(character: str) -> str:
    plain = character.isprintable() or character in "\n\t"
    return character if plain else character.encode("unicode_escape").decode()
