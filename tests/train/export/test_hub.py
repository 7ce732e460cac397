"""Pushing to the hub: a small one on this host, one that refuses, one that is not there."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from train.errors import ExportError
from train.export.hub import push_directory


class Hub(BaseHTTPRequestHandler):
    """The three requests with which small files become a commit."""

    status = 200

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        self.server.seen.append((self.path, self.headers["authorization"], body))
        answer = {
            "url": f"http://{self.headers['host']}/me/tiny",
            "commitUrl": "https://huggingface.co/me/tiny/commit/1",
            "commitOid": "1",
        }
        if "preupload" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            answer = {
                "files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            }
        self.reply(answer)

    def do_GET(self):
        self.reply({"id": "me/tiny", "sha": "1", "siblings": []})

    def reply(self, answer):
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.seen, server.url = [], f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_directory_becomes_a_private_repository(hub, tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "config.json").write_text("{}")
    (tmp_path / ".half-written").write_text("not for others")
    push_directory(tmp_path, "me/tiny", endpoint=hub.url)
    paths = [path for path, _, _ in hub.seen]
    assert paths[0] == "/api/repos/create" and json.loads(hub.seen[0][2])["visibility"] == "private"
    assert {token for _, token, _ in hub.seen} == {"Bearer hf_secret"}
    committed = [json.loads(line) for line in hub.seen[-1][2].splitlines()]
    files = [each["value"] for each in committed if each["key"] == "file"]
    assert [(file["path"], base64.b64decode(file["content"])) for file in files] == [
        ("adapter/config.json", b"{}")
    ]


def test_a_hub_that_refuses_is_one_sentence(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(Hub, "status", 403)
    with pytest.raises(ExportError, match=r"the hub refuses me/tiny \(403"):
        push_directory(tmp_path, "me/tiny", endpoint=hub.url)


def test_a_missing_token_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(ExportError, match="no Hugging Face token: set HF_TOKEN"):
        push_directory(tmp_path, "me/tiny")


def test_a_hub_that_is_not_there_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with pytest.raises(ExportError, match=r"cannot be used: .*refused"):
        push_directory(tmp_path, "me/tiny", endpoint="http://127.0.0.1:9")


def test_what_is_no_repository_name_is_refused(hub, tmp_path):
    with pytest.raises(ExportError, match="not the name of a repository"):
        push_directory(tmp_path, "a/b/c", endpoint=hub.url)
