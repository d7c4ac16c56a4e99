"""A real Chromium under playwright, and what a page did in it that no page here may do."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Dialog, Error, Page, sync_playwright

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT_MS = 20_000
MISSING = "no Chromium: `make browser` installs one, or set OPCOD_CHROMIUM to its path"


PROGRAMS = ("chromium-headless-shell", "chromium")
"""The first is the same engine without a browser around it: it takes a third less of the processor."""


def on_path() -> str | None:
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


@contextmanager
def chromium() -> Iterator[Browser]:
    """$OPCOD_CHROMIUM, else the first of PROGRAMS on the path, else playwright's own. Fails where there is none."""
    path = os.environ.get("OPCOD_CHROMIUM") or on_path()
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        except Error as error:
            raise AssertionError(f"{MISSING} ({error.message.splitlines()[0]})") from error
        yield browser
        browser.close()


@dataclass
class Viewer:
    """A person's browser window. faults: console errors, dialogs, requests that left the machine or failed."""

    context: BrowserContext
    page: Page
    url: str
    faults: list[str] = field(default_factory=list)

    def open(self, path: str = "/") -> Page:
        self.page.goto(self.url + path)
        return self.page

    def another(self) -> Page:
        """One more tab, watched as well."""
        page = self.context.new_page()
        self.watch(page)
        return page

    def watch(self, page: Page) -> None:
        page.set_default_timeout(WAIT_MS)
        page.on("console", lambda said: self._note(said.type in ("error", "warning"), f"console: {said.text}"))
        page.on("pageerror", lambda error: self._note(True, f"error: {error}"))
        page.on("dialog", self._dismiss)
        page.on("request", lambda request: self._note(not self._own(request.url), f"request: {request.url}"))

    def _own(self, url: str) -> bool:
        return url.startswith((self.url, "data:"))

    def _dismiss(self, dialog: Dialog) -> None:
        self._note(True, f"dialog: {dialog.message}")
        dialog.dismiss()

    def _note(self, bad: bool, what: str) -> None:
        if bad:
            self.faults.append(what)


@contextmanager
def viewer(browser: Browser, url: str, **options: Any) -> Iterator[Viewer]:
    """options: of playwright's context, such as `viewport` and `java_script_enabled`."""
    context = browser.new_context(**options)
    opened = Viewer(context, context.new_page(), url)
    opened.watch(opened.page)
    yield opened
    context.close()
