"""Rows in the shape of SciKnowEval's files, invented, with the traps that the real ones hold."""

import json
from collections.abc import Sequence
from pathlib import Path

SYSTEM = "\nPick one of four options. Reason first.\n<answer>\nA\n</answer>\n"
SUFFIX = " The solution will be evaluated in a mcq environment."
CLOSING = "\nPlease reason step by step."

Row = dict[str, object]


def row(
    idx: int, stem: str, options: Sequence[str], answer: str = "A", *, between: str = "\n", **changes: object
) -> Row:
    """between: what stands between two options; some rows have a blank line there."""
    lines = between.join(f"{letter}: {text}" for letter, text in zip("ABCD", options, strict=False))
    return {
        "idx": idx,
        "kind": "mcq",
        "dataset": "sciknoweval",
        "answer": answer,
        "elo": 1500,
        "prompt": f"{stem}\n\n{lines}{CLOSING}",
        "description": stem + SUFFIX,
        "tests": "-",
        "embedding": [],
        "system": SYSTEM,
        **changes,
    }


def plain(first: int, count: int, word: str) -> list[Row]:
    """Rows that have nothing in common."""
    return [
        row(idx, f"Which {word} is number {idx}?", [f"{word} {idx} {n}" for n in range(4)], "ABCD"[idx % 4])
        for idx in range(first, first + count)
    ]


def write(directory: Path, domain: str, train: Sequence[Row], test: Sequence[Row]) -> Path:
    """`<directory>/<domain>/{train,test}.json`; returns `directory`."""
    (directory / domain).mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("test", test)):
        text = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in rows)
        (directory / domain / f"{name}.json").write_text(text, encoding="utf-8")
    return directory


def two_domains(directory: Path, train: int = 12, test: int = 4) -> Path:
    """A directory with the domains optics and acids, without any trap but that their idx are the same."""
    for domain, word in (("optics", "lens"), ("acids", "acid")):
        write(directory, domain, plain(0, train, word), plain(train, test, word))
    return directory
