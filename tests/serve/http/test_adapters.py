"""/adapters over real sockets, with a real engine: a random Whisper and its adapters."""

import shutil
import threading

import httpx
import pytest

from serve.service.service import load_from_settings
from tests.waiting import wait_until

INVOCATIONS = "/invocations"
IDENTIFIER, ALIAS = "X-Amzn-SageMaker-Adapter-Identifier", "X-Amzn-SageMaker-Adapter-Alias"


@pytest.fixture(scope="module")
def root(tmp_path_factory, tiny_artifact_dir, write_tiny_artifact):
    """A directory with the served artifact and two more, one for windows of 30 s and another language."""
    root = tmp_path_factory.mktemp("root")
    shutil.copytree(tiny_artifact_dir, root / "served")
    write_tiny_artifact(root / "hindi", seed=2, name="tiny-hi", language="hi", encoder_context="fixed")
    write_tiny_artifact(root / "third", seed=3, name="tiny-3")
    return root


@pytest.fixture(params=["ctranslate2", "transformers"])
def running(request, serve, root, tmp_path_factory):
    cache_dir = tmp_path_factory.getbasetemp() / "adapters-cache"
    return serve(
        load_from_settings,
        model_dir=root / "served",
        engine=request.param,
        quantization="none",
        n_threads=1,
        cache_dir=cache_dir,
        user_code=False,
        engine_process=False,  # a test looks into the engine
    )


def add(running, name, source, headers=None, **more) -> httpx.Response:
    return running.client.post("/adapters", json={"name": name, "src": str(source), **more}, headers=headers)


def heard(running, wav, query="", headers=None):
    response = running.client.post(f"{INVOCATIONS}?format=verbose_json{query}", content=wav, headers=headers)
    assert response.status_code == 200, response.text
    return response.json()["language"], response.json()["text"]


def code_of(response):
    return response.status_code, response.json()["error"]["code"]


def test_adapters_come_are_named_and_go(running, root, speech_wav):
    served = heard(running, speech_wav)
    added = add(running, "hindi", root / "hindi", headers={ALIAS: "hi-alias"})
    assert added.status_code == 200
    assert added.json()["loaded"] and added.json()["memory_bytes"] > 0 and added.json()["language"] == "hi"
    hindi = heard(running, speech_wav, "&adapter=hindi")
    assert hindi[0] == "hindi" and hindi[1] != served[1]
    for headers in ({IDENTIFIER: "hindi"}, {ALIAS: "hi-alias"}, {ALIAS: "hindi"}):
        assert heard(running, speech_wav, headers=headers) == hindi
    # The option wins over the header.
    assert heard(running, speech_wav, "&adapter=tiny-mr", {IDENTIFIER: "hindi"}) == served
    alone = heard(running, speech_wav, "&adapter=none")
    assert alone[1] not in (served[1], hindi[1])
    assert heard(running, speech_wav) == served

    names = [each["name"] for each in running.client.get("/adapters").json()["adapters"]]
    assert names == ["tiny-mr", "hindi"]
    assert running.client.get("/adapters/hindi").json()["src"] == str((root / "hindi").resolve())
    assert running.client.delete("/adapters/hindi").status_code == 200
    assert code_of(running.client.get("/adapters/hindi")) == (404, "unknown_adapter")
    gone = running.client.post(f"{INVOCATIONS}?adapter=hindi", content=speech_wav)
    assert code_of(gone) == (400, "unsupported_option")
    # Another adapter under the name of the one that has gone is heard as itself.
    assert add(running, "hindi", root / "third").status_code == 200
    assert heard(running, speech_wav, "&adapter=hindi") not in (hindi, served)
    assert heard(running, speech_wav) == served


def test_an_adapter_that_is_not_preloaded_is_loaded_by_its_first_request(running, root, speech_wav):
    assert not add(running, "later", root / "third", preload=False).json()["loaded"]
    later = heard(running, speech_wav, "&adapter=later")
    assert running.client.get("/adapters/later").json()["loaded"]
    assert heard(running, speech_wav, "&adapter=later") == later != heard(running, speech_wav)


