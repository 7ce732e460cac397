"""OpenAI's Realtime transcription, by the official package."""

import base64
import json

import numpy as np
import pytest
from openai import AsyncOpenAI, OpenAI
from websockets.sync.client import connect

from serve.errors import NoMemory
from serve.pipeline import Pipeline, ServingFacts
from serve.service.adapters import Adapters
from serve.service.live.runs import LiveRun
from tests.serve.service.live.test_session import NumberingEngine, Seconds
from tests.waiting import wait_until

ITEM = "conversation.item.input_audio_transcription"
pytestmark = pytest.mark.filterwarnings(
    "ignore:connect.. must be used as a context manager:DeprecationWarning"
)
DETECTED = {"type": "server_vad", "silence_duration_ms": 500}


@pytest.fixture
def address(shared):
    return "http://{}:{}/v1".format(*shared.address)


@pytest.fixture
def sound(speech):
    """The speech and a pause at 24 kHz, in base64 pieces."""
    import torchaudio.functional
    from torch import from_numpy

    samples = torchaudio.functional.resample(from_numpy(speech), 16_000, 24_000).numpy()
    data = (samples.clip(-1, 1) * 32_767).astype("<i2").tobytes() + bytes(2 * 24_000 * 2)
    return [base64.b64encode(data[first : first + 24_000]).decode() for first in range(0, len(data), 24_000)]


@pytest.fixture
def dialled(shared):
    """A bare connection whose session is created."""
    address = "ws://{}:{}/v1/realtime?intent=transcription".format(*shared.address)
    with connect(address, ping_timeout=None) as connection:
        assert json.loads(connection.recv(timeout=60))["type"] == "session.created"
        yield connection


def settings(**audio):
    transcription = {"model": "whisper-1", "language": "mr"}
    sound = {"format": {"type": "audio/pcm", "rate": 24_000}, "transcription": transcription, **audio}
    return {"type": "transcription", "audio": {"input": sound}}


def connected(client):
    return client.realtime.connect(extra_query={"intent": "transcription"})


def until(connection, kind):
    events = []
    while not events or events[-1].type != kind:
        events.append(connection.recv())
    return events


def test_a_phrase_is_an_item_with_deltas_and_its_completion(address, sound):
    with OpenAI(base_url=address, api_key="unused") as client, connected(client) as connection:
        assert connection.recv().type == "session.created"
        connection.session.update(session=settings(turn_detection=DETECTED))
        assert connection.recv().type == "session.updated"
        for piece in sound:
            connection.input_audio_buffer.append(audio=piece)
        events = until(connection, f"{ITEM}.completed")
    kinds = [event.type for event in events]
    assert kinds == [
        "input_audio_buffer.speech_started",
        f"{ITEM}.delta",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        f"{ITEM}.completed",
    ]
    assert len({event.item_id for event in events}) == 1
    assert events[1].delta == events[-1].transcript == "श्रोता"
    assert events[-1].usage.type == "duration" and events[-1].usage.seconds > 0


async def spoken_by_turns(address, sound):
    async with AsyncOpenAI(base_url=address, api_key="unused") as client, connected(client) as connection:
        assert (await connection.recv()).type == "session.created"
        await connection.session.update(session=settings(turn_detection=None))
        assert (await connection.recv()).type == "session.updated"
        texts = []
        for _ in range(2):
            for piece in sound:
                await connection.input_audio_buffer.append(audio=piece)
            await connection.input_audio_buffer.commit()
            while (event := await connection.recv()).type != f"{ITEM}.completed":
                pass
            texts.append((event.item_id, event.transcript))
        await connection.input_audio_buffer.commit()  # of nothing
        while (event := await connection.recv()).type != f"{ITEM}.completed":
            pass
        texts.append((event.item_id, event.transcript))
    return texts


def test_without_a_detector_the_client_ends_each_item(address, sound):
    import asyncio

    texts = asyncio.run(spoken_by_turns(address, sound))
    assert [text for _, text in texts[:2]] == ["श्रोता", "श्रोता"]
    assert len({item for item, _ in texts}) == 3


