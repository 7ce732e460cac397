"""The registry: names, and what is held. The engine only counts what it is told to load."""

import threading

import pytest

from serve.errors import (
    AdapterExists,
    BadAdapter,
    ConversionError,
    EngineError,
    NotRemovable,
    RequestError,
    TooManyAdapters,
    UnknownAdapter,
    UnsupportedOption,
)
from serve.options import TranscriptionOptions


def used(adapters, name):
    """Ask for an adapter as a request does, and let go of it."""
    with adapters.hold(name) as held:
        held.pipeline.prepare(held.pipeline.resolve(TranscriptionOptions()))


def loaded(adapters):
    return [each.name for each in adapters.all() if each.loaded]


def test_a_request_follows_the_manifest_of_the_adapter_it_names(make, sources):
    adapters = make()
    adapters.add("second", sources[0])
    for name, language, dynamic in ((None, "hi", False), ("first", "hi", False), ("second", "mr", True)):
        with adapters.hold(name) as held:
            assert (held.pipeline.facts.language, held.pipeline.facts.dynamic) == (language, dynamic)
            own = held.pipeline.resolve(TranscriptionOptions(adapter=name))
            assert own.adapter == held.pipeline.facts.adapter_key
            assert held.pipeline.resolve(TranscriptionOptions(adapter="none")).adapter is None
    with pytest.raises(UnsupportedOption, match="first or second or none"):
        adapters.hold("third")


def test_an_alias_names_an_adapter_as_well(make, sources):
    adapters = make()
    adapters.add("second", sources[0], alias="other")
    with adapters.hold("other") as held:
        assert held.pipeline.resolve(TranscriptionOptions(adapter="other")).adapter.startswith("second#")
    adapters.remove("other")
    adapters.add("other", sources[1])


@pytest.mark.parametrize("name", ["", "none", "../x", "a/b", "a b", "x" * 201])
def test_a_name_that_cannot_be_one_is_refused(make, sources, name):
    with pytest.raises(RequestError):
        make().add(name, sources[0])


def test_only_so_many_are_registered(make, sources):
    adapters = make(max_adapters=3)
    adapters.add("second", sources[0])
    adapters.add("third", sources[0], alias="other")
    with pytest.raises(TooManyAdapters):
        adapters.add("fourth", sources[0])
    adapters.remove("third")
    adapters.add("fourth", sources[0])


def test_a_name_is_taken_once_until_it_is_removed(make, sources):
    adapters = make()
    adapters.add("second", sources[0])
    for name in ("first", "second"):
        with pytest.raises(AdapterExists):
            adapters.add(name, sources[1])
    adapters.remove("second")
    adapters.add("second", sources[1])
    for call in (adapters.get, adapters.remove):
        with pytest.raises(UnknownAdapter):
            call("third")
    with pytest.raises(NotRemovable):
        adapters.remove("first")


def test_what_cannot_be_loaded_is_not_registered(make, sources):
    adapters = make()
    adapters.pipeline.engine.fault = ConversionError("it does not fit")
    with pytest.raises(BadAdapter, match="does not fit"):
        adapters.add("second", sources[0])
    adapters.add("second", sources[0], preload=False)
    with pytest.raises(EngineError, match="does not fit"):
        used(adapters, "second")
    adapters.pipeline.engine.fault = None
    used(adapters, "second")
    assert loaded(adapters) == ["first", "second"]


def test_what_is_removed_serves_those_that_hold_it_and_is_then_freed(make, sources):
    adapters = make()
    adapters.add("a", sources[0], preload=False)
    held = adapters.hold("a")
    adapters.remove("a")
    with pytest.raises(UnsupportedOption):
        adapters.hold("a")
    held.pipeline.prepare(held.pipeline.resolve(TranscriptionOptions()))
    assert len(adapters.pipeline.engine.loaded) == 1
    adapters.add("a", sources[1])  # the name is free again, while another of that name is still at work
    assert len(adapters.pipeline.engine.loaded) == 2
    held.close()
    held.close()
    for thread in threading.enumerate():
        if thread.name == "free-adapter":
            thread.join(30)
    assert len(adapters.pipeline.engine.loaded) == 1
    adapters.remove("a")
    assert adapters.pipeline.engine.loaded == []