def test_what_cannot_be_added_or_removed_is_refused_and_nothing_changes(running, root, speech_wav):
    before = heard(running, speech_wav)
    broken = root.parent / "elsewhere"
    broken.mkdir(exist_ok=True)
    damaged = root / "damaged"
    shutil.copytree(root / "third", damaged, dirs_exist_ok=True)
    (damaged / "adapter" / "adapter_model.safetensors").write_bytes(b"no tensors")
    assert code_of(add(running, "x", root / "missing")) == (404, "unknown_path")
    assert code_of(add(running, "x", broken)) == (404, "unknown_path")
    assert code_of(add(running, "x", damaged)) == (400, "bad_adapter")
    assert code_of(add(running, "tiny-mr", root / "third")) == (409, "adapter_exists")
    assert code_of(add(running, "none", root / "third")) == (400, "bad_request")
    assert code_of(running.client.post("/adapters", content=b"{")) == (400, "bad_request")
    assert code_of(running.client.post("/adapters", json={"name": "x"})) == (400, "bad_request")
    assert code_of(running.client.post("/adapters", content=b"x" * 70_000)) == (413, "payload_too_large")
    assert code_of(running.client.delete("/adapters/tiny-mr")) == (409, "not_removable")
    assert code_of(running.client.delete("/adapters/unknown")) == (404, "unknown_adapter")
    assert [each["name"] for each in running.client.get("/adapters").json()["adapters"]] == ["tiny-mr"]
    assert heard(running, speech_wav) == before


def test_an_adapter_that_is_removed_serves_the_request_that_holds_it(running, root, speech_wav):
    add(running, "hindi", root / "hindi")
    alone = heard(running, speech_wav, "&adapter=hindi")
    engine = running.service.adapters.pipeline.engine
    decode, go_on, answers = engine.decode, threading.Event(), []

    def paced(windows):
        assert go_on.wait(30)
        return decode(windows)

    engine.decode = paced
    client = threading.Thread(
        target=lambda: answers.append(heard(running, speech_wav, "&adapter=hindi")), daemon=True
    )
    client.start()
    wait_until(lambda: running.client.get("/adapters/hindi").json()["requests"] == 1)
    assert running.client.delete("/adapters/hindi").status_code == 200
    assert code_of(running.client.get("/adapters/hindi")) == (404, "unknown_adapter")
    go_on.set()
    client.join(30)
    assert answers == [alone]
    wait_until(lambda: not [key for key in held_by(engine) if key.startswith("hindi")])


def held_by(engine):
    """Return the keys of the adapters that an engine has in memory."""
    return (
        engine._names
        if hasattr(engine, "_names")
        else {v.adapter for v in engine.variants.loaded if v.adapter}
    )


def test_no_more_adapters_are_kept_than_memory_allows(serve, root, tmp_path, speech_wav):
    running = serve(
        load_from_settings,
        model_dir=root / "served",
        n_threads=1,
        cache_dir=tmp_path,
        adapter_memory_mib=0.001,
    )
    assert code_of(add(running, "hindi", root / "hindi")) == (507, "no_memory")
    assert running.client.get("/adapters").json()["adapters"][0]["loaded"]


def test_the_header_of_a_live_stream_names_its_adapter(running, root, speech_wav):
    from websockets.sync.client import connect

    add(running, "hindi", root / "hindi")
    host, port = running.address
    with connect(
        f"ws://{host}:{port}/invocations-bidirectional-stream", additional_headers={IDENTIFIER: "hindi"}
    ) as socket:
        socket.send("{}")
        socket.send(speech_wav[44:])
        socket.send('{"type": "end"}')
        texts = list(socket)
    assert texts and all('"hi"' in text for text in texts)
