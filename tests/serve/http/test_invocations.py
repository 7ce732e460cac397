"""POST /invocations: what goes in, what comes out, and what is refused."""

import base64
import io
import json
import socket

import httpx
import numpy as np
import pytest
import soundfile

from serve.engine import SERVED_ADAPTER

INVOCATIONS = "/invocations"


@pytest.fixture
def client(shared):
    return shared.client


def code_of(response: httpx.Response) -> str:
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"} and set(body["error"]) == {"code", "message"}
    assert "Traceback" not in response.text
    return body["error"]["code"]


@pytest.mark.parametrize(
    "content_type",
    [
        "audio/wav",
        "audio/x-wav; codecs=1",
        "video/mp4",
        "application/octet-stream",
        "application/ogg",
        "binary/octet-stream",
        "Binary/Octet-Stream; charset=binary",
        "application/x-binary",
        "application/mp4",
        None,
        "",
    ],
)
def test_raw_audio_gives_a_transcript(client, speech_wav, content_type):
    headers = {} if content_type is None else {"content-type": content_type}
    response = client.post(INVOCATIONS, content=speech_wav, headers=headers)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert (body["text"], body["language"], body["duration_s"]) == ("श्रोता", "mr", 5.0)
    (segment,) = body["segments"]
    assert 0 <= segment["start"] < segment["end"] <= 5.0


def test_a_form_gives_a_transcript_with_its_options(client, shared, speech_wav):
    files = {"file": ("../../etc/passwd", speech_wav, "audio/wav")}
    response = client.post(INVOCATIONS, files=files, data={"language": "hindi", "temperature": "0.5"})
    assert response.json()["language"] == "hi"
    assert (shared.engine.options[-1].language, shared.engine.options[-1].temperature) == ("hi", 0.5)


def test_a_json_body_gives_a_transcript_with_its_options(client, shared, speech_wav):
    body = {
        "audio": base64.b64encode(speech_wav).decode(),
        "language": "en",
        "task": "translate",
        "prompt": "ऐका",
    }
    response = client.post(INVOCATIONS, json=body)
    assert response.json()["language"] == "en"
    assert (shared.engine.options[-1].task, shared.engine.options[-1].prompt) == ("translate", "ऐका")


def test_options_in_the_body_win_over_custom_attributes_and_those_over_the_query(client, shared, speech_wav):
    def post(data):
        return client.post(
            f"{INVOCATIONS}?language=en&seed=1&temperature=0.1",
            files={"file": speech_wav},
            data=data,
            headers={"X-Amzn-SageMaker-Custom-Attributes": "trace-7; language=hi; seed=2"},
        ).json()["language"]

    assert post({"language": "mr", "seed": "3"}) == "mr"
    assert (shared.engine.options[-1].seed, shared.engine.options[-1].temperature) == (3, 0.1)
    assert post({}) == "hi"
    assert shared.engine.options[-1].seed == 2


def test_the_base_model_alone_is_asked_for_by_name(client, shared, speech_wav):
    for adapter, used in (("none", None), ("tiny-mr", SERVED_ADAPTER)):
        assert client.post(f"{INVOCATIONS}?adapter={adapter}", content=speech_wav).status_code == 200
        assert shared.engine.options[-1].adapter is used


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("*", "application/json"),
        ("text/html, image/gif, *; q=.2, */*; q=.2", "application/json"),
        ("text/plain, *; q=0.5", "text/plain; charset=utf-8"),
        ("text/html, application/json;q=0.5", "application/json"),
        ("application/x-ndjson", "application/x-ndjson"),
        ("application/jsonlines", "application/jsonlines"),
        ("text/event-stream", "text/event-stream; charset=utf-8"),
        ("text/plain", "text/plain; charset=utf-8"),
        ("text/vtt", "text/vtt; charset=utf-8"),
        ("application/x-subrip", "application/x-subrip; charset=utf-8"),
    ],
)
def test_the_answer_has_the_format_that_was_asked_for(client, speech_wav, accept, content_type):
    request = client.build_request("POST", INVOCATIONS, content=speech_wav)
    del request.headers["accept"]
    if accept:
        request.headers["accept"] = accept
    response = client.send(request)
    assert (response.status_code, response.headers["content-type"]) == (200, content_type)
    assert "श्रोता" in response.text


