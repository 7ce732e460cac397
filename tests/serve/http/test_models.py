"""A multi-model service over real sockets: it starts without a model, and takes random ones."""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from serve.http.sagemaker.models import PAGE_MODELS
from serve.service.models import Model


@pytest.fixture(scope="module")
def root(tmp_path_factory, tiny_artifact_dir, tiny_base_dir, write_tiny_artifact):
    """What the platform unpacks: two artifacts of one base, and the base itself."""
    root = tmp_path_factory.mktemp("models")
    shutil.copytree(tiny_artifact_dir, root / "marathi")
    write_tiny_artifact(root / "hindi", seed=2, name="tiny-hi", language="hi", encoder_context="fixed")
    shutil.copytree(tiny_base_dir, root / "base")
    return root


@pytest.fixture
def start(serve, root, tiny_base_dir, tmp_path_factory):
    roots = f"{root}:{tiny_base_dir}"  # the artifacts name their base by its directory
    cache_dir = tmp_path_factory.getbasetemp() / "models-cache"

    def start(**settings):
        usual = {"multi_model": True, "adapter_roots": roots, "cache_dir": cache_dir, "n_threads": 1}
        return serve(**(usual | settings))

    return start


def load(running, name, source):
    return running.client.post("/models", json={"model_name": name, "url": str(source)})


def invoke(running, name, wav, query=""):
    return running.client.post(f"/models/{name}/invoke?format=verbose_json{query}", content=wav)


def code_of(response):
    return response.status_code, response.json()["error"]["code"]


@pytest.mark.parametrize("engine", ["ctranslate2", "transformers"])
def test_models_are_loaded_invoked_listed_and_unloaded(start, root, speech_wav, engine):
    running = start(engine=engine, quantization="none")
    assert running.client.get("/ping").status_code == 200
    assert running.client.get("/models").json() == {"models": []}
    for name in ("marathi", "hindi", "base"):
        assert load(running, name, root / name).status_code == 200
    texts = {}
    for name, language in (("marathi", "marathi"), ("hindi", "hindi"), ("base", "marathi")):
        answer = invoke(running, name, speech_wav, "&language=mr" if name == "base" else "")
        assert (answer.status_code, answer.json()["language"]) == (200, language)
        texts[name] = answer.json()["text"]
    assert len(set(texts.values())) == 3
    assert len(running.service.models.schedulers) == 1, "models of one base share it"

    entry = {"modelName": "hindi", "modelUrl": str(root / "hindi")}
    assert running.client.get("/models/hindi").json() == entry
    assert entry in running.client.get("/models").json()["models"]
    assert code_of(load(running, "hindi", root / "marathi")) == (409, "model_exists")
    assert running.client.delete("/models/hindi").status_code == 200
    for response in (
        running.client.get("/models/hindi"),
        running.client.delete("/models/hindi"),
        invoke(running, "hindi", speech_wav),
    ):
        assert code_of(response) == (404, "unknown_model")
    assert invoke(running, "marathi", speech_wav).json()["text"] == texts["marathi"]
    # A model may come back under another name, and all may go.
    assert load(running, "again", root / "hindi").status_code == 200
    assert invoke(running, "again", speech_wav).json()["text"] == texts["hindi"]
    for name in ("marathi", "base", "again"):
        assert running.client.delete(f"/models/{name}").status_code == 200
    assert running.service.models.schedulers == []
    assert running.service.models._budget.taken_bytes == 0
    assert "shrota_windows_total" in running.client.get("/metrics").text
    assert load(running, "marathi", root / "marathi").status_code == 200
    assert invoke(running, "marathi", speech_wav).json()["text"] == texts["marathi"]


def test_options_and_streams_are_those_of_invocations(start, root, speech_wav):
    running = start()
    load(running, "marathi", root / "marathi")
    headers = {"accept": "application/x-ndjson"}
    streamed = running.client.post("/models/marathi/invoke", content=speech_wav, headers=headers)
    assert streamed.text.splitlines()[0].startswith('{"type":"start"')
    assert code_of(invoke(running, "marathi", speech_wav, "&beams=2")) == (400, "unsupported_option")
    assert code_of(invoke(running, "marathi", b"")) == (422, "empty_audio")


def test_clients_of_openai_name_a_model_in_their_form(start, root, speech_wav):
    running = start()
    form = {"response_format": "verbose_json"}

    def ask(route="transcriptions", **fields):
        return running.client.post(f"/v1/audio/{route}", files={"file": speech_wav}, data={**form, **fields})

    def refusal(answer):
        return answer.status_code, answer.json()["error"]["code"], answer.json()["error"]["type"]

    not_found = (404, "model_not_found", "invalid_request_error")
    assert refusal(ask(model="marathi")) == not_found, "nothing is loaded yet"
    for name in ("marathi", "hindi", "base"):
        load(running, name, root / name)
    for name, language in (("marathi", "marathi"), ("hindi", "hindi")):
        answer = ask(model=name)
        assert (answer.status_code, answer.json()["language"]) == (200, language)
        assert answer.json()["text"] == invoke(running, name, speech_wav).json()["text"]
    assert ask("translations", model="base", language="mr").status_code == 200
    assert (
        running.client.post(
            "/v1/audio/transcriptions?model=hindi", files={"file": speech_wav}, data=form
        ).json()["language"]
        == "hindi"
    )
    for fields in ({}, {"model": ""}, {"model": "whisper-1"}, {"model": "missing"}):
        assert refusal(ask(**fields)) == not_found, "no model is served without being named"
    listed = running.client.get("/v1/models").json()["data"]
    assert [each["id"] for each in listed] == ["base", "hindi", "marathi"]
    assert running.client.get("/v1/models/hindi").json()["id"] == "hindi"
    assert refusal(running.client.get("/v1/models/whisper-1")) == not_found
    running.client.delete("/models/hindi")
    assert refusal(ask(model="hindi")) == not_found
    assert running.service.n_admitted == 0


