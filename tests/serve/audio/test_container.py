"""Which container the first bytes tell."""

import pytest

from serve.audio.container import AAC, AVI, MP3, MP4, OGG, W64, WAV, id3v2_end, sniff_container

ID3 = b"ID3\x04\x00\x00\x00\x00\x01\x02" + bytes(130)  # 1 * 128 + 2 bytes follow the header


@pytest.mark.parametrize(
    ("start", "container"),
    [
        (b"RIFF\xff\xff\xff\xffWAVEfmt ", WAV),
        (b"RF64\xff\xff\xff\xffWAVEds64", WAV),
        (b"RIFF\x00\x00\x00\x00AVI LIST", AVI),
        (bytes.fromhex("726966662e91cf11a5d628db04c10000"), W64),
        (b"OggS\x00\x02", OGG),
        (b"\xff\xfb\x90\x64", MP3),
        (b"\xff\xf3\x84\xc4", MP3),
        (b"\xff\xf1\x50\x80", AAC),
        (b"\x00\x00\x00\x20ftypisom", MP4),
        (b"\x00\x00\x00\x08wide\x00\x01\x02\x03mdat", MP4),
        (ID3 + b"\xff\xfb\x90\x64", MP3),
        (ID3 + b"\xff\xf1\x50\x80", AAC),
        (ID3 + b"\x00\x00\xff\xfb", MP3),  # padding after the tag
    ],
)
def test_a_container_is_told_by_its_signature(start: bytes, container: object) -> None:
    assert sniff_container(start + bytes(64)) is container


@pytest.mark.parametrize(
    "start",
    [
        b"#EXTM3U\n",
        b"ffconcat version 1.0",
        b"RIFF\x00\x00\x00\x00WEBPVP8 ",
        b"<smil>",
        b"\x89PNG\r\n",
        b"PK",
    ],
)
def test_what_is_not_in_the_table_is_not_guessed(start: bytes) -> None:
    assert sniff_container(start + bytes(64)) is None


def test_a_tag_that_claims_more_than_was_sent_ends_with_the_body() -> None:
    assert id3v2_end(ID3[:40]) == 40
    assert id3v2_end(ID3 + ID3 + b"x") == 2 * len(ID3)
    assert id3v2_end(b"RIFF") == 0
