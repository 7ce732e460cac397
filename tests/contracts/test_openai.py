"""The official client of OpenAI against a real `serve`: both understand each other."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

ROOT = Path(__file__).parents[2]
PACED = ROOT / "tests" / "contracts" / "paced_service.py"
SNIPPETS = dict(
    re.findall(
        r"^```(bash|python|javascript|js)\n(.*?)^```$",
        (ROOT / "docs" / "clients.md").read_text(),
        re.M | re.S,
    )
)
RUNTIMES = {"bash": ["bash", "-euc"], "python": [sys.executable, "-c"], "javascript": ["node", "-e"]}
NPM_CLIENT = "openai@7.59.0"
NOBODYS_KEY = "unused"
MAX_BODY_BYTES = 1 << 20
VERBOSE = {"response_format": "verbose_json"}


def client_of(server: httpx.Client, **options) -> OpenAI:
    """Return the official client of a server, which asks once unless told otherwise."""
    return OpenAI(
        **{
            "base_url": f"{str(server.base_url).rstrip('/')}/v1",
            "api_key": NOBODYS_KEY,
            "max_retries": 0,
            **options,
        }
    )


@pytest.fixture(scope="module")
def server(served, tiny_artifact_dir):
    """The service as `shrota serve` starts it, with a small limit of bodies."""
    with served(tiny_artifact_dir, "--max-body-bytes", str(MAX_BODY_BYTES)) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    with client_of(server) as client:
        yield client


@pytest.fixture(scope="module")
def text(server, speech_wav) -> str:
    """What the service hears in the recording, by its own route."""
    return server.post("/invocations", content=speech_wav).json()["text"]


@pytest.fixture
def transcribe(client, speech_wav):
    """Send the recording with options to the served model."""

    def transcribe(**options):
        create = client.audio.transcriptions.create
        return create(**{"model": "whisper-1", "file": ("speech.wav", speech_wav), **options})

    return transcribe


@pytest.fixture
def start_paced(start_child, tmp_path):
    """Start a service whose engine waits after so many windows; give it, its client and how to go on."""

    def start(n_free: int, *flags: str):
        go_on = tmp_path / "go-on"
        child = start_child(sys.executable, PACED, go_on, str(n_free), *flags)
        child.wait_for("model.ready")
        return child, child.client(), go_on.touch

    return start


def test_a_transcription_is_the_text_that_our_own_route_gives(transcribe, text):
    heard = transcribe()
    assert (heard.text, heard.usage.type, heard.usage.seconds) == (text, "duration", 5.0)
    assert text


def test_text_and_subtitles_are_plain_text(transcribe, server, speech_wav, text):
    assert transcribe(response_format="text") == f"{text}\n"
    for name in ("srt", "vtt"):
        own = server.post(f"/invocations?format={name}", content=speech_wav)
        assert transcribe(response_format=name) == own.text


def test_verbose_json_has_the_segments_and_words_that_are_asked_for(transcribe, text):
    usual = transcribe(**VERBOSE)
    assert (usual.text, usual.language, usual.duration, usual.words) == (text, "marathi", 5.0, None)
    assert " ".join(segment.text for segment in usual.segments) == text
    words = transcribe(**VERBOSE, timestamp_granularities=["word"])
    assert words.segments is None
    assert all(word.start <= word.end <= 5.0 for word in words.words)
    both = transcribe(**VERBOSE, timestamp_granularities=["segment", "word"])
    assert both.words and both.segments


def test_a_stream_is_deltas_and_a_last_event_with_the_whole_text(transcribe, text):
    *deltas, done = transcribe(stream=True)
    assert [each.type for each in deltas] == ["transcript.text.delta"] * len(deltas)
    assert done.type == "transcript.text.done"
    assert "".join(each.delta for each in deltas) == done.text == text


def test_the_async_client_streams_and_does_not(server, speech_wav, text):
    async def ask():
        address = f"{str(server.base_url).rstrip('/')}/v1"
        async with AsyncOpenAI(base_url=address, api_key=NOBODYS_KEY, max_retries=0) as client:
            create = client.audio.transcriptions.create
            asked = {"model": "whisper-1", "file": ("speech.wav", speech_wav)}
            whole, stream = await asyncio.gather(create(**asked), create(**asked, stream=True))
            return whole.text, [event async for event in stream][-1].text

    assert asyncio.run(ask()) == (text, text)


def test_logprobs_are_those_of_the_tokens_of_the_text(transcribe, text):
    heard = transcribe(include=["logprobs"])
    assert all(each.logprob <= 0 for each in heard.logprobs)
    assert "".join(each.token for each in heard.logprobs) == text.replace(" ", "")
    *deltas, done = transcribe(include=["logprobs"], stream=True)
    told = [each.model_dump() for delta in deltas for each in delta.logprobs]
    assert told == [each.model_dump() for each in done.logprobs]


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # the client's word on the route
def test_a_translation_is_the_task_translate(client, server, speech_wav):
    own = server.post("/invocations?task=translate", content=speech_wav).json()["text"]
    create = client.audio.translations.create
    assert create(model="whisper-1", file=("speech.wav", speech_wav)).text == own
    verbose = create(model="whisper-1", file=("speech.wav", speech_wav), **VERBOSE)
    assert (verbose.language, verbose.text) == ("english", own)


def test_models_are_what_is_served_the_base_alone_and_every_adapter(
    client, server, transcribe, tiny_base_dir, tiny_artifact_dir, speech_wav
):
    body = {"name": "second", "src": str(tiny_artifact_dir)}
    assert server.post("/adapters", json=body).status_code == 200
    base = tiny_base_dir.name
    assert [model.id for model in client.models.list()] == ["whisper-1", base, "tiny-mr", "second"]
    assert client.models.retrieve("second").object == "model"
    alone = server.post("/invocations?adapter=none", content=speech_wav).json()["text"]
    assert transcribe(model=base).text == alone
    assert transcribe(model="second").text == transcribe(model="tiny-mr").text == transcribe().text
    server.delete("/adapters/second")
    with pytest.raises(openai.NotFoundError):
        transcribe(model="second")


def test_a_model_that_is_not_there_is_404_as_openai_words_it(client, transcribe):
    for ask in (lambda: client.models.retrieve("openai/gpt-4o"), lambda: transcribe(model="openai/gpt-4o")):
        with pytest.raises(openai.NotFoundError) as caught:
            ask()
        assert (caught.value.code, caught.value.type) == ("model_not_found", "invalid_request_error")
        assert "openai/gpt-4o" in caught.value.message


def test_a_bad_option_is_400_and_named_as_the_client_knows_it(client, transcribe):
    for options, param in (
        ({"language": "tlh"}, "language"),
        ({"response_format": "diarized_json"}, "response_format"),
        ({"extra_body": {"patience": 2}}, "patience"),
        ({"chunking_strategy": {"type": "server_vad", "threshold": 0.5}}, "chunking_strategy[threshold]"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            transcribe(**options)
        assert (caught.value.param, caught.value.type) == (param, "invalid_request_error")
    assert transcribe(chunking_strategy={"type": "server_vad"}, extra_body={"beam_size": 1}).text


def test_what_is_no_recording_or_too_long_has_the_status_of_our_own_routes(transcribe, client):
    with pytest.raises(openai.APIStatusError) as caught:
        transcribe(file=("speech.wav", bytes(MAX_BODY_BYTES + 1)))
    assert (caught.value.status_code, caught.value.code) == (413, "payload_too_large")
    with pytest.raises(openai.APIStatusError) as caught:
        transcribe(file=("speech.wav", b"not a recording"))
    assert (caught.value.status_code, caught.value.code) == (415, "undecodable_audio")
    assert caught.value.request_id


def test_routes_that_there_are_not_and_bodies_that_are_no_forms_answer_in_openais_words(server):
    for answer, status in (
        (server.post("/v1/chat/completions", json={}), 404),
        (server.get("/v1/audio/transcriptions"), 405),
        (server.post("/v1/audio/transcriptions", json={"model": "whisper-1"}), 415),
        (server.post("/v1/audio/transcriptions", files={"model": (None, "whisper-1")}), 400),
    ):
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert set(server.post("/nowhere").json()["error"]) == {"code", "message"}


def test_whoever_finds_no_room_is_429_and_a_client_that_asks_again_is_served(start_paced, speech_wav):
    _, server, go_on = start_paced(0, "--max-requests", "1")
    asked = {"model": "whisper-1", "file": ("speech.wav", speech_wav)}
    with server, client_of(server) as impatient, client_of(server, max_retries=8) as patient:
        with pytest.raises(openai.APITimeoutError):
            impatient.audio.transcriptions.create(**asked, timeout=1.0)
        with patient.audio.transcriptions.with_streaming_response.create(**asked, stream=True) as first:
            with pytest.raises(openai.RateLimitError) as caught:
                impatient.audio.transcriptions.create(**asked)
            assert caught.value.response.headers["retry-after"]
            assert (caught.value.type, caught.value.code) == ("rate_limit_error", "overloaded")
            go_on()
            assert patient.audio.transcriptions.create(**asked).text == "x"
            first.read()


def test_a_stream_that_the_service_breaks_off_is_an_error_of_the_client(start_paced, speech_wav):
    child, server, _ = start_paced(0, "--drain-s", "0.5")
    with server, client_of(server) as client:
        stream = client.audio.transcriptions.create(
            model="whisper-1", file=("speech.wav", speech_wav), stream=True
        )
        child.process.terminate()
        with pytest.raises(openai.APIError, match="shutting down") as caught:
            list(stream)
        assert json.loads(json.dumps(caught.value.body))["type"] == "server_error"
    assert child.finish() == 0


@pytest.mark.parametrize("language", RUNTIMES)
def test_the_snippets_of_the_documentation_run(server, speech_wav, text, tmp_path, language):
    runtime = RUNTIMES[language]
    if shutil.which(runtime[0]) is None:
        pytest.skip(f"there is no {runtime[0]} here")
    (tmp_path / "speech.wav").write_bytes(speech_wav)
    snippet = SNIPPETS[language].replace("http://localhost:8080", str(server.base_url).rstrip("/"))
    run = subprocess.run([*runtime, snippet], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    heard = " ".join(line for line in run.stdout.split("\n") if line and not re.search(r"^\d", line))
    assert heard.split() == text.split() * (2 if language == "python" else 1)


NPM_QUESTIONS = """
const { createReadStream } = require("node:fs");
const { OpenAI } = require("openai");

