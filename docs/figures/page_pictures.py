"""Takes the two pictures of the page that the documentation shows, of a service that runs.

    openclara serve bundled.idx
    python docs/figures/page_pictures.py http://127.0.0.1:8080

The question is one of the five, of the demo's twelve, that the default model answered from latents:
the pictures show the page, not how good the model is.

Needs playwright and a Chromium: the one named in OPENCLARA_CHROMIUM, else Debian's.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

HERE = Path(__file__).parent
CHROMIUM = os.environ.get("OPENCLARA_CHROMIUM", "/usr/bin/chromium")
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
SIZE = {"width": 1280, "height": 800}
MOST_BYTES = 200_000
PATIENCE_MS = 120_000
"""The first answer of a service on a busy machine takes its time."""


def take(url: str, question: str) -> None:
    """Ask once in each theme and keep what is seen.

    Raises:
        SystemExit: A picture is larger than the documentation should carry.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for theme in ("light", "dark"):
            page = browser.new_page(viewport=SIZE, color_scheme=theme, reduced_motion="reduce")
            page.set_default_timeout(PATIENCE_MS)
            page.goto(url)
            page.fill("#question", question)
            page.keyboard.press("Enter")
            expect(page.locator(".column[data-state=done]")).to_be_visible(timeout=PATIENCE_MS)
            expect(page.locator(".card").first).to_be_visible(timeout=PATIENCE_MS)
            target = HERE / f"page-{theme}.png"
            page.screenshot(path=target)
            if target.stat().st_size > MOST_BYTES:
                raise SystemExit(f"{target.name} is larger than {MOST_BYTES} bytes")
            page.close()
        browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Take the pictures of the page.")
    parser.add_argument("url", help="where the service is")
    parser.add_argument(
        "--question", default="At which laboratory did Tim Berners-Lee propose the World Wide Web?"
    )
    asked = parser.parse_args()
    take(asked.url, asked.question)
