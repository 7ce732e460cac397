"""The description of all routes: nothing is left out, nothing fetched, and a setting says where it is."""

import re

import pytest

from serve.http.errors import STATUSES
from serve.http.openapi.document import undescribed
from serve.http.openapi.operations import OPERATIONS
from serve.options import KNOWN_OPTIONS


@pytest.fixture(scope="module")
def document(shared):
    return shared.client.get("/docs/openapi.json").json()


def references(node):
    """Yield every `$ref` below a node."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for each in node.values():
            yield from references(each)
    elif isinstance(node, list):
        for each in node:
            yield from references(each)


def routes_of(running):
    return running.server.config.app._app.routes


def test_every_route_is_described_and_nothing_else(shared, document):
    assert undescribed(routes_of(shared)) == []
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    of_many_models = {key for key in OPERATIONS if key[1].startswith("/models")}
    assert described == set(OPERATIONS) - of_many_models


def test_the_routes_of_many_models_are_described_where_they_are(serve, tmp_path):
    running = serve(multi_model=True, model_dir=tmp_path)
    assert undescribed(routes_of(running)) == []
    paths = running.client.get("/docs/openapi.json").json()["paths"]
    assert {"/models/{name}/invoke", "/v1/audio/transcriptions", "/v1/models"} <= set(paths)
    assert "/invocations" not in paths and "/adapters" not in paths


def test_every_reference_leads_to_a_body(document):
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(references(document)) <= known


def test_options_have_the_values_that_are_possible_here(document):
    parameters = {
        each["name"]: each["schema"] for each in document["paths"]["/invocations"]["post"]["parameters"]
    }
    assert set(parameters) >= KNOWN_OPTIONS
    assert parameters["language"]["enum"] == ["en", "hi", "mr", "auto"]
    assert parameters["adapter"]["enum"] == ["tiny-mr", "none"]
    assert (parameters["beam_size"]["minimum"], parameters["beam_size"]["maximum"]) == (1, 10)


def test_errors_stand_at_the_statuses_that_they_have(document):
    responses = document["paths"]["/invocations"]["post"]["responses"]
    for error in OPERATIONS["POST", "/invocations"].errors:
        assert error.code in responses[str(STATUSES[error])]["description"]
    openai = document["paths"]["/v1/audio/transcriptions"]["post"]["responses"]["404"]
    assert openai["description"] == "model_not_found"
    assert openai["content"]["application/json"]["schema"]["$ref"].endswith("/OpenAIErrorAnswer")


def test_the_page_names_every_route_and_fetches_and_runs_nothing(shared, document):
    answer = shared.client.get("/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert all(
        f"<code>{path}</code>" in answer.text or f" {path}</code>" in answer.text
        for path in document["paths"]
    )
    assert not re.search(r"<script|src=|https?://", answer.text)
    links = set(re.findall(r'href="([^"]+)"', answer.text))
    anchors = {f"#{each}" for each in re.findall(r'id="([^"]+)"', answer.text)}
    assert links <= anchors | {"/docs/openapi.json"}


def test_a_setting_moves_it_or_takes_it_away(serve):
    moved = serve(docs_path="/reference").client
    assert [moved.get(path).status_code for path in ("/reference", "/reference/openapi.json", "/docs")] == [
        200,
        200,
        404,
    ]
    assert serve(docs_path="").client.get("/docs").status_code == 404


def test_a_path_allows_the_methods_that_are_described(shared, document):
    for path, methods in document["paths"].items():
        allowed = shared.client.options(path.replace("{", "").replace("}", "")).headers["allow"]
        assert set(allowed.split(", ")) == {"OPTIONS", *(method.upper() for method in methods)}, path
