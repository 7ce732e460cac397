"""Turn planned examples into tensors: audio -> augmented windows -> log_mel, text -> labels.

Features come from `serve.features`: training sees exactly what the server will compute.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import WhisperTokenizer

from serve.features import MAX_WINDOW_S, SAMPLE_RATE, FeatureExtractor, Samples, window_length_s
from train.augment import Augmenter, coloured_noise
from train.batches import JOIN_PAUSE_S, ExamplePlan
from train.config import TrainConfig
from train.data.manifest import Clip, load_samples

LEAD_IN_S = (0.0, 0.4)
"""Silence before the speech: the server's windows begin a little before the first word."""
IGNORED = -100
"""Label of positions that carry no loss."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Tensors of one training batch."""

    log_mel: torch.Tensor
    """(batch, n_mels, n_frames) float32."""
    decoder_input_ids: torch.Tensor
    """(batch, n_tokens) int64, exactly one start token each."""
    labels: torch.Tensor
    """(batch, n_tokens) int64, `IGNORED` where there is no loss."""
    audio_s: float
    """Seconds of audio before padding."""


class Collator:
    """Builds batches from clips. `augmented` is False for validation: no change, constant margin."""

    def __init__(
        self,
        clips: Sequence[Clip],
        config: TrainConfig,
        features: FeatureExtractor,
        tokenizer: WhisperTokenizer,
        *,
        augmented: bool,
    ) -> None:
        self.clips = clips
        self.config = config
        self.features = features
        self.tokenizer = tokenizer
        self.augmented = augmented

    def collate(self, batch: Sequence[ExamplePlan], key: Sequence[int]) -> Batch:
        """Return the tensors of a batch; the same `key` gives the same random choices.

        Raises:
            DataError: a clip cannot be decoded.
        """
        rng = np.random.default_rng([self.config.seed, *key])
        augmenter = Augmenter(self.config.augment, rng)
        waves = [self._wave(example, augmenter, rng) for example in batch]
        window_s = self._window_s(max(map(len, waves)), rng)
        log_mels = []
        for wave in waves:
            wave = wave[: round(window_s * SAMPLE_RATE)]
            log_mel = self.features.log_mel(wave, window_s)
            speech_frames = log_mel.shape[1] * len(wave) // round(window_s * SAMPLE_RATE)
            log_mels.append(augmenter.log_mel(log_mel, speech_frames) if self.augmented else log_mel)
        targets = [self._target(example) for example in batch]
        decoder_input_ids, labels = stack_targets(targets, self._n_prompt, self.tokenizer.pad_token_id)
        return Batch(
            log_mel=torch.from_numpy(np.stack(log_mels)),
            decoder_input_ids=decoder_input_ids,
            labels=labels,
            audio_s=sum(map(len, waves)) / SAMPLE_RATE,
        )

    def _wave(self, example: ExamplePlan, augmenter: Augmenter, rng: np.random.Generator) -> Samples:
        if not example.clips:
            return no_speech(round(example.duration_s * SAMPLE_RATE), rng)
        pause_s = rng.uniform(*LEAD_IN_S) if self.augmented else 0.0
        pieces: list[Samples] = []
        for index in example.clips:
            pieces += [np.zeros(round(pause_s * SAMPLE_RATE), np.float32), load_samples(self.clips[index])]
            pause_s = rng.uniform(*JOIN_PAUSE_S)
        samples = np.concatenate(pieces)
        if not self.augmented:
            return samples
        changed = augmenter.waveform(samples)
        # Slowed down beyond the longest window, the speech would be cut and its text would not.
        return changed if len(changed) <= MAX_WINDOW_S * SAMPLE_RATE else samples

    def _window_s(self, n_samples: int, rng: np.random.Generator) -> float:
        if self.config.encoder_context == "fixed":
            return MAX_WINDOW_S
        margin_s = rng.uniform(*self.config.window_margin_s) if self.augmented else 1.0
        return window_length_s(n_samples, margin_s)

    @property
    def _prompt(self) -> list[int]:
        names = (
            "<|startoftranscript|>",
            f"<|{self.config.language}|>",
            f"<|{self.config.task}|>",
            "<|notimestamps|>",
        )
        return typing.cast(list[int], self.tokenizer.convert_tokens_to_ids(list(names)))

    @property
    def _n_prompt(self) -> int:
        return len(self._prompt)

    def _target(self, example: ExamplePlan) -> list[int]:
        text = " ".join(self.clips[index].text for index in example.clips)
        tokens: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        n_room = 448 - self._n_prompt - 1
        return [*self._prompt, *tokens[:n_room], self.tokenizer.eos_token_id]


