"""Base64 from editors, web pages and URLs."""

import base64
import time
import tracemalloc

import pytest

from serve.audio.base64_text import PIECE, decode_base64
from serve.errors import RequestError

DATA = bytes(range(256)) + b"\xfb\xff\xfe"
TEXT = base64.b64encode(DATA).decode()


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + TEXT,
        TEXT + "\u00a0",
        TEXT[:9] + "\u200b" + TEXT[9:],
        "data:audio/wav;base64," + TEXT.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D"),
        "data:audio/wav;base64,"
        + base64.urlsafe_b64encode(DATA).decode().replace("-", "%2d").replace("_", "%5f").replace("=", "%3d")
        + "%0d%0A%20",
        "data:audio/wav;charset=utf-8;base64," + TEXT,
    ],
    ids=[
        "byte order mark",
        "no-break space",
        "zero-width space",
        "escaped URL",
        "escaped URL of the other alphabet",
        "URL with a charset",
    ],
)
def test_what_lies_around_base64_is_no_part_of_it(text):
    assert decode_base64(text) == DATA


def test_other_signs_are_refused():
    escaped = [
        f"data:;base64,{text}" for text in ("AAA%", "AA%2", "%2%2BAA", "%2%20BA", "%2GAA", "%2AAA", "%252B")
    ]
    for text in ("अ" + TEXT, TEXT + "%3D", "****", *escaped):
        with pytest.raises(RequestError, match="not base64"):
            decode_base64(text)


@pytest.mark.parametrize("before", range(4))
def test_no_escape_is_torn_where_a_long_url_is_cut(before):
    around = ("A" * before, "A" * (4 - before))
    assert decode_base64(("%2B" * PIECE).join(("data:;base64," + around[0], around[1]))) == decode_base64(
        ("+" * PIECE).join(around)
    )


def test_an_escaped_url_takes_memory_in_proportion():
    text = "data:;base64," + "%41" * 400_000
    tracemalloc.start()
    try:
        assert decode_base64(text) == bytes(300_000)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 10 * len(text)


def test_one_invisible_sign_does_not_make_a_long_text_slow():
    def cost_s(text):
        started = time.thread_time()
        assert len(decode_base64(text)) == 6_000_000
        return time.thread_time() - started

    plain = "A" * 8_000_000
    usual_s, with_sign_s = cost_s(plain), cost_s(plain + "\u00a0")
    assert with_sign_s < 5 * usual_s + 0.1
