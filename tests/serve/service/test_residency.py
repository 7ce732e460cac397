"""What is in memory: loaded when it is needed, least recently used out first, and every byte counted."""

import threading

import pytest

from serve.engine.ctranslate2.engine import CTranslate2Engine
from serve.engine.ctranslate2.merging import WEIGHTS, converted_model
from serve.engine.ctranslate2.variants import ADAPTED
from serve.errors import EngineError, NoMemory, RequestTimeout
from serve.model.artifact import load_artifact
from serve.options import TranscriptionOptions
from serve.pipeline import Pipeline, ServingFacts
from serve.service.adapters import Adapters
from serve.service.memory import MemoryBudget


def used(adapters, name):
    """Ask for an adapter as a request does, and let go of it."""
    with adapters.hold(name) as held:
        held.pipeline.prepare(held.pipeline.resolve(TranscriptionOptions()))


@pytest.fixture
def real(tmp_path, tiny_base_dir, tiny_artifact_dir, write_tiny_artifact):
    """A registry of CTranslate2 models, and the bytes of one with few tokens, one with all, and the base's.

    `a` and `b` are kept with the tokens of their script alone, until a request needs all.
    """
    for seed, name in ((2, "a"), (3, "b")):
        write_tiny_artifact(tmp_path / name, seed=seed, scripts=("Devanagari",))
    cache_dir = tmp_path / "cache"
    engine = CTranslate2Engine.load(tiny_base_dir, load_artifact(tiny_artifact_dir), cache_dir=cache_dir)
    few, full = (engine.adapter_bytes(load_artifact(path)) for path in (tmp_path / "a", tiny_artifact_dir))
    base = (converted_model(tiny_base_dir, None, "int8", cache_dir=cache_dir) / WEIGHTS).stat().st_size
    pipeline = Pipeline(
        engine, None, ServingFacts(adapter_name="first", language="mr"), base_dir=tiny_base_dir
    )

    def make(limit_bytes=None):
        adapters = Adapters(pipeline, roots=[tmp_path], budget=MemoryBudget(limit_bytes))
        for name in ("a", "b"):
            adapters.add(name, str(tmp_path / name))
        return adapters

    return make, few, full, base


def heard_as(adapters, name, language="mr"):
    """Prepare for a request as its pipeline does."""
    with adapters.hold(name) as held:
        held.pipeline.prepare(held.pipeline.resolve(TranscriptionOptions(adapter=name, language=language)))


def weights_bytes(adapters):
    """Return the size of all models that the engine has loaded, without the one it started with."""
    engine = adapters.pipeline.engine
    models = [variant for variant in engine.variants.loaded if variant != ADAPTED]
    return sum((engine.variants.directories[variant]() / WEIGHTS).stat().st_size for variant in models)


def loaded(adapters):
    return [each.name for each in adapters.all() if each.loaded]


def test_what_was_used_longest_ago_gives_way_and_comes_back_when_it_is_asked_for(make, sources):
    adapters = make(limit_bytes=25)
    for name, source in zip("abc", sources, strict=False):
        adapters.add(name, source, preload=False)
    used(adapters, "a")
    used(adapters, "b")
    used(adapters, "a")
    used(adapters, "c")
    assert loaded(adapters) == ["first", "a", "c"]
    used(adapters, "b")
    assert loaded(adapters) == ["first", "b", "c"]
    assert sum(each.memory_bytes for each in adapters.all()) == 20
    assert len(adapters.pipeline.engine.loaded) == 2


def test_what_is_pinned_or_held_stays_and_nobody_is_pushed_out_in_vain(make, sources):
    adapters = make(limit_bytes=25)
    adapters.add("a", sources[0], pin=True)
    adapters.add("b", sources[1])
    with adapters.hold("b"), pytest.raises(NoMemory):
        adapters.add("c", sources[2])
    adapters.add("c", sources[2])
    assert loaded(adapters) == ["first", "a", "c"]
    adapters.add("d", sources[3], pin=True)
    with pytest.raises(NoMemory):
        used(adapters, "b")
    assert loaded(adapters) == ["first", "a", "d"]


