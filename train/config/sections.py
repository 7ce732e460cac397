"""Sections of a configuration: audio augmentation, and the two blocks of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BlockName = Literal["encoder", "decoder"]
BLOCKS: tuple[BlockName, ...] = ("encoder", "decoder")
"""The two blocks of Whisper, which can be trained differently."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Probability, per clip, of each change to the training audio."""

    speed: float = 0.0
    """Resample by a factor from `speed_range`: tempo, pitch and formants move together."""
    pitch: float = 0.0
    """Move the pitch alone, by up to five semitones: another intonation in the same voice."""
    formants: float = 0.0
    """Move the formants alone, by up to 15 %: a longer or shorter vocal tract at the same pitch."""
    vocoder: float = 0.0
    """Pass through a channel vocoder of 24 to 96 bands, filled with noise, a monotone buzz or the voice's own
    phases, and mix with the original."""
    volume: float = 0.0
    """Change the level by -12 to +6 dB."""
    noise: float = 0.0
    """Add white, pink or brown noise, at a ratio from `snr_db`."""
    babble: float = 0.0
    """Add up to five recent clips at once as background voices, at a ratio from `snr_db`."""
    echo: float = 0.0
    """Add a room of 0.2 to 0.8 s reverberation, with walls or with up to eight distinct reflections."""
    band: float = 0.0
    """Equalise: raise or lower octaves by up to 12 dB, often cutting below 400 Hz or above 2.5 kHz."""
    telephone: float = 0.0
    """Limit to a telephone's 300-3,400 Hz at 8 kHz, in half of the cases with mu-law."""
    clipping: float = 0.0
    """Overdrive: clip the loudest 0.1 to 10 % of the samples."""
    codec: float = 0.0
    """Encode and decode with a lossy codec: GSM at 8 kHz, Opus, MP3 or Vorbis."""
    spec_masks: float = 0.0
    """SpecAugment: mask one frequency band and one stretch of time of the log-mel spectrogram."""
    snr_db: tuple[float, float] = (8.0, 30.0)
    """Range of the signal-to-noise ratio of added noise, in dB."""
    speed_range: tuple[float, float] = (0.88, 1.12)
    """Range of the factors of `speed`: 0.8 is slow and deep, 1.25 fast and high."""

    @property
    def probabilities(self) -> dict[str, float]:
        """The probabilities, by key."""
        return {name: value for name, value in vars(self).items() if isinstance(value, float)}


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """How the encoder or the decoder differs from the settings for the whole model."""

    rank: int | None = None
    """Rank; 0 leaves the block as it is in the base model, null takes `lora_rank`."""
    alpha: int | None = None
    """Alpha; null keeps the ratio of `lora_alpha` to `lora_rank`."""
    learning_rate: float | None = None
    """Peak learning rate; null takes `learning_rate`. Both follow the same schedule."""
    targets: tuple[str, ...] | None = None
    """Names of the linear layers to adapt; null takes `lora_targets`."""
    layers: tuple[int, ...] | None = None
    """Numbers of the layers to adapt, 0 being next to the input; null takes all."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """What a run does with the encoder or the decoder, with all defaults resolved."""

    name: BlockName
    rank: int
    """0 leaves the block as it is in the base model."""
    alpha: int
    """Scale of the adapter: alpha / rank."""
    learning_rate: float
    """Peak learning rate."""
    targets: tuple[str, ...]
    layers: tuple[int, ...] | None
    """None for all."""

    @property
    def is_trained(self) -> bool:
        """Whether any layer is adapted."""
        return self.rank > 0