def stack_targets(
    targets: Sequence[Sequence[int]], n_prompt: int, pad_id: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (decoder_input_ids, labels), each (batch, n_tokens), of sequences with prompt and end token.

    Inputs are the sequences without their last token, labels without their first: one start token, no shift
    by the model. The prompt carries no loss. The end token does, although it is also the padding.
    """
    n_tokens = max(map(len, targets)) - 1
    inputs = torch.full((len(targets), n_tokens), pad_id)
    labels = torch.full((len(targets), n_tokens), IGNORED)
    for row, target in enumerate(targets):
        inputs[row, : len(target) - 1] = torch.tensor(target[:-1])
        labels[row, n_prompt - 1 : len(target) - 1] = torch.tensor(target[n_prompt:])
    return inputs, labels


def no_speech(n_samples: int, rng: np.random.Generator) -> Samples:
    """Return silence, noise, a hum, a chord or a melody: audio whose transcript is empty."""
    level = float(10 ** rng.uniform(-3.5, -0.7))
    kind = rng.choice(["silence", "noise", "hum", "chord", "melody"])
    if kind == "silence":
        return np.zeros(n_samples, np.float32)
    if kind == "noise":
        return coloured_noise(n_samples, float(rng.choice([0.0, 0.5, 1.0])), rng) * level
    if kind == "melody":
        return melody(n_samples, rng) * level
    time_s = np.arange(n_samples) / SAMPLE_RATE
    if kind == "hum":
        tones = [float(rng.choice([50.0, 60.0, 400.0, 440.0, 1000.0]))]
    else:
        tones = list(110 * 2 ** (rng.integers(0, 36, size=3) / 12))
    wave = np.sum([np.sin(2 * np.pi * tone_hz * time_s) for tone_hz in tones], axis=0)
    beat = 1 + 0.8 * np.sin(2 * np.pi * rng.uniform(0.2, 3) * time_s)
    return np.asarray(wave * beat / np.abs(wave * beat).max() * level, dtype=np.float32)


def melody(n_samples: int, rng: np.random.Generator) -> Samples:
    """Return plucked notes of one to three voices over a drum, at a steady beat, with peaks at 1."""
    wave = np.zeros(n_samples)
    beat_samples = int(rng.uniform(0.15, 0.6) * SAMPLE_RATE)
    scale = 55 * 2 ** (np.add.outer(12 * np.arange(4), [0, 2, 4, 5, 7, 9, 11]).ravel() / 12)  # Hz, A major
    n_harmonics, n_voices, decay_s = int(rng.integers(1, 8)), int(rng.integers(1, 4)), rng.uniform(0.1, 1.5)
    drum = float(rng.choice([0.0, 0.3, 1.0]))
    for start in range(0, n_samples, beat_samples):
        n_note = min(n_samples - start, 3 * beat_samples)
        time_s = np.arange(n_note) / SAMPLE_RATE
        envelope = np.exp(-time_s / decay_s) * np.minimum(1, time_s / 0.01)
        for note_hz in rng.choice(scale, n_voices):
            for harmonic in range(1, n_harmonics + 1):
                tone = np.sin(2 * np.pi * note_hz * harmonic * time_s) / harmonic
                wave[start : start + n_note] += tone * envelope
        if rng.random() < 0.5:
            wave[start : start + n_note] += drum * rng.standard_normal(n_note) * np.exp(-time_s / 0.04)
    return np.asarray(wave / max(1e-6, np.abs(wave).max()), dtype=np.float32)
