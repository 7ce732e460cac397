"""/live: words, phrases, the end; coming back by token; browsers' containers; refusals; those who leave."""

import json
import os
import resource
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.waiting import wait_until

STATM = Path(f"/proc/{os.getpid()}/statm")


def words_of(frames):
    return [word["word"] for frame in frames if frame["type"] == "words" for word in frame["committed"]]


def test_words_are_committed_and_the_phrase_has_them_all(shared, dial, pcm):
    client = dial(shared, language="mr")
    client.hear(pcm)
    phrase = client.until("phrase")
    client.tell("close")
    frames = client.rest()
    assert frames[0]["type"] == "session" and frames[0]["token"] and frames[0]["received_bytes"] == 0
    assert frames[-1] == {"type": "closed"} and client.code == 1000
    assert words_of(frames) == [word["word"] for word in phrase["segment"]["words"]] == ["श्रोता"]
    assert phrase["segment"]["text"] == "श्रोता" and phrase["segment"]["id"] == 0
    assert 0 <= phrase["segment"]["start"] < phrase["segment"]["end"] < 5.1
    numbers = [frame["seq"] for frame in frames if "seq" in frame]
    assert numbers == sorted(set(numbers))
    assert all(frame["lag_s"] >= 0 for frame in frames if frame["type"] == "words")


def test_float_samples_at_another_rate_are_heard(shared, dial, speech):
    client = dial(shared, format="pcm_f32le", rate=48_000)
    client.hear(np.repeat(speech, 3).astype("<f4").tobytes(), piece=60_001)
    client.tell("close")
    assert words_of(client.rest()) == ["श्रोता"] and client.code == 1000


def test_finalize_commits_at_once_and_the_stream_goes_on(shared, dial, pcm):
    client = dial(shared)
    client.hear(pcm[: 3 * 32_000])
    client.tell("keepalive")
    client.tell("finalize")
    client.until("finalized")
    assert [frame["type"] for frame in client.frames[-2:]] == ["phrase", "finalized"]
    client.hear(pcm)
    client.tell("close")
    phrases = [frame["segment"] for frame in client.rest() if frame["type"] == "phrase"]
    assert [phrase["id"] for phrase in phrases] == list(range(len(phrases))) and len(phrases) >= 2
    assert all(earlier["end"] <= later["start"] for earlier, later in pairwise(phrases))


def test_a_connection_cut_in_the_middle_of_a_word_is_gone_on_with(shared, dial, pcm):
    client = dial(shared)
    token = client.next()["token"]
    client.hear(pcm[: 2 * 32_001])
    client.until("words")
    last = client.frames[-1]["seq"]
    client.cut()
    again = dial(shared, token=token, after=last)
    greeting = again.next()
    assert greeting["token"] == token and 0 < greeting["received_bytes"] <= 2 * 32_001
    again.hear(pcm[greeting["received_bytes"] :])
    again.tell("close")
    frames = again.rest()
    assert again.code == 1000 and words_of(frames) == ["श्रोता"]
    assert all(frame["seq"] > last for frame in frames if "seq" in frame)
    (phrase,) = [frame for frame in frames if frame["type"] == "phrase"]
    assert 0 < phrase["segment"]["end"] - phrase["segment"]["start"] < 5.0


def test_what_was_said_while_nobody_listened_is_told_later(shared, dial, pcm):
    client = dial(shared)
    token = client.next()["token"]
    client.hear(pcm)
    (run,) = [run for run in shared.service.live.all if run.token == token]
    wait_until(lambda: run.n_received == len(pcm))
    client.cut()
    wait_until(lambda: run.session.heard_s > 6.5)
    again = dial(shared, token=token, after=0)
    again.tell("close")
    assert words_of(again.rest()) == ["श्रोता"]


def test_a_connection_cut_while_its_sound_waits_for_room_is_gone_on_with(serve, dial, pcm):
    running = serve()
    client = dial(running)
    token = client.next()["token"]
    running.engine.pace.clear()
    client.hear(pcm * 5)  # 35 s; the last of them find no room
    (run,) = running.service.live.all
    wait_until(lambda: run.n_received > 20 * 32_000)
    client.cut()
    running.engine.pace.set()
    wait_until(lambda: run.leaving is not None, timeout_s=10)
    again = dial(running, token=token)
    again.next()
    again.tell("close")
    assert again.rest()[-1] == {"type": "closed"} and set(words_of(again.frames)) == {"श्रोता"}


def test_a_second_connection_takes_the_session_over(shared, dial):
    client = dial(shared)
    token = client.next()["token"]
    again = dial(shared, token=token)
    assert again.next()["token"] == token
    frames = client.rest()
    assert frames[-1]["code"] == "taken_over" and client.code == 1008
    again.tell("close")
    assert again.rest()[-1] == {"type": "closed"}


