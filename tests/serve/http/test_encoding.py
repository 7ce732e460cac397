"""Bodies that arrive encoded: read within the limits, and refused by name where they cannot be."""

import asyncio
import base64
import gzip
import io
import json
import os
import zlib

import pytest

from serve.errors import Overloaded, PayloadTooLarge
from serve.http.door.body import ArrivingBytes, BodyLimits, read_body

INVOCATIONS = "/invocations"
LIMITS = BodyLimits(max_body_bytes=4 << 20, timeout_s=30, idle_timeout_s=30)


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def in_members(data: bytes) -> bytes:
    half = len(data) // 2
    return gzip.compress(data[:half]) + gzip.compress(b"") + gzip.compress(data[half:]) + bytes(512)


ENCODINGS = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("X-GZIP", gzip.compress),
    "gzip in members": ("gzip", in_members),
    "deflate with zlib's header": ("deflate", zlib.compress),
    "deflate without": ("deflate", raw_deflate),
    "identity": ("identity", bytes),
    "none": ("", bytes),
}


def read(pieces, encoding):
    """Read a body that arrives in pieces."""
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive():
        return messages.pop(0)

    return asyncio.run(
        read_body(receive, {"content-encoding": encoding}, LIMITS, ArrivingBytes(1 << 30))
    ), messages


@pytest.mark.parametrize(("encoding", "encode"), ENCODINGS.values(), ids=ENCODINGS)
def test_an_encoded_recording_is_transcribed(shared, speech_wav, encoding, encode):
    headers = {"content-encoding": encoding, "content-type": "audio/wav"}
    answer = shared.client.post(INVOCATIONS, content=encode(speech_wav), headers=headers)
    assert (answer.status_code, answer.json()["text"]) == (200, "श्रोता")


def test_an_encoded_json_body_and_a_form_are_read(shared, speech_wav):
    body = json.dumps({"audio": base64.b64encode(speech_wav).decode(), "language": "hi"}).encode()
    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    answer = shared.client.post(INVOCATIONS, content=gzip.compress(body), headers=headers)
    assert (answer.status_code, answer.json()["language"]) == (200, "hi")
    form = shared.client.build_request(
        "POST", INVOCATIONS, files={"file": speech_wav}, data={"language": "en"}
    )
    headers = {"content-encoding": "deflate", "content-type": form.headers["content-type"]}
    answer = shared.client.post(INVOCATIONS, content=zlib.compress(form.read()), headers=headers)
    assert (answer.status_code, answer.json()["language"]) == (200, "en")


@pytest.mark.parametrize(("encoding", "encode"), ENCODINGS.values(), ids=ENCODINGS)
@pytest.mark.parametrize("step", [1, 2, 7, 100_000])
def test_a_body_is_the_same_however_it_is_cut_up(encoding, encode, step):
    data = os.urandom(500) + bytes(5_000)
    encoded = encode(data)
    assert read([encoded[at : at + step] for at in range(0, len(encoded), step)], encoding)[0] == data


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_an_empty_body_is_empty(encoding):
    assert read([], encoding)[0] == b""


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "aws-chunked", "gzip, gzip", "gzip, br"])
def test_any_other_encoding_is_415_and_named(shared, speech_wav, encoding):
    answer = shared.client.post(INVOCATIONS, content=speech_wav, headers={"content-encoding": encoding})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (415, "unsupported_media_type")
    assert f"'{encoding}'" in error["message"] and "gzip, deflate" in error["message"]


@pytest.mark.parametrize(
    ("encoding", "body", "sentence"),
    [
        ("gzip", b"RIFF" * 100, "is not encoded as gzip"),
        ("gzip", gzip.compress(os.urandom(5_000))[:-20], "ends in the middle of its gzip"),
        # Without a time, so that both processes of the tests give this case one name.
        ("gzip", gzip.compress(b"abc", mtime=0)[:-8] + bytes(8), "is not encoded as gzip"),
        ("gzip", b"\x1f", "ends in the middle of its gzip"),
        ("deflate", zlib.compress(os.urandom(5_000))[:-20], "ends in the middle of its deflate"),
        ("deflate", b"\xff" * 100, "is not encoded as deflate"),
    ],
)
def test_a_body_that_is_not_what_its_header_says_is_400(shared, encoding, body, sentence):
    answer = shared.client.post(INVOCATIONS, content=body, headers={"content-encoding": encoding})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request")
    assert sentence in answer.json()["error"]["message"]


