"""The harness sees what it is there for: each reader here has one fault, and each is found."""

import itertools
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.errors import MAX_MESSAGE_CHARS, ConfigError, OpcodError
from tests.fuzz.harness import BATCH, SECRET, Fuzz, HangError
from tests.fuzz.mutation import json_like, text_like

EXAMPLE = {"name": "a", "inner": {"list": [{"number": 3}, {"number": 4}]}}
WITH_SECRET = {"key": SECRET}


def sound(data: bytes) -> int:
    try:
        return sum(int(each["number"]) for each in json.loads(data)["inner"]["list"])
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
        raise ConfigError(f"expected a list of numbers, got {len(data)} bytes") from error


def crashes_deep_inside(data: bytes) -> int:
    try:
        found = json.loads(data)["inner"]["list"][1]
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise ConfigError("expected a list") from error
    return int(found["number"])


def crashes_on_bytes(data: bytes) -> str:
    return data.decode()


def crashes_on_nests(data: bytes) -> object:
    try:
        return json.loads(data)
    except ValueError as error:
        raise ConfigError("expected JSON") from error


def hangs(data: bytes) -> int:
    found = sound(data)
    while found > 2**40:
        pass
    return found


class EndlessError(OpcodError):
    def __str__(self) -> str:
        return str(self.args[0])


def says_all(data: bytes) -> None:
    raise EndlessError(f"expected something else, got {data.decode(errors='replace')}")


def shows_the_secret(data: bytes) -> None:
    at = data.find(SECRET[:8].encode())
    raise ConfigError(f"wrong near {data[at : at + 8].decode()}" if at >= 0 else "wrong")


def says_no_text(data: bytes) -> None:
    try:
        name = json.loads(data)["name"]
    except (ValueError, TypeError, LookupError, RecursionError):
        name = "none"
    raise EndlessError(f"got {name:.20}" if isinstance(name, str) and name != SECRET else "no name")


def writes(data: bytes) -> None:
    Path(f"/tmp/never-{len(data)}").write_bytes(data)


def writes_and_hides_it(data: bytes) -> None:
    try:
        os.mkdir(f"/tmp/never-{len(data)}")  # noqa: PTH102 - the system's own call
    except OSError as error:
        raise ConfigError("expected another directory") from error


def runs_a_program(_data: bytes) -> None:
    subprocess.run(["true"], check=True)


def runs_the_code(data: bytes, place: Path) -> None:
    exec(compile(f"x = {data!r}", place / "model.py", "exec"))


FAULTS: dict[Callable[[bytes], object], type[BaseException]] = {
    crashes_deep_inside: Exception,
    crashes_on_bytes: UnicodeDecodeError,
    crashes_on_nests: RecursionError,
    hangs: HangError,
    says_all: AssertionError,
    shows_the_secret: AssertionError,
    says_no_text: AssertionError,
    writes: OSError,
    writes_and_hides_it: AssertionError,
    runs_a_program: OSError,
}


EXAMPLES = 2000


def target(place: Path) -> Fuzz:
    return Fuzz(place, seed=0, hang_s=0.3)


@pytest.mark.parametrize("reader", FAULTS, ids=lambda reader: reader.__name__)
def test_a_reader_with_a_fault_is_caught(reader: Callable[[bytes], object], tmp_path: Path) -> None:
    fuzz, cases = target(tmp_path), json_like(WITH_SECRET if reader is shows_the_secret else EXAMPLE)
    with pytest.raises(FAULTS[reader]) as caught:
        fuzz.run(cases, lambda data: fuzz.reads(lambda: reader(data)) and None, examples=EXAMPLES)
    assert not isinstance(caught.value, OpcodError)


def test_code_that_lies_among_the_foreign_bytes_is_caught(tmp_path: Path) -> None:
    fuzz = target(tmp_path)
    with pytest.raises(OSError, match="exec"):
        fuzz.run(text_like("x"), lambda data: fuzz.reads(lambda: runs_the_code(data, tmp_path)), examples=EXAMPLES)


def test_a_sound_reader_is_tried_as_often_as_was_said(tmp_path: Path) -> None:
    fuzz = target(tmp_path)
    read: list[int | None] = []
    fuzz.run(json_like(EXAMPLE), lambda data: read.append(fuzz.reads(lambda: sound(data))), examples=300)
    assert fuzz.tried == len(read) == 300
    assert len(set(read)) > 5, "some examples are read, and others refused"
    assert None in read


def test_as_long_as_there_is_time_one_batch_follows_the_other(tmp_path: Path) -> None:
    seen: list[bytes] = []
    fuzz = Fuzz(tmp_path, seed=0, seconds=3.0 * BATCH, now=itertools.count().__next__)
    fuzz.run(json_like(EXAMPLE), seen.append, examples=1)
    assert len(seen) == fuzz.tried == pytest.approx(3 * BATCH, abs=10)
    assert len(set(seen)) > 2 * BATCH, "each begins elsewhere"


def test_the_same_seed_tries_the_same_examples(tmp_path: Path) -> None:
    tried: list[list[bytes]] = [[], [], []]
    for found, seed in zip(tried, (1, 1, 2), strict=True):
        Fuzz(tmp_path, seed=seed).run(json_like(EXAMPLE), found.append, examples=30)
    first, again, other = tried
    assert first == again != other


def test_a_refusal_of_the_greatest_length_passes(tmp_path: Path) -> None:
    def refuse() -> None:
        raise ConfigError("x" * MAX_MESSAGE_CHARS)

    assert target(tmp_path).reads(refuse) is None
