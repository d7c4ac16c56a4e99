"""How the house stands, counted: sizes of files, who uses whom within a service, names that mean two things, comments.

    python benchmarks/house.py [DIRECTORY of a checkout]

A level is the longest way down through imports: a file that imports nothing of its folder stands on level 1. A user of
a file is another file of the product that imports it. Run it on two checkouts to compare them.
"""

import ast
import io
import statistics
import subprocess
import sys
import tokenize
from collections import defaultdict
from functools import cache
from pathlib import Path

PRODUCT = ("opcod/", "services/", "shared/", "docs/", "benchmarks/", "docker/")
FOLDERS = ("opcod", "services/broker", "services/student", "services/trainer", "services/inspector", "shared")
SHORT = 60


def tracked(root: Path) -> list[Path]:
    """Python files of the checkout, below its root."""
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=root, capture_output=True, text=True, check=True)
    return [Path(line) for line in listed.stdout.splitlines() if (root / line).is_file()]


def module_of(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path, text: str) -> set[str]:
    """Modules, or names in modules, that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(path.parts[: len(path.parts) - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def uses(texts: dict[Path, str]) -> dict[Path, set[Path]]:
    """By file, the files that it imports."""
    # A name may be a module or something in one, so `imported` gives both and this keeps what is a file.
    files = {module_of(path): path for path in texts}
    return {
        path: {files[name] for name in imported(path, text) if name in files and files[name] != path}
        for path, text in texts.items()
    }


def levels(files: set[Path], used: dict[Path, set[Path]]) -> int:
    """Of these files alone; a circle counts as one step."""
    open_now: set[Path] = set()

    @cache
    def level(path: Path) -> int:
        open_now.add(path)
        below = [level(other) for other in used[path] & files if other not in open_now]
        open_now.discard(path)
        return 1 + max(below, default=0)

    return max(map(level, sorted(files)), default=0)


def comment_lines(text: str) -> int:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return sum(token.type == tokenize.COMMENT and token.line.lstrip().startswith("#") for token in tokens)


def main(root: Path) -> None:
    every = {path: (root / path).read_text() for path in tracked(root)}
    source = {path: text for path, text in every.items() if path.as_posix().startswith(PRODUCT)}
    lines = {path: text.count("\n") for path, text in source.items()}
    used = uses(source)
    users: defaultdict[Path, int] = defaultdict(int)
    for others in used.values():
        for other in others:
            users[other] += 1
    classes: defaultdict[str, set[Path]] = defaultdict(set)
    for path, text in source.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                classes[node.name].add(path)
    # Without what makes a folder a package, which says nothing about the size of files.
    sizes = sorted(count for path, count in lines.items() if path.name != "__init__.py" and count)
    total = sum(lines.values())
    tests = sum(text.count("\n") for path, text in every.items() if path.parts[0] == "tests")
    print(f"files {len(source)}, lines {total}, tests {tests} ({tests / total:.2f} of the source)")
    p95 = sizes[int(0.95 * len(sizes))]
    print(f"lines of a file: median {statistics.median(sizes):.0f}, p95 {p95}, most {sizes[-1]}")
    print(f"files under {SHORT} lines: {sum(size < SHORT for size in sizes)}")
    print(f"files with one user: {sum(users[path] == 1 for path in source)}")
    print(f"comments: {100 * sum(map(comment_lines, source.values())) / total:.1f} % of lines")
    twice = sorted(name for name, where in classes.items() if len(where) > 1)
    print(f"class names that stand in two files or more: {len(twice)} ({', '.join(twice)})")
    for folder in FOLDERS:
        inside = {path for path in source if path.as_posix().startswith(f"{folder}/") and lines[path]}
        arrows = sum(len(used[path] & inside) for path in inside)
        print(f"{folder}: {len(inside)} files, {arrows} imports between them, {levels(inside, used)} levels")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
