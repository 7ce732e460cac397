"""Debian's Chromium without a screen, with a recording as its microphone."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

ROOT = Path(__file__).parents[4]
SAMPLE = ROOT / "tests" / "data" / "sample-mr.flac"
PATIENCE_MS = 180_000
"""Time for anything to happen on a busy machine."""

TOLD_ELSEWHERE = ("Failed to load resource", "Applying inline style violates")
"""Chromium notes statuses, of which the page tells its reader, and violations, which are counted below."""

VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) =>
  window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
"""


@pytest.fixture(scope="module")
def microphone_wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample as a WAV file that Chromium reads in a circle, as its microphone."""
    path = tmp_path_factory.mktemp("microphone") / "speech.wav"
    pause_and_format = ["-af", "apad=pad_dur=1.5", "-ar", "48000", "-ac", "1"]
    subprocess.run(["ffmpeg", "-v", "error", "-i", str(SAMPLE), *pause_and_format, str(path)], check=True)
    return path


@pytest.fixture(scope="module")
def browser(microphone_wav: Path) -> Iterator[Browser]:
    # For a module only: playwright leaves its event loop running in this thread until it is stopped.
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert chromium is not None, "no Chromium is installed: run `make system-deps`"
    flags = [
        *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
        f"--use-file-for-fake-audio-capture={microphone_wav}",
    ]
    with sync_playwright() as playwright:
        # Tests and CI run as root, for whom Chromium has no sandbox.
        running = playwright.chromium.launch(executable_path=chromium, args=flags, chromium_sandbox=False)
        yield running
        running.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open the page of a service in a fresh profile; at its end nothing may have gone wrong in it."""
    with _pages(browser) as open_one:
        yield open_one


@contextmanager
def _pages(browser: Browser) -> Iterator[Callable[..., Page]]:
    faults: list[str] = []
    pages: list[Page] = []

    def note(message: ConsoleMessage) -> None:
        if message.type == "error" and not message.text.startswith(TOLD_ELSEWHERE):
            faults.append(message.text)

    def open_one(address: str, **profile: object) -> Page:
        usual = {"locale": "en-GB", "viewport": {"width": 1280, "height": 860}}
        context = browser.new_context(**usual | profile)
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        pages.append(page)
        page.add_init_script(VIOLATIONS)
        page.on("console", note)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: _stays_here(request.url, address, faults))
        page.goto(address)
        page.wait_for_selector("select option[value=auto]", state="attached")
        return page

    yield open_one
    for page in pages:
        faults += page.evaluate("window.violations")
        page.context.close()
    assert faults == []


def _stays_here(url: str, address: str, faults: list[str]) -> None:
    """Note an address that is not the service's."""
    if not url.startswith((address, "blob:")):
        faults.append(f"asked for {url}")
