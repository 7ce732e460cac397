"""The page in a browser, on the shipped adapter: files, microphone, corrections, downloads, history."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[4]
SAMPLE = ROOT / "tests" / "data" / "sample-mr.flac"
EXPECT_MS = 180_000
HEARD = "माफ"
"""A word of the sample that the shipped adapter hears whatever comes before."""

SLOWLY = """() => {
  const play = HTMLMediaElement.prototype.play;
  HTMLMediaElement.prototype.play = function () { this.playbackRate = 0.1; return play.call(this); };
}"""
"""Sound lasts long enough to be looked at, however busy the machine is."""


@pytest.fixture(scope="module")
def service(served) -> Iterator[httpx.Client]:
    with served(ROOT / "model_artifacts" / "whisper-base-mr") as client:
        yield client


@pytest.fixture
def address(service: httpx.Client) -> str:
    return str(service.base_url).rstrip("/") + "/"


def transcribed(page: Page, *files: Path) -> None:
    """Give files to the page, and wait for the last one."""
    page.set_input_files("input[type=file]", list(files))
    ended = page.locator(".line .state.done, .line .state.failed")
    expect(ended).to_have_count(len(files), timeout=EXPECT_MS)


def speak(page: Page) -> None:
    """Speak until words appear, for five seconds at least: the sample with the pause behind it."""
    page.get_by_role("button", name="Speak").press("Enter")
    page.wait_for_timeout(6_000)
    expect(page.locator(".detail .state")).to_have_text("Listening")
    expect(page.locator(".text")).to_have_text(re.compile(r"[\u0900-\u097f]{2}"), timeout=EXPECT_MS)


def stop(page: Page) -> None:
    """Stop speaking, and wait for the last words."""
    page.get_by_role("button", name="Stop").press("Enter")
    expect(page.locator(".line .state.done")).to_have_count(1, timeout=EXPECT_MS)


def downloaded(page: Page, name: str) -> str:
    """Return the file that a button downloads."""
    with page.expect_download() as download:
        page.get_by_label(f"Download as {name}", exact=True).click()
    assert download.value.suggested_filename == f"{SAMPLE.stem}.{name.lower()}"
    return Path(download.value.path()).read_text(encoding="utf-8")


def violations(page: Page, where: str) -> list[str]:
    """Return what axe finds against the rules of accessibility."""
    before = page.evaluate("window.violations")
    found = Axe().run(page).response["violations"]
    page.evaluate("before => { window.violations = before; }", before)  # axe tries styles of its own
    return [f"{where}: {each['id']}: {node['html'][:120]}" for each in found for node in each["nodes"]]


def seconds_of(text: str) -> list[float]:
    """Return every time of a subtitle file, in seconds."""
    return [
        3600 * int(hours) + 60 * int(minutes) + int(seconds) + int(ms) / 1000
        for hours, minutes, seconds, ms in re.findall(r"(\d\d):(\d\d):(\d\d)[.,](\d{3})", text)
    ]


def test_what_is_downloaded_is_the_corrected_text_at_the_services_times(service, address, open_page):
    query = {"word_timestamps": "true"}
    answer = service.post("/invocations", params=query, content=SAMPLE.read_bytes()).json()
    page = open_page(address, accept_downloads=True)
    transcribed(page, SAMPLE)
    expect(page.locator(".word")).to_have_text(answer["text"].split())
    assert json.loads(downloaded(page, "JSON"))["segments"] == answer["segments"]

    words = answer["text"].split()
    corrected = ["नवे", *words[1:], "शेवट"]
    page.get_by_label("Correct the text at 0:00").click()
    page.get_by_label("Corrected text").fill(" ".join(corrected))
    page.keyboard.press("Enter")
    expect(page.locator(".word")).to_have_text(corrected)

    assert downloaded(page, "TXT") == " ".join(corrected) + "\n"
    body = json.loads(downloaded(page, "JSON"))
    assert (body["text"], body["language"]) == (" ".join(corrected), "mr")
    timed = [word for segment in answer["segments"] for word in segment["words"]]
    kept = [word for segment in body["segments"] for word in segment["words"]]
    assert kept[1:-1] == timed[1:]  # what was left alone has its times still
    assert (kept[0]["start"], kept[0]["end"]) == (timed[0]["start"], timed[0]["end"])
    for name in ("SRT", "VTT"):
        subtitles = downloaded(page, name)
        assert subtitles.startswith("WEBVTT\n\n0" if name == "VTT" else "1\n0")
        cues = [block for block in subtitles.split("\n\n") if "-->" in block]
        spoken = [line for cue in cues for line in cue.partition("-->")[2].split("\n")[1:]]
        assert " ".join(spoken).split() == corrected
        times = seconds_of(subtitles)
        assert times == sorted(times)
        assert times[0] == timed[0]["start"]
        assert all(len(line) <= 60 for line in spoken)


def test_a_word_is_heard_by_click_and_by_keyboard(address, open_page):
    page = open_page(address)
    page.evaluate(SLOWLY)
    transcribed(page, SAMPLE)
    expect(page.get_by_role("button", name="Play", exact=True)).to_be_enabled(timeout=EXPECT_MS)
    page.locator(".word").nth(3).click()
    expect(page.locator(".word.heard")).to_have_count(1)
    page.get_by_role("button", name="Pause", exact=True).click()
    stopped_s = int(page.get_by_role("slider").get_attribute("aria-valuenow"))
    assert stopped_s >= 1
    page.locator(".word").first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".word").nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Pause", exact=True)).to_be_visible()
    page.get_by_role("slider").focus()
    page.keyboard.press("End")
    slider = page.get_by_role("slider")
    expect(slider).to_have_attribute("aria-valuenow", slider.get_attribute("aria-valuemax"))


def test_speech_becomes_words_while_it_is_spoken_and_stays_after_a_reload(address, open_page):
    page = open_page(address)
    speak(page)
    stop(page)
    said = page.locator(".words").all_inner_texts()
    assert HEARD in " ".join(said)
    page.reload()
    expect(page.locator(".words")).to_have_text(said)
    # The sound is kept too.
    expect(page.get_by_role("button", name="Play", exact=True)).to_be_enabled(timeout=EXPECT_MS)
    page.locator(".line").get_by_label(re.compile("^Forget")).click()
    expect(page.locator(".line")).to_have_count(0)
    page.reload()
    expect(page.locator(".welcome")).to_be_visible()


def test_live_speech_goes_on_where_its_connection_broke(address, open_page):
    page = open_page(address)
    sockets = []

    def pass_through(ours) -> None:
        theirs = ours.connect_to_server()
        sockets.append((ours, theirs))

    page.route_web_socket(re.compile("/live"), pass_through)
    speak(page)
    ours, theirs = sockets[0]
    ours.close(code=3000)
    theirs.close(code=3000)
    page.wait_for_timeout(2_000)
    assert len(sockets) == 2
    stop(page)
    assert page.locator(".detail [role=alert]").count() == 0
    assert HEARD in page.locator(".text").inner_text()


def test_axe_finds_nothing_against_it_in_any_state_look_or_language(address, open_page):
    page = open_page(address)
    found = violations(page, "empty")
    transcribed(page, SAMPLE, Path(__file__))  # the second holds no sound
    expect(page.get_by_role("button", name="Play", exact=True)).to_be_enabled(timeout=EXPECT_MS)
    found += violations(page, "done, light")
    page.get_by_label("Correct the text at 0:00").click()
    found += violations(page, "correcting")
    page.keyboard.press("Escape")
    page.locator(".line .open").last.click()
    found += violations(page, "failed")
    page.locator(".line .open").first.click()
    page.emulate_media(color_scheme="dark")
    page.get_by_role("button", name="मराठी").click()
    expect(page.locator("html")).to_have_attribute("lang", "mr")
    found += violations(page, "done, dark, Marathi")
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    found += violations(page, "phone")
    page.get_by_role("button", name="बोला").press("Enter")
    expect(page.locator(".partial, .committed").first).to_be_attached(timeout=EXPECT_MS)
    found += violations(page, "live")
    page.get_by_role("button", name="थांबवा").press("Enter")
    assert found == []


def test_the_page_can_be_used_with_the_keyboard_alone(address, open_page):
    page = open_page(address)
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    names = []
    for _ in range(7):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        names.append(focused.get_attribute("aria-label") or focused.inner_text().strip())
    assert names[:2] == ["मराठी", page.locator("nav .icon-only").get_attribute("aria-label")]
    assert names[2:4] == ["Choose files", "Speak"]
