"""Short windows through the encoder: the network that transformers has, on fewer positions."""

from __future__ import annotations

import pytest
import torch
from transformers import WhisperForConditionalGeneration

from serve.engine.transformers.encoder_context import enable_dynamic_context


@pytest.fixture
def whisper(tiny_base_dir):
    return WhisperForConditionalGeneration.from_pretrained(tiny_base_dir).eval()


def log_mel(n_frames: int) -> torch.Tensor:
    return torch.randn(2, 80, n_frames, generator=torch.Generator().manual_seed(n_frames))


def test_thirty_seconds_give_what_transformers_gives(whisper):
    with torch.inference_mode():
        reference = whisper.model.encoder(log_mel(3000)).last_hidden_state
        enable_dynamic_context(whisper)
        torch.testing.assert_close(whisper.model.encoder(log_mel(3000)).last_hidden_state, reference)


@pytest.mark.parametrize("n_frames", [2, 100, 390, 1402])
def test_shorter_windows_give_half_as_many_states(whisper, n_frames):
    enable_dynamic_context(whisper)
    with torch.inference_mode():
        states = whisper.model.encoder(log_mel(n_frames)).last_hidden_state
    assert states.shape == (2, n_frames // 2, 64) and torch.isfinite(states).all()


@pytest.mark.parametrize("n_frames", [0, 101, 3002])
def test_windows_that_the_positions_do_not_cover_are_refused(whisper, n_frames):
    enable_dynamic_context(whisper)
    with pytest.raises(ValueError, match=f"even number of frames up to 3000, not {n_frames}"):
        whisper.model.encoder(log_mel(n_frames))


def test_names_and_weights_stay_as_they_are(whisper):
    before = {name: tensor.clone() for name, tensor in whisper.state_dict().items()}
    enable_dynamic_context(whisper)
    after = whisper.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
