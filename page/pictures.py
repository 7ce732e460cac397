"""Take the pictures in docs/page.md from a running service, with Debian's Chromium.

make serve
python page/pictures.py --recording speech.wav
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import click
from playwright.sync_api import Browser, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "tests" / "data" / "sample-mr.flac"
SCREEN = {"width": 1200, "height": 760}
PATIENCE_MS = 60_000
FILE = click.Path(path_type=Path)
WORDS = re.compile(r"[\u0900-\u097f]{2}")


@click.command(context_settings={"show_default": True})
@click.option("--address", default="http://localhost:8080/", help="Address of the service.")
@click.option("--recording", type=FILE, default=SAMPLE, help="What is transcribed and spoken.")
@click.option("--output-dir", type=FILE, default=ROOT / "docs", help="Where pictures go.")
def main(address: str, recording: Path, output_dir: Path) -> None:
    """Take all pictures: empty, done, dark, in Marathi, on a phone, and while somebody speaks."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise click.ClickException("no Chromium is installed: run `make system-deps`")
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        spoken = Path(scratch) / "microphone.wav"
        subprocess.run(
            ["ffmpeg", "-v", "error", "-i", recording, "-ar", "48000", "-ac", "1", spoken], check=True
        )
        flags = [
            *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
            f"--use-file-for-fake-audio-capture={spoken}",
        ]
        browser = playwright.chromium.launch(executable_path=chromium, args=flags, chromium_sandbox=False)
        page = opened(browser, address)
        page.screenshot(path=output_dir / "page-empty.png")
        transcribe(page, SAMPLE, recording)
        page.screenshot(path=output_dir / "page-light.png")
        page.emulate_media(color_scheme="dark")
        page.screenshot(path=output_dir / "page-dark.png")
        page.get_by_role("button", name="मराठी").click()
        page.screenshot(path=output_dir / "page-marathi-dark.png")
        phone = opened(browser, address, viewport={"width": 360, "height": 760}, is_mobile=True)
        transcribe(phone, recording)
        phone.screenshot(path=output_dir / "page-phone.png")
        live = opened(browser, address, viewport={"width": 1200, "height": 560})
        live.get_by_role("button", name="Speak").press("Enter")
        live.wait_for_timeout(8_000)
        live.evaluate("scrollTo(0, 0)")
        expect(live.locator(".partial")).to_have_text(WORDS, timeout=PATIENCE_MS)
        live.screenshot(path=output_dir / "page-live.png")
        browser.close()


def opened(browser: Browser, address: str, **profile: Any) -> Page:
    """Return the service's page in a profile of its own."""
    page = browser.new_context(**{"locale": "en-GB", "viewport": SCREEN} | profile).new_page()
    page.goto(address)
    page.wait_for_selector("select option[value=auto]", state="attached")
    return page


def transcribe(page: Page, *files: Path) -> None:
    """Give files to the page, wait for their texts, and point at a word of the one that is shown."""
    page.set_input_files("input[type=file]", list(files))
    expect(page.locator(".line .state.done")).to_have_count(len(files), timeout=PATIENCE_MS)
    page.locator(".line", has_text=files[-1].name).locator(".open").first.click()
    expect(page.locator(".text")).to_have_text(WORDS)
    page.locator(".text").get_by_text(WORDS).first.hover()
    page.wait_for_timeout(1_000)  # the waveform is drawn after the text


if __name__ == "__main__":
    main()