def test_an_adapter_that_the_engine_lost_is_loaded_again_and_counted_once(make, sources):
    adapters = make(limit_bytes=20)
    adapters.add("a", sources[0])
    adapters.add("b", sources[1])
    shelf = adapters.pipeline.engine.loaded
    lost = shelf.pop(0)
    used(adapters, "a")
    assert sorted(shelf) == [lost, shelf[0]]
    assert [each.memory_bytes for each in adapters.all()] == [0, 10, 10]
    adapters.remove("a")
    adapters.remove("b")
    adapters.add("c", sources[2], pin=True)
    adapters.add("d", sources[3], pin=True)  # the room of both came back


def test_a_request_waits_for_the_room_that_another_holds(make, sources):
    adapters = make(limit_bytes=10)
    adapters.add("a", sources[0])
    adapters.add("b", sources[1], preload=False)
    holding = adapters.hold("a")
    waiting = threading.Thread(target=used, args=(adapters, "b"))
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive() and loaded(adapters) == ["first", "a"]
    holding.close()
    waiting.join(30)
    assert loaded(adapters) == ["first", "b"]


def test_a_request_that_is_over_waits_no_longer(make, sources):
    adapters = make(limit_bytes=10)
    adapters.add("a", sources[0])
    adapters.add("b", sources[1], preload=False)

    def check():
        raise RequestTimeout(1.0)

    with adapters.hold("a"), adapters.hold("b", check) as held, pytest.raises(RequestTimeout):
        held.pipeline.prepare(held.pipeline.resolve(TranscriptionOptions()))


def test_an_adapter_that_many_ask_for_at_once_is_loaded_once(make, sources):
    adapters = make()
    adapters.add("a", sources[0], preload=False)
    threads = [threading.Thread(target=used, args=(adapters, "a")) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(adapters.pipeline.engine.loaded) == 1
    assert adapters.get("a").n_requests == 0


def test_what_an_adapter_needs_later_is_counted_and_takes_the_room_of_idle_ones(real):
    make, few, full, base = real
    adapters = make(limit_bytes=few + max(full, base))
    taken = adapters._residency._budget
    assert loaded(adapters) == ["first", "a", "b"] and taken.taken_bytes == weights_bytes(adapters) == 2 * few
    for _ in range(2):  # counted once
        heard_as(adapters, "a", language="hi")
        assert loaded(adapters) == ["first", "a"] and adapters.get("a").memory_bytes == few + full
        assert taken.taken_bytes == weights_bytes(adapters) == few + full
    heard_as(adapters, "b")  # all that the other had goes with it
    assert loaded(adapters) == ["first", "b"] and taken.taken_bytes == weights_bytes(adapters) == few
    heard_as(adapters, "none")
    assert loaded(adapters) == ["first", "b"] and adapters.lasting_bytes == base
    assert taken.taken_bytes == weights_bytes(adapters) == few + base
    with pytest.raises(NoMemory):  # the base stays, and beside it there is room for the small model alone
        heard_as(adapters, "b", language="hi")
    heard_as(adapters, "b")
    assert taken.taken_bytes == weights_bytes(adapters) == few + base


def test_what_others_hold_makes_no_room_and_nobody_waits_for_it(real):
    make, few, full, _ = real
    adapters = make(limit_bytes=few + full)
    with adapters.hold("b"), pytest.raises(NoMemory):
        heard_as(adapters, "a", language="hi")
    assert loaded(adapters) == ["first", "a", "b"]
    heard_as(adapters, "a", language="hi")
    assert loaded(adapters) == ["first", "a"]


def test_what_cannot_be_loaded_later_is_not_counted(real, tmp_path):
    make, few, full, _ = real
    adapters = make()
    heard_as(adapters, "a", language="hi")
    (weights,) = (
        adapters.pipeline.engine.variants.directories[variant]() / WEIGHTS
        for variant in adapters.pipeline.engine.variants.loaded
        if (variant.adapter or "").startswith("a#") and not variant.few_tokens
    )
    assert adapters._residency._budget.taken_bytes == 2 * few + full
    adapters.remove("a")
    weights.write_bytes(bytes(full))  # as long as it was, and no model: it would be built again
    adapters.add("a", str(tmp_path / "a"))
    source = next((tmp_path / "a").rglob("*.safetensors"))
    whole = source.read_bytes()
    source.write_bytes(b"")
    with pytest.raises(EngineError, match="adapter 'a' cannot be loaded"):
        heard_as(adapters, "a", language="hi")
    source.write_bytes(whole)
    assert adapters._residency._budget.taken_bytes == weights_bytes(adapters) == 2 * few
    heard_as(adapters, "a")
