"""`make browser`: a Chromium for the browser tests, where the machine has none yet."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.browser.chromium import PROGRAMS, on_path

INSTALL = ["apt-get", "install", "-y", "-q", "--no-install-recommends"]


def found() -> str | None:
    """The Chromium that the tests would start."""
    known = os.environ.get("OPCOD_CHROMIUM") or on_path()
    if known:
        return known
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).exists() else None


def install() -> None:
    """From Debian's packages where we may, else playwright's own build."""
    if shutil.which("apt-get") and _may():
        prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
        subprocess.run([*prefix, "apt-get", "update", "-q"], check=False)
        # The first is of Debian alone.
        if any(subprocess.run([*prefix, *INSTALL, name], check=False).returncode == 0 for name in PROGRAMS):
            return
    subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=False)


def _may() -> bool:
    if os.geteuid() == 0:
        return True
    return shutil.which("sudo") is not None and subprocess.run(["sudo", "-n", "true"], check=False).returncode == 0


def main() -> int:
    if found() is None:
        install()
    path = found()
    if path is None:
        sys.stderr.write(
            "no Chromium, and none could be installed: expected `chromium` on the path, apt-get with root or sudo, or "
            "`playwright install chromium`; install one and set OPCOD_CHROMIUM to its path\n"
        )
        return 1
    sys.stdout.write(f"browser: {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