@pytest.mark.parametrize(
    ("session", "param"),
    [
        ({"type": "realtime"}, "session.type"),
        ({**settings(), "include": [f"item.{ITEM[18:]}.logprobs"]}, "session.include"),
        (settings(format={"type": "audio/flac"}), "format"),
        (settings(transcription={"language": "tlh"}), "language"),
    ],
)
def test_settings_that_are_not_served_are_refused_by_name(address, sound, session, param):
    with OpenAI(base_url=address, api_key="unused") as client, connected(client) as connection:
        connection.recv()
        connection.send({"type": "session.update", "session": session})
        error = connection.recv()
        assert error.type == "error" and error.error.param == param
        connection.session.update(session=settings())  # the session goes on
        assert connection.recv().type == "session.updated"


@pytest.mark.parametrize(
    ("sound", "says"),
    [
        ({"transcription": "whisper-1"}, "transcription must be an object"),
        ({"format": ["pcm16"]}, "'format'"),
        ({"format": {"type": {}}}, "'format'"),
        ({"format": {"type": "audio/pcm", "rate": 10**400}}, "'sample_rate'"),
        ({"transcription": {"language": ["mr"]}}, "'language'"),
    ],
    ids=("transcription", "list of formats", "kind of format", "rate", "language"),
)
def test_settings_of_a_wrong_kind_are_told_and_the_session_goes_on(dialled, capsys, sound, says):
    session = {"type": "transcription", "audio": {"input": sound}}
    dialled.send(json.dumps({"type": "session.update", "session": session}))
    error = json.loads(dialled.recv(timeout=60))
    assert error["type"] == "error" and says in error["error"]["message"]
    dialled.send(json.dumps({"type": "session.update", "session": settings()}))
    assert json.loads(dialled.recv(timeout=60))["type"] == "session.updated"
    assert "stream.failed" not in capsys.readouterr().out


@pytest.mark.parametrize("silence_ms", [10**400, -(10**400)], ids=("long", "short"))
def test_a_pause_out_of_all_bounds_is_the_longest_or_the_shortest(dialled, silence_ms):
    detected = {"type": "server_vad", "silence_duration_ms": silence_ms}
    session = settings(turn_detection=detected)
    dialled.send(json.dumps({"type": "session.update", "session": session}))
    assert json.loads(dialled.recv(timeout=60))["type"] == "session.updated"


@pytest.mark.parametrize("language", ["tlh", "fr"], ids=("no language", "none of the engine"))
def test_settings_that_were_refused_are_forgotten(dialled, sound, language):
    def told(**message):
        dialled.send(json.dumps(message))
        return json.loads(dialled.recv(timeout=60))

    assert told(type="session.update", session=settings())["type"] == "session.updated"
    refused = settings(format={"type": "audio/pcmu"}, transcription={"language": language})
    assert told(type="session.update", session=refused)["error"]["param"] == "language"
    assert told(type="session.update", session="none")["type"] == "error"
    for piece in sound:
        dialled.send(json.dumps({"type": "input_audio_buffer.append", "audio": piece}))
    while (event := json.loads(dialled.recv(timeout=60)))["type"] != f"{ITEM}.completed":
        assert event["type"] != "error"
    assert event["transcript"] == "श्रोता"


def test_a_first_event_that_is_none_is_told_and_the_session_goes_on(dialled):
    for frame in ("no JSON", b"sound"):
        dialled.send(frame)
        assert json.loads(dialled.recv(timeout=60))["type"] == "error"
    dialled.send(json.dumps({"type": "session.update", "session": settings()}))
    assert json.loads(dialled.recv(timeout=60))["type"] == "session.updated"


def test_the_model_of_the_address_can_be_changed_for_the_served_one(shared):
    address = "ws://{}:{}/v1/realtime?intent=transcription&model=tiny-mr".format(*shared.address)
    with connect(address, ping_timeout=None) as connection:
        assert json.loads(connection.recv(timeout=60))["type"] == "session.created"
        connection.send(json.dumps({"type": "session.update", "session": settings()}))
        assert json.loads(connection.recv(timeout=60))["type"] == "session.updated"
        connection.send(json.dumps({"type": "input_audio_buffer.commit"}))
        wait_until(lambda: shared.service.live.all)
        (run,) = shared.service.live.all
        assert run.session._settings.options.adapter is None


def test_an_unknown_model_is_refused(address):
    with OpenAI(base_url=address, api_key="unused") as client, connected(client) as connection:
        connection.recv()
        connection.session.update(session=settings(transcription={"model": "gpt-9"}))
        assert connection.recv().error.code == "model_not_found"


