"""Foreign bytes made of good examples: JSON that is altered at any depth, and bytes that are damaged.

What JSON can say and Python's writer cannot (a name twice, thousands of brackets, a number of thousands of digits)
stands as a word in a value until it is written.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

Json = Any
Path = tuple[str | int, ...]

_AGAIN, _NEST, _NEST_OBJECT, _DIGITS = "@again@", "@nest@", "@nest-object@", "@digits@"
_DEPTH, _MANY_DIGITS = 3000, 5000
"""More than Python's limits of both."""

TEXTS = (
    *("", " ", "\n", "\0", "a\0b", "\ud800", "\ufeff", "\u202e", "\x1b[2J", "é" * 70, "\N{FULLWIDTH DIGIT ONE}"),
    *("..", "../../etc/passwd", "/etc/passwd", "/dev/zero", "~", "~nobody-here", "~root/x", "a/b", "a\\b", "n" * 300),
    *("file:///etc/passwd", "http://127.0.0.1:1/", "//host", "http://[::1", "none", "null", "NaN", "inf", "1e999"),
    *("{{ 7*7 }}", "{% for x in range(10**9) %}x{% endfor %}", "${HOME}", "$(id)", "%s%n", "<script>alert(1)</script>"),
    *("'; DROP TABLE x; --", "[", "(a+)+$", "a@v0", "a@v99999999999999999999", "1-1", "x" * 5000, _NEST, _NEST_OBJECT),
)
"""Texts that were trouble somewhere: places, templates, patterns, ids, no text at all."""

NUMBERS = (
    *(0, 1, -1, 2, 255, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**400, _DIGITS),
    *(0.0, -0.0, 0.5, 1e-320, 1e308, float("inf"), float("-inf"), float("nan")),
)
EMPTY = (None, True, False, [], {}, [[]], [None], {"": None})
NASTY: SearchStrategy[Json] = (
    st.sampled_from(TEXTS)
    | st.sampled_from(NUMBERS)
    | st.sampled_from(EMPTY)
    | st.text(max_size=20)
    | st.integers()
    | st.lists(st.sampled_from((*NUMBERS, *EMPTY, "a")), max_size=4)
    | st.integers(20, 400).map(lambda count: {f"unknown {number}": number for number in range(count)})
)
TOKENS = (
    *(
        b"",
        b"\0",
        b"\xff",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\xc3",
        b"\xed\xa0\x80",
        b"\xe2\x80\xa8",
        b"\\u0000",
        b"\\ud800",
    ),
    *(b"\r", b"\r\n", b"\n", b"\n\n", b"\x0c", b" ", b"\t"),
    *(bytes([each]) for each in b"\"\\{}[],:=#@/?&%;'"),
    *(b"%00", b"%zz", b'"""', b"NaN", b"-Infinity", b"1e999", b"null", b"none"),
    *(b"9" * _MANY_DIGITS, b"[" * _DEPTH, b'{"a":' * _DEPTH, b"x=[" * 2000, b"a." * 3000, b"x" * 5000),
)
"""Pieces that mean something in JSON, TOML, URLs or UTF-8, or are many."""


def written(value: Json) -> bytes:
    """The bytes of an altered value."""
    text = json.dumps(value).replace(f'"{_AGAIN}', '"').replace(f'"{_DIGITS}"', "9" * _MANY_DIGITS)
    text = text.replace(f'"{_NEST}"', "[" * _DEPTH + "]" * _DEPTH)
    return text.replace(f'"{_NEST_OBJECT}"', '{"a":' * _DEPTH + "1" + "}" * _DEPTH).encode()


@st.composite
def altered(draw: DrawFn, example: Json) -> Json:
    """The example with one to three changes: another value, a field gone, one more, one twice, two exchanged."""
    value = example
    for _ in range(draw(st.integers(1, 3))):
        value = _changed(draw, value)
    return value


@st.composite
def damaged(draw: DrawFn, data: bytes) -> bytes:
    """The bytes with one to three pieces taken out, put in, doubled or replaced by an evil token."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        gone = draw(st.sampled_from((0, 1, 2, 7, 50, len(data))))
        more = draw(st.sampled_from(TOKENS) | st.binary(max_size=8) | st.just(data[at : at + gone] * 2))
        data = data[:at] + more + data[at + gone :]
    return data


def json_like(*examples: Json) -> SearchStrategy[bytes]:
    """Bytes of altered examples, at times damaged ones."""
    value = st.sampled_from(examples).flatmap(altered).map(written)
    return value | value | st.sampled_from(examples).map(written).flatmap(damaged)


def lines_like(*examples: Json) -> SearchStrategy[bytes]:
    """JSON lines: the examples, of which one is altered, and at times all are damaged."""

    @st.composite
    def lines(draw: DrawFn) -> bytes:
        at = draw(st.integers(0, len(examples) - 1))
        rows = [draw(altered(row)) if number == at else row for number, row in enumerate(examples)]
        return b"".join(written(row) + b"\n" for row in rows)

    whole = b"".join(written(row) + b"\n" for row in examples)
    return lines() | lines() | damaged(whole)


def text_like(*examples: str) -> SearchStrategy[bytes]:
    return st.sampled_from(examples).flatmap(lambda text: damaged(text.encode()))


def of_kinds(cases: Mapping[str, SearchStrategy[bytes]]) -> SearchStrategy[tuple[str, bytes]]:
    """Bytes of one of the kinds, with its name."""
    return st.one_of([st.tuples(st.just(kind), data) for kind, data in cases.items()])


def _changed(draw: DrawFn, value: Json) -> Json:
    places = list(_places(value))
    path = draw(st.sampled_from(places))
    inner = _at(value, path)
    ways = ["put"] * 3 + ["wrap", "exchange"]
    if isinstance(inner, dict):
        ways += ["add", "drop", "again"]
    match draw(st.sampled_from(ways)):
        case "wrap":
            new = draw(st.sampled_from(([inner], {"a": inner}, [inner, inner], str(inner)[:200])))
        case "exchange":
            new = _at(value, draw(st.sampled_from(places)))
        case "add":
            new = {**inner, draw(st.sampled_from(TEXTS[:40])): draw(NASTY)}
        case "drop" if inner:
            gone = draw(st.sampled_from(sorted(inner)))
            new = {name: each for name, each in inner.items() if name != gone}
        case "again" if inner:
            name = draw(st.sampled_from(sorted(inner)))
            new = {**inner, _AGAIN + name: draw(NASTY)}
        case _:
            new = draw(NASTY)
    return _with(value, path, new)


def _places(value: Json, path: Path = ()) -> Iterator[Path]:
    yield path
    children: Sequence[tuple[str | int, Json]] = ()
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    for step, child in children:
        yield from _places(child, (*path, step))


def _at(value: Json, path: Path) -> Json:
    for step in path:
        value = value[step]
    return value


def _with(value: Json, path: Path, new: Json) -> Json:
    if not path:
        return new
    step, *rest = path
    changed = _with(value[step], tuple(rest), new)
    if isinstance(value, dict):
        return {**value, step: changed}
    return [changed if number == step else each for number, each in enumerate(value)]