CONTENT_TYPES = {
    "json": "application/json",
    "verbose_json": "application/json",
    "text": "text/plain; charset=utf-8",
    "srt": "application/x-subrip; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
    "tsv": "text/tab-separated-values; charset=utf-8",
    "ndjson": "application/x-ndjson",
    "jsonlines": "application/jsonlines",
    "sse": "text/event-stream; charset=utf-8",
}


@pytest.mark.parametrize("name", CONTENT_TYPES)
def test_a_format_that_is_named_wins_over_accept(client, speech_wav, name):
    wanted = {"headers": {"accept": "image/png"}}
    encoded = base64.b64encode(speech_wav).decode()
    answers = [
        client.post(f"{INVOCATIONS}?format={name}", content=speech_wav, **wanted),
        client.post(INVOCATIONS, files={"file": speech_wav}, data={"response_format": name}, **wanted),
        client.post(INVOCATIONS, json={"audio": encoded, "format": name}, **wanted),
    ]
    for answer in answers:
        assert (answer.status_code, answer.headers["content-type"]) == (200, CONTENT_TYPES[name])
        assert "श्रोता" in answer.text
    assert ("avg_logprob" in answers[0].text) == ("json" in name or name == "sse")


def test_a_format_in_the_body_wins_over_custom_attributes_and_those_over_the_query(client, speech_wav):
    def content_type(data):
        headers = {"X-Amzn-SageMaker-Custom-Attributes": "format=srt"}
        url = f"{INVOCATIONS}?format=vtt"
        answer = client.post(url, files={"file": speech_wav}, data=data, headers=headers)
        return answer.headers["content-type"]

    assert content_type({"format": "tsv"}) == CONTENT_TYPES["tsv"]
    assert content_type({}) == CONTENT_TYPES["srt"]


def test_a_body_that_names_no_format_is_answered_as_accept_says(client, speech_wav):
    accept = {"accept": "text/vtt"}
    assert client.post(INVOCATIONS, files={"file": speech_wav}, headers=accept).text.startswith("WEBVTT")
    refused = client.post(INVOCATIONS, files={"file": speech_wav}, headers={"accept": "image/png"})
    assert (refused.status_code, code_of(refused)) == (406, "not_acceptable")


def test_a_stream_is_a_start_then_segments_then_an_end(client, speech_wav):
    response = client.post(INVOCATIONS, content=speech_wav, headers={"accept": "application/x-ndjson"})
    start, segment, end = map(json.loads, response.text.splitlines())
    assert (start["type"], start["duration_s"], start["language"]) == ("start", 5.0, "mr")
    assert (segment["type"], segment["text"]) == ("segment", "श्रोता")
    assert (end["type"], end["text"], end["n_segments"]) == ("end", "श्रोता", 1)
    assert response.headers["transfer-encoding"] == "chunked"


def test_silence_is_no_error(client):
    import wave

    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((1, 2, 8_000, 0, "NONE", ""))
        file.writeframes(bytes(16_000))
    response = client.post(INVOCATIONS, content=out.getvalue())
    assert (response.status_code, response.json()["text"], response.json()["segments"]) == (200, "", [])


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("beams=5", "beams"),
        ("beam_size=5", "beam_size"),
        ("word_timestamps=perhaps", "word_timestamps"),
        ("channels=both", "channels"),
        ('suppress=["a"', "suppress"),
        ("language=klingon", "language"),
        ("language=de", "language"),
        ("task=sing", "task"),
        ("temperature=9", "temperature"),
        ("adapter=other", "adapter"),
        ("format=docx", "format"),
        ("response_format=diarized_json", "response_format"),
    ],
)
def test_an_option_that_cannot_be_met_is_400_and_named(client, speech_wav, query, name):
    response = client.post(f"{INVOCATIONS}?{query}", content=speech_wav)
    assert (response.status_code, code_of(response)) == (400, "unsupported_option")
    assert f"'{name}'" in response.json()["error"]["message"]


@pytest.mark.parametrize("attributes", ["accept_eula=true", "trace=abc", "trace-7;k=v; =x;;a=b=c", "model=m"])
def test_custom_attributes_that_are_no_options_are_the_callers_own(client, shared, speech_wav, attributes):
    headers = {"X-Amzn-SageMaker-Custom-Attributes": f"{attributes};language=hi"}
    response = client.post(INVOCATIONS, content=speech_wav, headers=headers)
    assert (response.status_code, response.json()["text"]) == (200, "श्रोता")
    assert shared.engine.options[-1].language == "hi"
    assert response.headers["x-amzn-sagemaker-custom-attributes"] == f"{attributes};language=hi"


