"""Impulse responses of rooms, for augmentation."""

from __future__ import annotations

import io
from contextlib import suppress
from functools import lru_cache

import numpy as np

from serve.audio.samples import SAMPLE_RATE, Samples
from serve.model.base_model import default_cache_dir
from serve.model.durable_write import write_whole

N_ROOMS = 512

_SIMULATION = 1
"""Increased when the simulation changes, so that rooms stored on disk are simulated again."""


def diffuse_room(reverberation_s: float, rng: np.random.Generator) -> Samples:
    """Return the impulse response of a synthetic room whose sound decays by 60 dB in `reverberation_s`.

    It has a diffuse tail and up to eight distinct reflections, as from bare walls, which blur a word with the
    one before it more than any tail.
    """
    n_response = int(reverberation_s * SAMPLE_RATE)
    decay = np.exp(-6.9 * np.arange(n_response) / n_response)  # ln(1000) = 6.9: -60 dB
    response = rng.standard_normal(n_response) * decay
    response *= rng.uniform(0.05, 0.8) / np.sqrt(np.sum(response**2))  # reverberant against direct sound
    response[: int(0.002 * SAMPLE_RATE)] = 0
    n_reflections = int(rng.integers(0, 9))
    delays_s = np.exp(rng.uniform(np.log(0.005), np.log(min(0.3, reverberation_s / 2)), n_reflections))
    np.add.at(response, (delays_s * SAMPLE_RATE).astype(int), rng.uniform(0.1, 0.6, n_reflections))
    response[0] = 1.0
    return np.asarray(response, dtype=np.float32)


@lru_cache(maxsize=N_ROOMS)
def walled_room(number: int) -> Samples:
    """Return the impulse response between two positions of a room; size, walls and distance are random.

    It is computed by the image source method (Allen and Berkley, 1979), for a reverberation time of 0.2 to
    0.6 s. `number` determines the room, so a resumed run hears the same. Responses are stored on disk: 512
    rooms take a core a minute, and a batch with three new ones would wait for them longer than it trains.
    """
    kept = default_cache_dir() / f"rooms-{N_ROOMS}-{_SIMULATION}" / f"{number}.npy"
    with suppress(OSError, ValueError, EOFError):  # not stored yet, or damaged
        return np.asarray(np.load(kept, allow_pickle=False), dtype=np.float32)
    response, content = _simulated(number), io.BytesIO()
    np.save(content, response, allow_pickle=False)
    with suppress(OSError):  # if the disk is not writable, only time is lost
        write_whole(kept, content.getvalue())
    return response


def _simulated(number: int) -> Samples:
    import pyroomacoustics

    rng = np.random.default_rng([number, N_ROOMS])
    size_m = rng.uniform([3.0, 2.5, 2.4], [8.0, 6.0, 3.4])
    speaker, microphone = rng.uniform([0.3, 0.3, 0.8], size_m - [0.3, 0.3, 0.6], (2, 3))
    absorption, max_order = pyroomacoustics.inverse_sabine(rng.uniform(0.2, 0.6), size_m)
    room = pyroomacoustics.ShoeBox(
        size_m, SAMPLE_RATE, materials=pyroomacoustics.Material(absorption), max_order=max_order
    )
    room.add_source(speaker)
    room.add_microphone(microphone)
    room.compute_rir()
    response = room.rir[0][0]
    loudest = int(np.argmax(np.abs(response)))  # cut off the delay of the direct sound
    return np.asarray(response[max(0, loudest - 16) :] / np.abs(response[loudest]), dtype=np.float32)
