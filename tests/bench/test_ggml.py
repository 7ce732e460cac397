from __future__ import annotations

import numpy as np

from bench.serving.ggml import BLOCK, quantize_q8_0


def test_a_block_holds_a_scale_and_its_levels_and_comes_back_within_half_a_level():
    weights = np.random.default_rng(0).normal(0, 0.05, (8, 4 * BLOCK)).astype(np.float32)
    packed = np.frombuffer(quantize_q8_0(weights), dtype=[("scale", "<f2"), ("levels", "i1", BLOCK)])
    assert packed.nbytes == weights.size // BLOCK * (2 + BLOCK)
    restored = (packed["scale"][:, np.newaxis].astype(np.float32) * packed["levels"]).reshape(weights.shape)
    level = np.abs(weights.reshape(-1, BLOCK)).max(axis=1).repeat(BLOCK).reshape(weights.shape) / 127
    assert np.all(np.abs(restored - weights) <= 0.6 * level)  # half a level, and the rounding of the scale


def test_a_block_of_zeros_stays_zero():
    assert not any(quantize_q8_0(np.zeros((2, BLOCK), np.float32)))