@pytest.mark.parametrize("attribute", ["language=klingon", "temperature=9", "format=docx", "beam_size=many"])
def test_a_custom_attribute_that_is_an_option_with_a_bad_value_is_400_and_named(
    client, speech_wav, attribute
):
    headers = {"X-Amzn-SageMaker-Custom-Attributes": f"trace=abc;{attribute}"}
    response = client.post(INVOCATIONS, content=speech_wav, headers=headers)
    assert (response.status_code, code_of(response)) == (400, "unsupported_option")
    assert f"'{attribute.partition('=')[0]}'" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "name", ["language", "task", "adapter", "temperature", "seed", "beam_size", "format"]
)
def test_a_field_that_nobody_filled_in_is_an_absent_one(client, shared, speech_wav, name):
    encoded = base64.b64encode(speech_wav).decode()
    attributes = {"X-Amzn-SageMaker-Custom-Attributes": f"{name}="}
    for answer in (
        client.post(INVOCATIONS, files={"file": speech_wav}, data={name: ""}),
        client.post(f"{INVOCATIONS}?{name}=", content=speech_wav),
        client.post(INVOCATIONS, json={"audio": encoded, name: ""}),
        client.post(INVOCATIONS, content=speech_wav, headers=attributes),
    ):
        assert (answer.status_code, answer.json()["text"]) == (200, "श्रोता")
        options = shared.engine.options[-1]
        assert (options.language, options.task, options.seed) == ("mr", "transcribe", 0)
        assert (options.temperature, options.adapter) == (0.0, SERVED_ADAPTER)


@pytest.mark.parametrize("field", ["audio", "upload", "voice", "data[recording]", "language"])
def test_a_recording_in_another_field_is_read_where_it_is_the_only_file(client, shared, speech_wav, field):
    for file in (("a.wav", speech_wav, "audio/wav"), ("blob", speech_wav), (None, speech_wav, "audio/wav")):
        answer = client.post(INVOCATIONS, files={field: file}, data={"seed": "7"})
        assert (answer.status_code, answer.json()["text"]) == (200, "श्रोता")
        assert shared.engine.options[-1].seed == 7


def test_a_file_field_that_was_left_empty_is_passed_over(client, speech_wav):
    empty = b'Content-Disposition: form-data; name="file"; filename=""\r\n\r\n'
    full = b'Content-Disposition: form-data; name="audio"; filename="a.wav"\r\n\r\n' + speech_wav
    answer = client.post(INVOCATIONS, content=multipart(empty, full), headers={"content-type": FORM})
    assert (answer.status_code, answer.json()["text"]) == (200, "श्रोता")


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"a": b"abc", "b": b"abc"}, "the form has 2 files, in the fields 'a', 'b'; send one recording, as"),
        ({"x": (None, "mr")}, "the form has no file; send the recording as the field 'file'"),
        ({"file": b"abc", "b": b"abc"}, "option 'b': is a file beside the recording in the field 'file'"),
        ({"file": b"abc", "b": (None, "x" * 20_000)}, "option 'b': is a file beside the recording"),
    ],
)
def test_a_form_that_leaves_open_what_the_recording_is_says_so(client, files, sentence):
    answer = client.post(INVOCATIONS, files=files)
    assert answer.status_code == 400
    assert sentence in answer.json()["error"]["message"]


def wrapped(encoded: str) -> str:
    return "\r\n".join(encoded[start : start + 76] for start in range(0, len(encoded), 76))


@pytest.mark.parametrize(
    "write",
    [
        wrapped,
        lambda encoded: encoded.rstrip("="),
        lambda encoded: wrapped(encoded.replace("+", "-").replace("/", "_")).rstrip("="),
        lambda encoded: f"data:audio/wav;base64,{encoded}",
        lambda encoded: f"data:audio/webm;codecs=opus;base64,{wrapped(encoded)}\n",
        lambda encoded: f" Data:;BASE64,{encoded} ",
    ],
)
@pytest.mark.parametrize("n_more", [0, 1, 2])
def test_base64_is_read_however_it_is_written(client, speech_wav, write, n_more):
    encoded = base64.b64encode(speech_wav + bytes([0xFB, 0xEF][:n_more])).decode()
    answer = client.post(INVOCATIONS, json={"audio": write(encoded)})
    assert (answer.status_code, answer.json()["text"]) == (200, "श्रोता")