def test_what_cannot_be_loaded_is_refused_and_leaves_nothing(start, root, tmp_path, speech_wav):
    running = start()
    (tmp_path / "empty").mkdir()
    broken = root / "broken"
    shutil.copytree(root / "hindi", broken, dirs_exist_ok=True)
    (broken / "adapter" / "adapter_model.safetensors").write_bytes(b"no tensors")
    (root / "nothing").mkdir(exist_ok=True)
    assert code_of(load(running, "x", root / "missing")) == (404, "unknown_path")
    assert code_of(load(running, "x", tmp_path / "empty")) == (404, "unknown_path")
    assert code_of(load(running, "x", root / "nothing")) == (400, "bad_adapter")
    assert code_of(load(running, "x", broken)) == (400, "bad_adapter")
    assert code_of(load(running, "a/b", root / "hindi")) == (400, "bad_request")
    assert code_of(running.client.post("/models", json={"model_name": "x"})) == (400, "bad_request")
    assert running.client.get("/models").json() == {"models": []}
    assert running.service.models.schedulers == []
    assert running.client.post("/invocations", content=speech_wav).status_code == 404
    assert running.client.get("/adapters").status_code == 404


@pytest.mark.parametrize("base", ["outside", "somebody/model", "../outside"])
def test_a_base_that_an_artifact_names_is_confined_and_never_fetched(
    start, root, tiny_base_dir, tmp_path, monkeypatch, base
):
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", None)  # calling it raises TypeError
    running = start(adapter_roots=str(root))
    elsewhere = shutil.copytree(tiny_base_dir, tmp_path / "outside")
    named = shutil.copytree(root / "hindi", root / "named", dirs_exist_ok=True)
    manifest = json.loads((named / "manifest.json").read_text())
    manifest["base_model"]["name"] = str(elsewhere) if base == "outside" else base
    (named / "manifest.json").write_text(json.dumps(manifest))
    response = load(running, "x", named)
    assert code_of(response) == (400, "bad_adapter")
    assert str(tmp_path) not in response.text
    assert str(root) not in response.text


def test_a_model_for_which_there_is_no_memory_is_507_and_fits_once_another_has_gone(start, root):
    weights_mib = sum(file.stat().st_size for file in (root / "base").glob("*.safetensors")) / 2**20
    running = start(quantization="none", model_memory_mib=1.5 * weights_mib)
    assert load(running, "marathi", root / "marathi").status_code == 200
    assert code_of(load(running, "hindi", root / "hindi")) == (507, "no_memory")
    assert [each["modelName"] for each in running.client.get("/models").json()["models"]] == ["marathi"]
    running.client.delete("/models/marathi")
    assert load(running, "hindi", root / "hindi").status_code == 200


@pytest.mark.parametrize("removed", ["before it is loaded", "after it is loaded"])
def test_a_base_stays_for_a_model_that_is_added_while_the_last_other_goes(
    start, root, speech_wav, monkeypatch, removed
):
    running = start()
    assert load(running, "marathi", root / "marathi").status_code == 200
    loading, may_go_on = threading.Event(), threading.Event()
    load_model = running.service.models._load

    def load_slowly(*args):
        if removed == "after it is loaded":
            load_model(*args)
        loading.set()
        assert may_go_on.wait(60)
        if removed == "before it is loaded":
            load_model(*args)

    monkeypatch.setattr(running.service.models, "_load", load_slowly)
    with ThreadPoolExecutor(1) as thread:
        added = thread.submit(load, running, "hindi", root / "hindi")
        assert loading.wait(60)
        assert running.client.delete("/models/marathi").status_code == 200
        may_go_on.set()
        assert added.result().status_code == 200
    assert invoke(running, "hindi", speech_wav).status_code == 200
    assert running.client.delete("/models/hindi").status_code == 200
    assert running.service.models.schedulers == []
    assert running.service.models._budget.taken_bytes == 0


def test_many_models_are_listed_in_pages(start):
    running = start()
    names = [f"model-{number:04}" for number in range(2 * PAGE_MODELS + 1)]
    running.service.models.all = lambda: [Model(name=name, url=f"/{name}") for name in names]
    listed, token = [], None
    while True:
        page = running.client.get("/models", params={"next_page_token": token} if token else {}).json()
        listed.append([each["modelName"] for each in page["models"]])
        token = page.get("nextPageToken")
        if token is None:
            break
    assert [len(page) for page in listed] == [PAGE_MODELS, PAGE_MODELS, 1]
    assert [name for page in listed for name in page] == names