def test_a_client_that_says_goodbye_frees_its_place(shared, dial):
    client = dial(shared)
    token = client.next()["token"]
    client.connection.close()
    wait_until(lambda: shared.service.n_admitted == 0)
    late = dial(shared, token=token)
    assert late.rest()[-1]["code"] == "unknown_session" and late.code == 1008


def test_a_session_that_nobody_comes_back_to_is_given_up(shared, dial, monkeypatch):
    monkeypatch.setattr("serve.service.live.runs.KEPT_S", 0.2)
    client = dial(shared)
    client.next()
    client.cut()
    wait_until(lambda: shared.service.n_admitted == 0)


@pytest.mark.parametrize("container", ["webm", "ogg"])
def test_what_a_browser_records_is_heard_in_any_pieces(shared, dial, recorded, container):
    client = dial(shared, format="container")
    client.hear(recorded(container), piece=997)
    client.tell("close")
    assert words_of(client.rest()) == ["श्रोता"] and client.code == 1000


def test_a_recorder_that_is_started_again_sends_a_second_header(shared, dial, recorded):
    client, recording = dial(shared, format="container"), recorded("webm")
    for _ in range(2):  # so close that frames are joined
        client.connection.send(recording)
    client.tell("close")
    phrases = [frame["segment"] for frame in client.rest() if frame["type"] == "phrase"]
    assert len(phrases) == 2 and phrases[1]["start"] > 6.0


@pytest.mark.parametrize(
    ("query", "frame", "code", "closed"),
    [
        ({"format": "mp3"}, None, "unsupported_option", 1008),
        ({"rate": "1"}, None, "unsupported_option", 1008),
        ({"language": "xx"}, None, "unsupported_option", 1008),
        ({"adapter": "other"}, None, "unsupported_option", 1008),
        ({"after": "x"}, None, "unsupported_option", 1008),
        ({"nonsense": "1"}, None, "unsupported_option", 1008),
        ({"token": "wrong"}, None, "unknown_session", 1008),
        ({}, '{"type": "dance"}', "bad_request", 1008),
        ({}, "no json", "bad_request", 1008),
        ({"format": "container"}, b"no header of any container", "undecodable_audio", 1008),
        ({"format": "container"}, b"\x1a\x45\xdf\xa3" + bytes(range(256)) * 80, "undecodable_audio", 1008),
    ],
)
def test_what_is_wrong_is_named_and_frees_the_place(shared, dial, query, frame, code, closed):
    client = dial(shared, **query)
    if frame is not None:
        client.connection.send(frame)
        if isinstance(frame, bytes):
            client.tell("close")
    frames = client.rest()
    assert (frames[-1]["type"], frames[-1]["code"], client.code) == ("error", code, closed)
    assert frames[-1]["message"]
    wait_until(lambda: shared.service.n_admitted == 0)


def test_lags_are_among_the_figures(shared, dial, pcm):
    client = dial(shared)
    client.hear(pcm)
    client.tell("close")
    client.rest()
    page = shared.client.get("/metrics").text
    assert 'shrota_live_lag_seconds_count{text="committed"}' in page


@pytest.mark.slow
def test_two_hundred_connections_that_are_left_harm_nobody(serve, dial, pcm):
    running = serve(max_requests=8)
    patient = dial(running)
    patient.hear(pcm[:32_000])
    outcomes = []
    for number in range(200):
        with connect("ws://{}:{}/live".format(*running.address)) as connection:
            first = json.loads(connection.recv(timeout=60))
            outcomes.append(first.get("code", "session"))
            if number % 2 and first["type"] == "session":
                connection.socket.close()  # the other half says goodbye
            elif first["type"] == "error":
                with pytest.raises(ConnectionClosed) as closed:
                    connection.recv(timeout=60)
                assert closed.value.rcvd.code == 1013
    assert set(outcomes) <= {"session", "overloaded"} and outcomes.count("session") > 2
    patient.hear(pcm[32_000:])
    patient.tell("close")
    assert words_of(patient.rest()) == ["श्रोता"] and patient.code == 1000
    for run in running.service.live.all:
        run.session.abandon()
    wait_until(lambda: running.service.n_admitted == 0)


@pytest.mark.slow
def test_three_hours_of_silence_leave_the_memory_as_it_was(serve, dial):
    client = dial(serve(live_max_s=4 * 3600))
    minute = bytes(2 * 16_000 * 60)

    def resident_bytes() -> int:
        return int(STATM.read_text().split()[1]) * resource.getpagesize()

    client.hear(minute, piece=64_000)
    before = resident_bytes()
    for _ in range(180):
        client.hear(minute, piece=64_000)
    client.tell("close")
    frames = client.rest()
    assert client.code == 1000 and [frame["type"] for frame in frames] == ["session", "closed"]
    assert resident_bytes() - before < 30 << 20
