"""The snippets and the client of live speech against a real `serve`."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SNIPPETS = dict(
    re.findall(r"^```(python|javascript)\n(.*?)^```$", (ROOT / "docs" / "live.md").read_text(), re.M | re.S)
)
LETTERS = "अआइईउऊएऐओऔकखगघचछजझटठडढणतथदधनपफबभमयरलवशषसहळ"
CLIENT = [sys.executable, "-m", "train.command_line", "client"]


@pytest.fixture(scope="module")
def server(served, tiny_artifact_dir):
    with served(tiny_artifact_dir) as client:
        yield str(client.base_url).rstrip("/")


def assert_said(words):
    """The tiny model writes letters, other ones for windows that end elsewhere."""
    assert words and all(set(word) <= set(LETTERS) for word in words)


def ran(command, folder, speech_wav, cwd=None):
    (folder / "speech.wav").write_bytes(speech_wav)
    run = subprocess.run(command, cwd=cwd or folder, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


def test_the_python_snippet_runs(server, speech_wav, tmp_path):
    snippet = SNIPPETS["python"].replace("localhost:8080", server.removeprefix("http://"))
    assert_said(ran([sys.executable, "-c", snippet], tmp_path, speech_wav))


@pytest.mark.slow
def test_the_javascript_snippet_runs(server, speech_wav, tmp_path):
    if shutil.which("node") is None:
        pytest.skip("there is no node here")
    snippet = SNIPPETS["javascript"].replace("localhost:8080", server.removeprefix("http://"))
    command = ["node", "--experimental-websocket", "-e", snippet]  # for versions before 22
    assert_said(ran(command, tmp_path, speech_wav))


def test_the_client_prints_the_words(server, speech_wav, tmp_path):
    command = [*CLIENT, str(tmp_path / "speech.wav"), "--mode", "live", "--pace", "0", "--url", server]
    assert_said(ran(command, tmp_path, speech_wav, cwd=ROOT))


class CuttingProxy:
    """Passes connections on; the first is cut once so many bytes were sent through it."""

    def __init__(self, address, n_bytes):
        self.address, self.n_bytes = address, n_bytes
        self.n_connections = 0
        self.door = socket.create_server(("127.0.0.1", 0))
        self.url = "http://{}:{}".format(*self.door.getsockname())
        threading.Thread(target=self._admit, daemon=True).start()

    def _admit(self):
        with suppress(OSError):
            while True:
                client, _ = self.door.accept()
                service = socket.create_connection(self.address)
                self.n_connections += 1
                left = self.n_bytes if self.n_connections == 1 else 1 << 40
                for source, target, most in ((client, service, left), (service, client, 1 << 40)):
                    threading.Thread(target=self._pass, args=(source, target, most), daemon=True).start()

    @staticmethod
    def _pass(source, target, left):
        with suppress(OSError):
            while left > 0 and (data := source.recv(min(left, 4_096))):
                target.sendall(data)
                left -= len(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        source.close()


def test_the_client_goes_on_where_its_connection_broke(server, speech_wav, tmp_path):
    host, port = server.removeprefix("http://").split(":")
    proxy = CuttingProxy((host, int(port)), n_bytes=len(speech_wav) // 2)
    command = [*CLIENT, str(tmp_path / "speech.wav"), "--mode", "live", "--pace", "4", "--url", proxy.url]
    assert_said(ran(command, tmp_path, speech_wav, cwd=ROOT))
    assert proxy.n_connections == 2
    proxy.door.close()


def test_the_client_names_what_the_microphone_needs(server, tmp_path):
    if find_spec("sounddevice") is not None:
        pytest.skip("sounddevice is installed")
    command = [*CLIENT, "-", "--mode", "live", "--url", server]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode != 0 and "shrota[microphone]" in run.stderr
