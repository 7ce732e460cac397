"""The page at `/` as a client without a browser sees it: who gets it, its files, and its headers."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from serve.http.page.built import BUILT, HASHED

ROOT = Path(__file__).parents[4]
SOURCES = ROOT / "page"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.fixture
def page(shared):
    return shared.client.get("/", headers={"accept": BROWSER})


def test_the_built_files_come_from_these_sources():
    names = ["index.html", "package.json", "package-lock.json", "tsconfig.json", "vite.config.ts"]
    names += [path.relative_to(SOURCES).as_posix() for path in (SOURCES / "src").rglob("*") if path.is_file()]
    whole = hashlib.sha256()
    for name in sorted(names):
        content = (SOURCES / name).read_bytes()
        whole.update(f"{name}\0{len(content)}\0".encode() + content)
    built_from = (BUILT / "sources.sha256").read_text().strip()
    assert built_from == whole.hexdigest(), "the sources changed since `make page`"


def test_what_the_page_is_built_with_is_pinned_exactly():
    project = json.loads((SOURCES / "package.json").read_text())
    packages = project["dependencies"] | project["devDependencies"]
    assert len(packages) > 5
    assert [name for name, release in packages.items() if not re.fullmatch(r"\d+\.\d+\.\d+", release)] == []


@pytest.mark.parametrize(
    ("accept", "is_page"),
    [
        (BROWSER, True),
        ("text/html", True),
        ("application/json", False),
        ("*/*", False),
        ("text/*, application/json", False),
        ("text/html;q=0.5, application/json", False),
        ("text/html;q=0", False),
        ("audio/wav", False),
        ("", False),
    ],
)
def test_browsers_get_the_page_and_programs_json(shared, accept, is_page):
    answer = shared.client.get("/", headers={"accept": accept})
    assert answer.headers["content-type"].startswith("text/html" if is_page else "application/json")
    assert answer.headers["vary"] == "Accept"
    if not is_page:
        assert answer.json()["endpoints"]


def test_programs_learn_what_may_be_asked_for(shared):
    facts = shared.client.get("/").json()
    assert (facts["languages"], facts["docs"], facts["live"]) == (["en", "hi", "mr"], "/docs", "/live")
    assert facts["max_body_bytes"] == 100 * 2**20


def test_the_policy_allows_nothing_inline_and_nothing_from_elsewhere(page):
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert not re.search(r"unsafe|https?:|\*|data:", page.headers["content-security-policy"])
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=", page.text)


def test_the_nonce_is_another_one_each_time(shared, page):
    nonce = re.search(r"'nonce-([\w-]+)'", page.headers["content-security-policy"])[1]
    assert f'nonce="{nonce}"' in page.text
    assert page.headers["cache-control"] == "no-store"
    assert nonce not in shared.client.get("/", headers={"accept": BROWSER}).text


def test_everything_the_page_names_is_there_and_kept_for_good(shared, page):
    named = re.findall(r'(?:src|href)="\./([^"]+)"', page.text)
    (style,) = [name for name in named if name.endswith(".css")]
    fonts = re.findall(r"url\(\./([^)]+)\)", shared.client.get(f"/{style}").text)
    named += [f"{HASHED}/{name}" for name in fonts]
    assert len(named) == 7  # a script, a style, a drawing, four fonts
    for name in named:
        answer = shared.client.get(f"/{name}")
        assert answer.status_code == 200
        assert answer.content == (BUILT / name).read_bytes()
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"


def test_only_the_pages_own_files_are_there(shared):
    for name in ("index.html", "..%2Findex.html", "%2e%2e%2fbuilt.py", "nothing.js"):
        assert shared.client.get(f"/{HASHED}/{name}").status_code == 404


def test_no_file_of_the_page_names_an_address_to_fetch_from():
    for path in (BUILT / HASHED).iterdir():
        if path.suffix in (".js", ".css"):
            addresses = set(re.findall(r"https?://[\w.-]+", path.read_text(encoding="utf-8")))
            assert addresses <= {"http://www.w3.org"}, path.name  # names of XML, which nobody fetches


def test_a_setting_turns_the_page_off(serve):
    client = serve(page=False).client
    answer = client.get("/", headers={"accept": BROWSER})
    assert answer.headers["content-type"] == "application/json"
    (asset, *_) = (BUILT / HASHED).iterdir()
    assert client.get(f"/{HASHED}/{asset.name}").status_code == 404


def test_a_multi_model_service_has_no_page(serve, tmp_path):
    client = serve(multi_model=True, adapter_roots=str(tmp_path)).client
    assert client.get("/", headers={"accept": BROWSER}).json()["live"] is None
