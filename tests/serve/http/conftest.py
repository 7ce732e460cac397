"""A real server on a real socket, in a thread, with an engine whose pace the test decides."""

from __future__ import annotations

import threading

import httpx
import numpy as np
import pytest
import torchaudio.functional  # noqa: F401 - services import it in a thread, where its warnings would be errors

from serve.config.settings import Settings
from serve.engine import CPU_BATCH, Engine, Hypothesis
from serve.http.server import make_server
from serve.pipeline import Pipeline, ServingFacts
from tests.waiting import wait_until


class PacedEngine(Engine):
    """Waits for `pace` before each batch; hears "श्रोता" in every window, and nothing in the warm-up."""

    languages = frozenset({"mr", "hi", "en"})
    has_adapter = True
    n_workers = 1
    usual_batch = CPU_BATCH

    def __init__(self) -> None:
        self.pace = threading.Event()
        self.pace.set()
        self.options: list = []
        self.fault: Exception | None = None

    def unsupported(self, options):
        return ("beam_size", "only 1 is supported") if options.beam_size > 1 else None

    def kind(self, window):
        return window.options.adapter, window.n_frames

    def decode(self, windows):
        self.options += [window.options for window in windows]
        assert self.pace.wait(timeout=30)
        if self.fault:
            raise self.fault
        heard = {
            "text": "श्रोता",
            "tokens": (1,),
            "avg_logprob": -0.1,
            "no_speech_prob": 0.0,
        }
        return [Hypothesis(language=window.options.language, **heard) for window in windows]

    def detect_language(self, windows):
        return [{"hi": 0.5, "mr": 0.3, "en": 0.2}] * len(windows)

    def bytes_to_load(self, options):
        return 0

    def close(self) -> None: ...


class Frames:
    """Features of the right shape."""

    def log_mel(self, samples, window_s):
        return np.zeros((80, round(window_s * 100)), np.float32)


class Running:
    """A server in a thread, and a client of it."""

    def __init__(self, load, **settings) -> None:
        self.engine = PacedEngine()
        facts = ServingFacts(adapter_name="tiny-mr", language="mr", dynamic=True, max_window_s=5.0)
        pipeline = Pipeline(self.engine, Frames(), facts)
        chosen = Settings(host="127.0.0.1", port=0, **{"drain_s": 0.5} | settings)
        self.server = make_server(chosen, load or (lambda settings: pipeline))
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        wait_until(lambda: self.server.started)
        host, port = self.server.servers[0].sockets[0].getsockname()
        self.address = (host, port)
        self.client = httpx.Client(base_url=f"http://{host}:{port}", timeout=60)

    @property
    def service(self):
        return self.server.service

    def stop(self) -> None:
        self.engine.pace.set()
        self.client.close()
        self.server.stop()
        self.thread.join(timeout=30)
        assert not self.thread.is_alive()


@pytest.fixture
def serve():
    """Start servers: `serve(load=None, **settings)`; by default one that is ready."""
    running = []

    def start(load=None, ready=True, **settings):
        running.append(Running(load, **settings))
        if ready:
            wait_until(lambda: running[-1].service.state == "ready")
        return running[-1]

    yield start
    for each in running:
        each.stop()


@pytest.fixture(scope="module")
def shared():
    """One ready server for the tests of a file that leave it as it was."""
    running = Running(None)
    wait_until(lambda: running.service.state == "ready")
    yield running
    running.stop()
