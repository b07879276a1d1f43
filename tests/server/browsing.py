"""Chromium for tests of the page, and axe to look for what keeps people out."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

CHROMIUM = Path(os.environ.get("OPENCLARA_CHROMIUM", "/usr/bin/chromium"))
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
AXE = "axe-core@4.14.1"
PATIENCE_MS = 60_000  # a busy machine is not a broken page
WIDE, NARROW = (1280, 860), (360, 740)


@contextmanager
def chromium():
    """A browser until the block ends; the test is skipped where there is none."""
    if not CHROMIUM.is_file():
        pytest.skip(f"no Chromium at {CHROMIUM}; install it, or name it in OPENCLARA_CHROMIUM")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Watched:
    """What a page did that it should not.

    Attributes:
        problems: Errors of its console and uncaught exceptions.
        elsewhere: Addresses that it asked other hosts for.
    """

    problems: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)


@contextmanager
def visiting(browser, url, *, size=WIDE, scheme="light"):
    """A fresh visitor's page, not opened yet; at the end nothing may have gone wrong in it."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, reduced_motion="reduce"
    )
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.watched = watched = Watched()
    host = urlsplit(url).netloc
    page.on(
        "console", lambda said: watched.problems.append(said.text) if said.type == "error" else None
    )
    page.on("pageerror", lambda error: watched.problems.append(str(error)))
    page.on(
        "request",
        lambda asked: (
            None if urlsplit(asked.url).netloc == host else watched.elsewhere.append(asked.url)
        ),
    )
    yield page
    context.close()
    assert not watched.elsewhere, watched.elsewhere
    assert not watched.problems, watched.problems


def axe_source(cache: Path) -> str:
    """The script of axe: from OPENCLARA_AXE (the script or its package), or fetched once by npm.

    It is not part of this repository: its licence is another one.
    """
    given = os.environ.get("OPENCLARA_AXE")
    package = Path(given) if given else cache / "axe-core-4.14.1.tgz"
    if not given and not package.is_file():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("axe is not here: name it in OPENCLARA_AXE, or install npm")
        fetched = subprocess.run(
            [npm, "pack", AXE, "--pack-destination", str(cache)], capture_output=True, timeout=60
        )
        if fetched.returncode:
            pytest.skip(f"npm cannot fetch {AXE}; name it in OPENCLARA_AXE")
    if package.suffix == ".js":
        return package.read_text()
    with tarfile.open(package) as archive:
        script = archive.extractfile("package/axe.min.js")
        assert script is not None
        return script.read().decode()


def violations(page, axe: str) -> list[str]:
    """What axe has to say against the page as it is now."""
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [f"{one['id']}: {[node['html'][:200] for node in one['nodes']]}" for one in found]