@pytest.mark.parametrize(
    "text", ["AAAAA", "AA*A", "AAA\u0905", "data:audio/wav,AAAA", "AA=AAA", "http://x/a.wav"]
)
def test_what_is_no_base64_is_400(client, text):
    answer = client.post(INVOCATIONS, json={"audio": text})
    assert (answer.status_code, code_of(answer)) == (400, "bad_request")
    assert "is not base64" in answer.text


def test_json_may_begin_with_a_byte_order_mark(client, speech_wav):
    body = json.dumps({"audio": base64.b64encode(speech_wav).decode(), "language": "hi"})
    headers = {"content-type": "application/json; charset=utf-8"}
    answer = client.post(INVOCATIONS, content=b"\xef\xbb\xbf" + body.encode(), headers=headers)
    assert (answer.status_code, answer.json()["language"]) == (200, "hi")


def multipart(*parts: bytes) -> bytes:
    return b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + b"--x--\r\n"


FILE = b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nabc'
FORM = "multipart/form-data; boundary=x"


@pytest.mark.parametrize(
    ("content_type", "body", "status", "code"),
    [
        ("text/html", b"<p>", 415, "unsupported_media_type"),
        ("application/x-www-form-urlencoded", b"a=b", 415, "unsupported_media_type"),
        ("image/png", b"\x89PNG", 415, "unsupported_media_type"),
        ("audio/wav", b"", 422, "empty_audio"),
        ("audio/wav", b"RIFFnonsense", 415, "undecodable_audio"),
        ("audio/wav", b"no audio at all" * 100, 415, "undecodable_audio"),
        ("application/json", b"", 400, "bad_request"),
        ("application/json", b"[1]", 400, "bad_request"),
        ("application/json", b'{"audio": "AAAA"', 400, "bad_request"),
        ("application/json", b'{"language": "mr"}', 400, "bad_request"),
        ("application/json", b'{"audio": 7}', 400, "bad_request"),
        ("application/json", b'{"audio": "no base64!"}', 400, "bad_request"),
        ("application/json", b'{"audio": ""}', 422, "empty_audio"),
        ("application/json", b'{"audio": "AAAA", "temperature": "0.5"}', 400, "unsupported_option"),
        ("application/json", b'{"audio": "AAAA", "speed": 2}', 400, "unsupported_option"),
        ("application/json", b'{"audio": "AAAA", "format": 7}', 400, "unsupported_option"),
        ("multipart/form-data", multipart(FILE), 400, "bad_request"),
        (FORM, b"", 400, "bad_request"),
        (FORM, multipart(FILE)[:-8], 400, "bad_request"),
        (FORM, multipart(FILE, FILE), 400, "bad_request"),
        (FORM, multipart(FILE.replace(b'"file"', b'"clip"')), 415, "undecodable_audio"),
        (FORM, multipart(*[FILE.replace(b'"file"', b'"f%d"' % n) for n in range(100)]), 400, "bad_request"),
        (FORM, multipart(FILE, FILE.replace(b'"file"', b'"speed"')), 400, "unsupported_option"),
        (FORM, multipart(FILE), 415, "undecodable_audio"),
    ],
)
def test_a_body_that_cannot_be_used_says_why(client, content_type, body, status, code):
    response = client.post(INVOCATIONS, content=body, headers={"content-type": content_type})
    assert (response.status_code, code_of(response)) == (status, code)


def test_an_accept_that_nothing_matches_is_406(client, speech_wav):
    response = client.post(INVOCATIONS, content=speech_wav, headers={"accept": "image/png"})
    assert (response.status_code, code_of(response)) == (406, "not_acceptable")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("POST", "/ping", 405, "method_not_allowed"),
        ("GET", "/invocations", 405, "method_not_allowed"),
    ],
)
def test_the_frameworks_own_errors_have_the_same_body(client, method, path, status, code):
    response = client.request(method, path)
    assert (response.status_code, code_of(response)) == (status, code)


