"""The page in a real browser, on a service whose pace the tests decide."""

from __future__ import annotations

import re

from playwright.sync_api import expect

EXPECT_MS = 120_000


def address_of(running) -> str:
    host, port = running.address
    return f"http://{host}:{port}/"


def as_file(name: str, content: bytes) -> dict:
    return {"name": name, "mimeType": "application/octet-stream", "buffer": content}


def test_a_recording_is_sent_cancelled_sent_again_and_becomes_words(shared, open_page, speech_wav):
    page = open_page(address_of(shared))
    shared.engine.pace.clear()
    try:
        files = [as_file("one.wav", speech_wav), as_file("two.txt", b"no sound")]
        page.set_input_files("input[type=file]", files)
        expect(page.locator(".detail .state")).to_have_text("Transcribing", timeout=EXPECT_MS)
        page.click(".detail .progress button")
        expect(page.locator(".detail .state")).to_have_text("Cancelled", timeout=EXPECT_MS)
    finally:
        shared.engine.pace.set()
    expect(page.locator(".line .state")).to_have_text(["Cancelled", "Failed"], timeout=EXPECT_MS)
    page.click(".detail .notice button")
    expect(page.locator(".word").first).to_have_text("श्रोता", timeout=EXPECT_MS)
    expect(page.locator(".line .state")).to_have_text(["Done", "Failed"], timeout=EXPECT_MS)
    assert re.match(r"0:00 / 0:0[45]", page.text_content(".clock"))
    page.click(".line .open >> nth=1")
    expect(page.locator("[role=alert]")).to_contain_text("holds no sound that can be read")