def test_wrong_events_are_told_and_the_session_goes_on(address, sound):
    with OpenAI(base_url=address, api_key="unused") as client, connected(client) as connection:
        connection.recv()
        connection.send({"type": "response.create", "event_id": "mine"})
        error = connection.recv()
        assert error.type == "error" and error.error.event_id == "mine"
        connection.input_audio_buffer.append(audio="*")
        assert "base64" in connection.recv().error.message
        connection.input_audio_buffer.append(audio=sound[1])
        connection.input_audio_buffer.clear()
        assert until(connection, "input_audio_buffer.cleared")


def test_the_older_wording_is_understood(address, sound):
    older = {
        "input_audio_format": "pcm16",
        "input_audio_transcription": {"model": "whisper-1", "language": "mr"},
        "turn_detection": DETECTED,
    }
    with OpenAI(base_url=address, api_key="unused") as client, connected(client) as connection:
        connection.recv()
        connection.send({"type": "transcription_session.update", "session": older})
        assert connection.recv().type == "transcription_session.updated"
        for piece in sound:
            connection.input_audio_buffer.append(audio=piece)
        assert until(connection, f"{ITEM}.completed")[-1].transcript == "श्रोता"


def test_a_client_that_leaves_with_its_first_event_frees_its_place(shared, dialled, monkeypatch):
    begun, begin = [], LiveRun.begin
    monkeypatch.setattr(LiveRun, "begin", lambda run, *more: (begun.append(run), begin(run, *more))[1])
    protocol = dialled.protocol
    protocol.send_text(b'{"type": "response.create"}')
    protocol.send_close(1000)
    dialled.socket.sendall(b"".join(protocol.data_to_send()))  # both frames arrive together
    wait_until(lambda: begun)
    wait_until(lambda: not shared.service.live.all and shared.service.n_admitted == 0, timeout_s=10)


def test_a_session_that_fails_before_it_hears_tells_so(shared, dialled, monkeypatch):
    def prepare(*settings, **more):
        raise NoMemory(2 << 30, 1 << 30, 1 << 30)

    monkeypatch.setattr(Adapters, "_prepare", prepare)
    older = {"input_audio_format": "g711_ulaw"}
    dialled.send(json.dumps({"type": "transcription_session.update", "session": older}))
    assert json.loads(dialled.recv(timeout=60))["type"] == "transcription_session.updated"
    half_a_minute = base64.b64encode(bytes(30 * 8_000)).decode()  # more than a session has room for
    dialled.send(json.dumps({"type": "input_audio_buffer.append", "audio": half_a_minute}))
    assert json.loads(dialled.recv(timeout=10))["error"]["code"] == "no_memory"


def test_the_deltas_of_each_item_are_its_transcript_though_nobody_pauses(serve, speech):
    facts = ServingFacts(adapter_name="tiny-mr", language="mr", dynamic=True, max_window_s=12.0)
    running = serve(lambda settings: Pipeline(NumberingEngine(), Seconds(), facts))
    data = (np.tile(speech[8_000:-8_000], 12) * 32_767).astype("<i2").tobytes()  # 48 s
    sound = {"format": {"type": "audio/pcm", "rate": 16_000}}
    messages = [{"type": "session.update", "session": {"audio": {"input": sound}}}]
    for first in range(0, len(data), 16_000):
        piece = base64.b64encode(data[first : first + 16_000]).decode()
        messages.append({"type": "input_audio_buffer.append", "audio": piece})
    messages += [{"type": f"input_audio_buffer.{wish}"} for wish in ("commit", "clear")]
    deltas, transcripts, event = {}, {}, {}
    with connect("ws://{}:{}/v1/realtime".format(*running.address), ping_timeout=None) as connection:
        for message in messages:
            connection.send(json.dumps(message))
        while event.get("type") != "input_audio_buffer.cleared":
            event = json.loads(connection.recv(timeout=60))
            if event["type"] == f"{ITEM}.delta":
                deltas[event["item_id"]] = deltas.get(event["item_id"], "") + event["delta"]
            if event["type"] == f"{ITEM}.completed":
                transcripts[event["item_id"]] = event["transcript"]
    assert deltas == transcripts and len(transcripts) > 2
