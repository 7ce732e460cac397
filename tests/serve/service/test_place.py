"""A place in the service: what it holds, and that nothing of it stays behind."""

from contextlib import nullcontext

import pytest

from serve.engine.scheduling.scheduler import Scheduler
from serve.errors import NotReady
from serve.options import TranscriptionOptions
from serve.service.place import Place

NAMED = TranscriptionOptions(adapter="second")


@pytest.fixture
def adapters(make, sources):
    adapters = make()
    adapters.add("second", sources[0])
    return adapters


@pytest.fixture
def place(adapters):
    with Scheduler(adapters.pipeline.engine, frees_engine=False) as scheduler:
        turns = nullcontext()
        yield Place(scheduler.admit(), adapters, adapters.hold(None), max_audio_s=60.0, audio_turns=turns)


def test_the_adapter_that_is_named_is_held_until_the_end(place, adapters):
    for _ in range(2):
        place.choose(NAMED)
        assert adapters.get("second").n_requests == 1
        assert place.pipeline.facts.adapter_name == "second"
    place.close()
    assert adapters.get("second").n_requests == 0


def test_a_place_that_is_closed_holds_no_adapter(place, adapters):
    place.close()
    with pytest.raises(NotReady):
        place.choose(NAMED)
    assert adapters.get("second").n_requests == 0


def test_a_client_that_leaves_while_its_adapter_is_chosen_leaves_none_held(place, adapters, monkeypatch):
    hold = adapters.hold

    def hold_and_leave(name, check):
        held = hold(name, check)
        place.close()
        return held

    monkeypatch.setattr(adapters, "hold", hold_and_leave)
    with pytest.raises(NotReady):
        place.choose(NAMED)
    assert adapters.get("second").n_requests == 0
