"""Simulated rooms, and that each is simulated once."""

from functools import cache

import numpy as np
import pytest

from train.examples import rooms
from train.examples.rooms import walled_room

simulated = cache(rooms._simulated)  # takes a second or two


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch):
    """A cache of its own on disk, and none in memory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(rooms, "_simulated", simulated)
    walled_room.cache_clear()
    yield tmp_path / "shrota" / f"rooms-{rooms.N_ROOMS}-{rooms._SIMULATION}"
    walled_room.cache_clear()


def test_a_walled_room_is_the_same_for_its_number_and_opens_with_the_direct_sound():
    response = walled_room(3)
    walled_room.cache_clear()
    assert np.array_equal(response, walled_room(3))
    assert not np.array_equal(response[:100], walled_room(4)[:100])
    assert np.argmax(np.abs(response)) <= 16
    assert np.square(response[-2_000:]).mean() < 1e-3 * np.square(response[:2_000]).mean()


def test_a_room_is_simulated_once_and_then_read_from_disk(cache_dir, monkeypatch):
    response = walled_room(3)
    assert [file.name for file in cache_dir.iterdir()] == ["3.npy"]
    walled_room.cache_clear()
    monkeypatch.setattr(rooms, "_simulated", lambda number: pytest.fail("simulated again"))
    assert np.array_equal(walled_room(3), response)


@pytest.mark.parametrize("content", [b"", b"no array", np.array([None]).dumps()])
def test_a_broken_file_is_replaced(cache_dir, content):
    response = walled_room(3)
    walled_room.cache_clear()
    (cache_dir / "3.npy").write_bytes(content)
    assert np.array_equal(walled_room(3), response)
    assert np.array_equal(np.load(cache_dir / "3.npy"), response)


def test_a_disk_that_refuses_costs_only_time(cache_dir):
    cache_dir.parent.write_text("no directory")
    assert len(walled_room(3)) > 100
