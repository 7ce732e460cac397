"""The way of a request, traced call by call: it is the one that `serve/pipeline.py` lists."""

import re
import threading
from pathlib import Path

import pytest

import serve.pipeline
from serve.service.loading import load_pipeline

ROOT = Path(__file__).parents[3]
LISTED = re.findall(r"^ +(\d+)  (\S+) +(serve/\S+\.py)", serve.pipeline.__doc__, re.MULTILINE)
WAY = [(path, name) for _, name, path in LISTED]
ROUTE = WAY[0]


class Trace:
    """Calls of ours on the way, in the order in which they were first seen, in all threads."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, str], None] = {}
        self.hidden: set[tuple[str, str]] = set()

    def __call__(self, frame, event, argument) -> None:
        """Take in a call: where it is one of the way, so must be all those of ours that led to it."""
        if event != "call" or name_of(frame) not in WAY:
            return
        chain = []
        while frame is not None:
            if (name := name_of(frame)) is not None:
                chain.append(name)
            frame = frame.f_back
        chain.reverse()
        if ROUTE in chain:  # what led to the route is the same for every request
            del chain[: chain.index(ROUTE)]
        self.hidden.update(set(chain) - set(WAY))
        for each in chain:
            self.seen.setdefault(each)


def name_of(frame) -> tuple[str, str] | None:
    """Return the file and the name of a function of ours."""
    path = frame.f_code.co_filename
    return (path.removeprefix(f"{ROOT}/"), frame.f_code.co_qualname) if "/serve/" in path else None


@pytest.fixture
def trace():
    trace = Trace()
    threading.setprofile(trace)  # for threads that begin from now on
    yield trace
    threading.setprofile(None)


@pytest.fixture
def pipeline(tiny_artifact_dir, tmp_path):
    return load_pipeline(tiny_artifact_dir, quantization="none", cache_dir=tmp_path)


def test_a_request_takes_the_calls_that_are_listed_and_no_more_than_16(pipeline, trace, serve, speech_wav):
    running = serve(lambda settings: pipeline)
    trace.seen.clear()  # the warm-up has another way
    trace.hidden.clear()
    assert running.client.post("/invocations", content=speech_wav).json()["text"]
    assert list(trace.seen) == WAY
    assert trace.hidden == set()
    assert [int(number) for number, _, _ in LISTED] == list(range(1, len(WAY) + 1))
    assert len(WAY) <= 16
