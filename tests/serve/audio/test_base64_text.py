"""Base64 from editors, web pages and URLs."""

import base64

import pytest

from serve.audio.base64_text import decode_base64
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
        "data:audio/wav;charset=utf-8;base64," + TEXT,
    ],
    ids=["byte order mark", "no-break space", "zero-width space", "escaped URL", "URL with a charset"],
)
def test_what_lies_around_base64_is_no_part_of_it(text):
    assert decode_base64(text) == DATA


def test_other_signs_are_refused():
    for text in ("अ" + TEXT, TEXT + "%3D", "****"):
        with pytest.raises(RequestError, match="not base64"):
            decode_base64(text)