const client = new OpenAI({ baseURL: process.argv[1], apiKey: "unused", maxRetries: 0 });
const usual = () => ({ model: "whisper-1", file: createReadStream("speech.wav") });
const ask = (options) => client.audio.transcriptions.create({ ...usual(), ...options });
const refusal = (asked) => asked.then(() => null, ({ constructor, status, code, param }) => ({
  name: constructor.name, status, code, param,
}));

(async () => {
  const events = [];
  for await (const event of await ask({ stream: true })) events.push(event);
  console.log(JSON.stringify({
    models: (await client.models.list()).data.map(({ id }) => id),
    srt: await ask({ response_format: "srt" }),
    verbose: await ask({ response_format: "verbose_json", timestamp_granularities: ["word", "segment"] }),
    logprobs: (await ask({ include: ["logprobs"] })).logprobs,
    events,
    unknown: await refusal(ask({ model: "gpt-4o" })),
    wrong: await refusal(ask({ language: "tlh" })),
    noise: await refusal(ask({ file: new File(["no recording"], "speech.wav") })),
  }));
})();
"""


@pytest.fixture(scope="module")
def npm_folder(tmp_path_factory, speech_wav):
    """A folder with the official client for node, and the recording."""
    folder = tmp_path_factory.mktemp("node")
    install = ["npm", "install", NPM_CLIENT, "--no-audit", "--no-fund", "--ignore-scripts"]
    subprocess.run(install, cwd=folder, check=True, capture_output=True, timeout=300)
    (folder / "speech.wav").write_bytes(speech_wav)
    return folder


def in_node(folder, program, *arguments):
    command = ["node", "-e", program, *arguments]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.slow
@pytest.mark.network
def test_the_official_client_for_node_understands_answers_streams_and_errors(npm_folder, server, text):
    told = json.loads(in_node(npm_folder, NPM_QUESTIONS, f"{str(server.base_url).rstrip('/')}/v1"))
    assert told["models"][0] == "whisper-1" and "tiny-mr" in told["models"]
    assert told["srt"].startswith("1\n00:00:0") and text.split()[0] in told["srt"]
    assert told["verbose"]["text"] == text and told["verbose"]["words"] and told["verbose"]["segments"]
    assert "".join(each["token"] for each in told["logprobs"]) == text.replace(" ", "")
    *deltas, done = told["events"]
    assert {each["type"] for each in deltas} == {"transcript.text.delta"}
    assert done["type"] == "transcript.text.done"
    assert "".join(each["delta"] for each in deltas) == done["text"] == text
    assert told["unknown"] == {
        "name": "NotFoundError",
        "status": 404,
        "code": "model_not_found",
        "param": None,
    }
    assert (told["wrong"]["name"], told["wrong"]["param"]) == ("BadRequestError", "language")
    assert (told["noise"]["status"], told["noise"]["code"]) == (415, "undecodable_audio")


@pytest.mark.slow
@pytest.mark.network
def test_the_snippet_for_the_official_client_for_node_runs(npm_folder, server, text):
    snippet = SNIPPETS["js"].replace("http://localhost:8080", str(server.base_url).rstrip("/"))
    assert in_node(npm_folder, snippet).split() == text.split() * 2
