"""Who may come in: pages by their origin, programs by their key."""

import hashlib
import json
import os

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from serve.http.door.guards import is_admin_path
from tests.waiting import wait_until

LIVE = "/invocations-bidirectional-stream"


def own_origin(running) -> str:
    host, port = running.address
    return f"http://{host}:{port}"


def dial(running, subprotocols=None, **headers):
    host, port = running.address
    address = f"ws://{host}:{port}{LIVE}"
    return connect(address, additional_headers=headers, subprotocols=subprotocols, open_timeout=30)


def test_a_socket_of_a_foreign_page_is_refused_before_it_opens(shared):
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1", "garbage", "http://[", "//"):
        with pytest.raises(InvalidStatus) as refused:
            dial(shared, Origin=origin)
        assert refused.value.response.status_code == 403
    assert shared.service.n_admitted == 0


def test_a_socket_of_its_own_page_or_of_a_program_opens(shared):
    for headers in ({"Origin": own_origin(shared)}, {}):
        with dial(shared, **headers) as socket:
            socket.send(json.dumps({"sample_rate": 16_000}))
            socket.send(json.dumps({"type": "end"}))


def test_listed_origins_may_open_sockets(serve):
    running = serve(cors_origins="https://page.example, https://other.example")
    with dial(running, Origin="https://other.example"):
        pass


def test_pages_cannot_change_what_is_served(shared):
    body = json.dumps({"name": "x", "src": "/opt/ml/x"})
    foreign = {"origin": "https://evil.example"}
    for headers in (foreign | {"content-type": "text/plain"}, foreign | {"content-type": "application/json"}):
        assert shared.client.post("/adapters", content=body, headers=headers).status_code == 403
    assert shared.client.delete("/adapters/tiny-mr", headers=foreign).status_code == 403
    for plain in ("text/plain", "application/x-www-form-urlencoded"):
        response = shared.client.post("/adapters", content=body, headers={"content-type": plain})
        assert response.status_code == 415
    own = {"origin": own_origin(shared), "content-type": "application/json"}
    assert shared.client.post("/adapters", content=body, headers=own).status_code == 404


@pytest.fixture
def keys(tmp_path):
    """A file of keys, and a function that writes it: `write(name="role", ...)`; a key is its name."""
    path = tmp_path / "keys"

    def write(**roles):
        lines = [f"{name} {role} {hashlib.sha256(name.encode()).hexdigest()}" for name, role in roles.items()]
        path.write_text("# keys\n\n" + "\n".join(lines) + "\n")

    return path, write


def test_keys_are_demanded_once_there_are_any(serve, keys, speech_wav):
    path, write = keys
    write(one="use", two="use", boss="admin")
    running = serve(api_keys=path)

    def statuses(**headers):
        answers = [running.client.post("/invocations", content=speech_wav, headers=headers)]
        answers += [running.client.get(each, headers=headers) for each in ("/metrics", "/adapters", "/ping")]
        return [answer.status_code for answer in answers]

    assert statuses() == [401, 401, 401, 200]
    assert statuses(authorization="Bearer three") == [401, 401, 401, 200]
    assert statuses(authorization="Bearer one") == [200, 401, 401, 200]
    assert statuses(**{"x-api-key": "two"}) == [200, 401, 401, 200]
    assert statuses(authorization="Bearer boss") == [200, 200, 200, 200]
    with pytest.raises(InvalidStatus):
        dial(running)
    for kind in ("Bearer", "Token"):
        with dial(running, Authorization=f"{kind} one"):
            pass
    for protocols in (["token", "one"], ["realtime", "openai-insecure-api-key.one"]):
        with dial(running, protocols):
            pass
    assert running.client.get("/").status_code == 200  # the page, which asks for a key
    refused = running.client.get("/v1/models")
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    write(three="use")
    os.utime(path, (1, 1))
    wait_until(lambda: statuses(authorization="Bearer three")[0] == 200)
    assert statuses(authorization="Bearer one")[0] == 401
    path.write_text("not a key\n")  # a slip of the hand locks nobody out
    os.utime(path, (2, 2))
    assert statuses(authorization="Bearer three")[0] == 200


@pytest.mark.parametrize(
    ("path", "is_admin"),
    [
        ("/models", True),
        ("/models/x", True),
        ("/models/invoke", True),
        ("/models//invoke", True),
        ("/models/x/y/invoke", True),
        ("/adapters/invoke", True),
        ("/metrics/invoke", True),
        ("/models/x/invoke", False),
        ("/models/invoke/invoke", False),
        ("/invocations", False),
    ],
)
def test_a_name_makes_no_route_of_an_admin_one_of_users(path, is_admin):
    assert is_admin_path(path) == is_admin


def test_a_user_cannot_remove_what_is_named_like_the_route_of_users(serve, keys):
    path, write = keys
    write(one="use", boss="admin")
    running = serve(api_keys=path)
    for key, status in (("one", 401), ("boss", 404)):
        headers = {"authorization": f"Bearer {key}"}
        for each in ("/adapters/invoke", "/adapters//invoke/", "/adapters%2Finvoke", "/%61dapters/invoke"):
            answers = [running.client.request(method, each, headers=headers) for method in ("GET", "DELETE")]
            assert [answer.status_code for answer in answers] == [status] * 2, each
