"""What a configuration says of its parts: the changes to the audio, and the two halves of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BlockName = Literal["encoder", "decoder"]
BLOCKS: tuple[BlockName, ...] = ("encoder", "decoder")
"""The two halves of Whisper, which can be trained each in its own way."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Probabilities, per clip, of each change to the training audio."""

    speed: float = 0.0
    """Resampled by a factor from `speed_range`: tempo, pitch and formants move together."""
    pitch: float = 0.0
    """Pitch alone moved by up to five semitones: another intonation from the same throat."""
    formants: float = 0.0
    """Formants alone moved by up to 15 %: a longer or shorter throat at the same pitch."""
    vocoder: float = 0.0
    """Through a channel vocoder: 24 to 96 bands, filled with noise, with a monotone buzz or with the voice's
    own phases, mixed with what was said."""
    volume: float = 0.0
    """Gain of -12 to +6 dB."""
    noise: float = 0.0
    """White, pink or brown noise, at a ratio from `snr_db`."""
    babble: float = 0.0
    """Up to five other clips of the batch, speaking at once, at a ratio from `snr_db`."""
    echo: float = 0.0
    """A room of 0.2 to 0.8 s reverberation, with walls or with up to eight distinct reflections."""
    band: float = 0.0
    """An equaliser: octaves raised or lowered by up to 12 dB, often cut below 400 Hz or above 2.5 kHz."""
    telephone: float = 0.0
    """300-3,400 Hz at 8 kHz, half of them through mu-law."""
    clipping: float = 0.0
    """Overdriven: the loudest 0.1 to 10 % of the samples cut off."""
    codec: float = 0.0
    """Through a lossy codec and back: GSM at 8 kHz, Opus, MP3 or Vorbis."""
    spec_masks: float = 0.0
    """SpecAugment: one band and one stretch of the log-mel picture masked."""
    snr_db: tuple[float, float] = (8.0, 30.0)
    """Signal-to-noise ratio of added noise, drawn from this range, in dB."""
    speed_range: tuple[float, float] = (0.88, 1.12)
    """Factors of `speed`, drawn from this range: 0.8 is slow and deep, 1.25 fast and high."""

    @property
    def probabilities(self) -> dict[str, float]:
        """The keys that are probabilities, with their values."""
        return {name: value for name, value in vars(self).items() if isinstance(value, float)}


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """How the encoder, or the decoder, differs from what is said for the whole model."""

    rank: int | None = None
    """Its rank; 0 leaves the block as it is in the base model, null takes `lora_rank`."""
    alpha: int | None = None
    """Its alpha; null keeps alpha to rank as `lora_alpha` is to `lora_rank`."""
    learning_rate: float | None = None
    """Its highest learning rate; null takes `learning_rate`. Both rise and fall together."""
    targets: tuple[str, ...] | None = None
    """Its linear layers that get an adapter, by name; null takes `lora_targets`."""
    layers: tuple[int, ...] | None = None
    """Numbers of its layers that get adapters, 0 being the one next to its input; null takes all."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """What a run does with the encoder, or the decoder: nothing is left open."""

    name: BlockName
    rank: int
    """0 leaves it as it is."""
    alpha: int
    learning_rate: float
    targets: tuple[str, ...]
    layers: tuple[int, ...] | None
    """None for all."""

    @property
    def is_trained(self) -> bool:
        """Whether any of its layers gets an adapter."""
        return self.rank > 0