def test_little_that_decodes_to_much_is_refused_at_the_limit(serve):
    running = serve(max_body_bytes=1 << 20)
    bomb = gzip.compress(bytes(64 << 20))
    assert len(bomb) < 1 << 17
    answer = running.client.post(INVOCATIONS, content=bomb, headers={"content-encoding": "gzip"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "payload_too_large")
    assert running.service.n_admitted == 0


def test_what_is_over_the_limit_is_refused_before_the_rest_arrives():
    packer = zlib.compressobj()
    pieces = [packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_SYNC_FLUSH) for _ in range(10)]
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]

    async def receive():
        return messages.pop(0)

    with pytest.raises(PayloadTooLarge):
        asyncio.run(read_body(receive, {"content-encoding": "deflate"}, LIMITS, ArrivingBytes(1 << 30)))
    assert len(messages) == 5


def test_what_unfolds_is_counted_against_the_allowance_as_it_unfolds(monkeypatch):
    held, written, body = ArrivingBytes(2 << 20), [], gzip.compress(bytes(4 << 20))

    class Body(io.BytesIO):
        def write(self, piece):
            written.append(len(piece))
            assert sum(written) <= held.n_bytes
            return super().write(piece)

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    monkeypatch.setattr("serve.http.door.body.io.BytesIO", Body)
    with pytest.raises(Overloaded):
        asyncio.run(read_body(receive, {"content-encoding": "gzip"}, LIMITS, held))
    assert sum(written) < 3 << 20
    assert held.n_bytes == 0, "what was taken is given back"


def test_others_are_heard_while_a_body_unfolds(shared):
    async def both() -> int:
        n_turns, unfolding = 0, asyncio.ensure_future(unfold())
        while not unfolding.done():
            await asyncio.sleep(0)
            n_turns += 1
        assert len(unfolding.result()) == 4 << 20
        return n_turns

    async def unfold() -> bytes:
        body = gzip.compress(bytes(4 << 20))

        async def receive():
            return {"type": "http.request", "body": body, "more_body": False}

        return await read_body(receive, {"content-encoding": "gzip"}, LIMITS, ArrivingBytes(1 << 30))

    assert asyncio.run(both()) >= 4


def test_pages_of_other_origins_may_read_answers_only_where_the_setting_says_so(serve, shared, speech_wav):
    asked = {"origin": "https://example.org", "access-control-request-method": "POST"}
    running = serve(cors_origins="https://example.org, http://localhost:3000")
    answer = running.client.options(INVOCATIONS, headers=asked)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == "https://example.org"
    assert "POST" in answer.headers["access-control-allow-methods"]
    for content, status in ((speech_wav, 200), (b"", 422)):
        answer = running.client.post(INVOCATIONS, content=content, headers={"origin": "https://example.org"})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (
            status,
            "https://example.org",
        )
        assert "x-request-id" in answer.headers["access-control-expose-headers"].lower()
    stranger = {**asked, "origin": "https://example.org.evil.example"}
    answers = [
        running.client.options(INVOCATIONS, headers=stranger),
        running.client.post(INVOCATIONS, content=speech_wav, headers=stranger),
        shared.client.options(INVOCATIONS, headers=asked),
        shared.client.post(INVOCATIONS, content=speech_wav, headers=asked),
    ]
    assert all("access-control-allow-origin" not in each.headers for each in answers)


def test_every_origin_may_be_named_at_once(serve, speech_wav):
    running = serve(cors_origins="*")
    answer = running.client.post(INVOCATIONS, content=speech_wav, headers={"origin": "null"})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")
