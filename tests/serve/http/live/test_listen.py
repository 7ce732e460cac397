"""Deepgram's protocol, by the official package."""

import json

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.waiting import wait_until


@pytest.fixture
def deepgram(shared):
    from deepgram import DeepgramClient
    from deepgram.environment import DeepgramClientEnvironment

    web, live = (f"{scheme}://{shared.address[0]}:{shared.address[1]}" for scheme in ("http", "ws"))
    environment = DeepgramClientEnvironment(base=web, production=live, agent=live, agent_rest=web)
    return DeepgramClient(api_key="unused", environment=environment)


SOUND = {"model": "nova-3", "encoding": "linear16", "sample_rate": 16_000}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_official_client_gets_final_words_and_the_end_of_speech(deepgram, pcm):
    with deepgram.listen.v1.connect(
        **SOUND,
        language="mr",
        interim_results="true",
        punctuate="true",
        vad_events="true",
        utterance_end_ms=1_000,
    ) as connection:
        for first in range(0, len(pcm), 8_000):
            connection.send_media(pcm[first : first + 8_000])
        connection.send_keep_alive()
        connection.send_close_stream()
        messages = list(connection)
    kinds = [message.type for message in messages]
    assert kinds[-1] == "Metadata" and messages[-1].duration > 6 and messages[-1].channels == 1
    assert "SpeechStarted" in kinds and "UtteranceEnd" in kinds
    results = [message for message in messages if message.type == "Results"]
    said = [result.channel.alternatives[0].transcript for result in results if result.is_final]
    assert " ".join(filter(None, said)) == "श्रोता"
    assert [result.speech_final for result in results].count(True) == 1 and results[-1].speech_final
    (word,) = [word for result in results if result.is_final for word in result.channel.alternatives[0].words]
    assert word.word == "श्रोता" and 0 <= word.start < word.end < 5.1 and 0 < word.confidence <= 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_finalize_is_answered_and_without_interim_results_all_are_final(deepgram, pcm):
    with deepgram.listen.v1.connect(**SOUND, endpointing="false") as connection:
        connection.send_media(pcm[:100_000])
        connection.send_finalize()
        results = []
        for message in connection:
            results.append(message)
            if message.from_finalize:
                break
        connection.send_close_stream()
        assert list(connection)[-1].type == "Metadata"
    assert all(result.is_final for result in results)
    assert "श्रोता" in [result.channel.alternatives[0].transcript for result in results]


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("encoding=amr-nb", "encoding"),
        ("encoding=linear16&multichannel=true", "multichannel"),
        ("encoding=linear16&diarize=true", "diarize"),
        ("encoding=linear16&endpointing=soon", "endpointing"),
        ("encoding=linear16&endpointing=5001", "endpointing"),
        ("encoding=linear16&endpointing=" + "9" * 401, "endpointing"),
        ("encoding=linear16&endpointing=" + "9" * 5_000, "endpointing"),
        ("encoding=linear16&sample_rate=" + "9" * 5_000, "sample_rate"),
        ("encoding=linear16&interim_results=maybe", "interim_results"),
        ("encoding=linear16&redact=pci", "redact"),
        ("encoding=linear16&language=tlh", "language"),
    ],
)
def test_what_is_not_served_is_refused_by_name(shared, query, name):
    with connect("ws://{}:{}/v1/listen?{}".format(*shared.address, query)) as connection:
        error = json.loads(connection.recv(timeout=60))
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(timeout=60)
    assert error["type"] == "Error" and f"'{name}'" in error["description"]
    assert closed.value.rcvd.code == 1008


@pytest.mark.parametrize(
    ("query", "hotwords"),
    [
        ("keyterm=snuffle&keyterm=tapir", "snuffle, tapir"),
        ("keyterm=John+3:16", "John 3:16"),
        ("keywords=snuffle:5&keywords=tapir:-1.5&keywords=okapi", "snuffle, tapir, okapi"),
        ("keyterm=snuffle&keywords=tapir:2", "snuffle, tapir"),
        ("hotwords=okapi", "okapi"),
        ("&".join(f"keyterm=term{n}" for n in range(100)), ", ".join(f"term{n}" for n in range(100))),
    ],
    ids=("terms", "colon", "boosts", "both", "own", "hundred"),
)
def test_all_the_words_that_are_likely_are_given_to_the_model(shared, query, hotwords):
    with connect("ws://{}:{}/v1/listen?{}&encoding=linear16".format(*shared.address, query)) as connection:
        wait_until(lambda: shared.service.live.all)
        (run,) = shared.service.live.all
        assert run.session._settings.options.hotwords == hotwords
        connection.send('{"type": "CloseStream"}')
        assert json.loads(connection.recv(timeout=60))["type"] == "Metadata"


def test_an_unknown_message_ends_the_stream_with_its_reason(shared):
    with connect("ws://{}:{}/v1/listen?encoding=linear16".format(*shared.address)) as connection:
        connection.send('{"type": "Dance"}')
        error = json.loads(connection.recv(timeout=60))
    assert error["variant"] == "bad_request"