def test_a_body_over_the_limit_is_413_whether_its_length_is_announced_or_not(serve, speech_wav):
    running = serve(max_body_bytes=10_000)

    def in_pieces():
        for start in range(0, len(speech_wav), 4_000):
            yield speech_wav[start : start + 4_000]

    for content in (speech_wav, in_pieces()):
        response = running.client.post(INVOCATIONS, content=content)
        assert (response.status_code, code_of(response)) == (413, "payload_too_large")
    assert running.service.n_admitted == 0


def test_a_body_that_stops_coming_is_408_and_frees_its_place(serve):
    running = serve(body_idle_timeout_s=0.2)
    with socket.create_connection(running.address, timeout=30) as connection:
        connection.sendall(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nRIFF")
        assert connection.recv(4_096).startswith(b"HTTP/1.1 408 ")
    assert running.service.n_admitted == 0


def test_a_recording_over_the_limit_is_413_with_both_lengths(serve, speech_wav):
    response = serve(max_audio_s=2).client.post(INVOCATIONS, content=speech_wav)
    assert (response.status_code, code_of(response)) == (413, "audio_too_long")
    assert "the limit is 2 s" in response.text


def test_every_answer_has_a_number_that_the_client_may_choose(client):
    assert client.get("/ping", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    made = {client.get("/nowhere", headers={"X-Request-Id": "a b"}).headers["x-request-id"] for _ in range(2)}
    assert len(made) == 2


def test_custom_attributes_come_back_as_visible_ascii_of_bounded_length(client, speech_wav):
    headers = {"X-Amzn-SageMaker-Custom-Attributes": b"tr\xc3\xa4ce\t7" + b"x" * 2_000}
    response = client.post(INVOCATIONS, content=speech_wav, headers=headers)
    assert response.status_code == 200
    assert response.headers["x-amzn-sagemaker-custom-attributes"] == ("trce7" + "x" * 2_000)[:1_024]


def test_the_front_page_names_the_endpoints(client):
    assert "/invocations" in client.get("/").text


def test_streams_of_several_clients_at_once_are_all_whole(client, speech_wav):
    from concurrent.futures import ThreadPoolExecutor

    def post(_):
        response = client.post(INVOCATIONS, content=speech_wav, headers={"accept": "text/event-stream"})
        return response.status_code, response.text.count("event: ")

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(post, range(8))) == {(200, 3)}


def test_the_channels_of_a_call_are_told_apart(client, speech):
    out = io.BytesIO()
    quiet = np.zeros_like(speech)
    lines = np.stack([np.concatenate([speech, quiet]), np.concatenate([quiet, speech])], axis=1)
    soundfile.write(out, lines[::2], 8_000, format="WAV", subtype="ULAW")
    segments = client.post(f"{INVOCATIONS}?channels=split", content=out.getvalue()).json()["segments"]
    assert [round(segment["start"]) // 5 for segment in segments] == [0, 1]


def test_a_call_of_six_channels_cannot_be_split(client):
    out = io.BytesIO()
    soundfile.write(out, np.zeros((8_000, 6)), 8_000, format="WAV")
    response = client.post(f"{INVOCATIONS}?channels=split", content=out.getvalue())
    assert (response.status_code, code_of(response)) == (400, "unsupported_option")
    assert "'channels'" in response.text


@pytest.fixture(scope="module")
def cut_off_late(speech) -> bytes:
    """A recording of two minutes of which only the sound tells that it is cut off."""
    out = io.BytesIO()
    soundfile.write(out, np.tile(speech, 24), 16_000, format="FLAC")
    return out.getvalue()[: len(out.getvalue()) * 3 // 4]


def test_damage_that_shows_late_is_the_last_event_of_a_stream_and_the_status_of_a_document(
    client, cut_off_late
):
    response = client.post(INVOCATIONS, content=cut_off_late, headers={"accept": "application/x-ndjson"})
    start, *segments, error = map(json.loads, response.text.splitlines())
    assert (response.status_code, start["type"], start["duration_s"]) == (200, "start", 120.0)
    assert len(segments) > 5
    assert (error["type"], error["error"]["code"]) == ("error", "undecodable_audio")
    response = client.post(INVOCATIONS, content=cut_off_late)
    assert (response.status_code, code_of(response)) == (415, "undecodable_audio")
