"""Change training audio the way rooms, telephones and speakers do. Labels stay as they are."""

from __future__ import annotations

import io

import numpy as np
import scipy.fft
import soundfile
import torch
import torchaudio.functional as F
from scipy.signal import oaconvolve

from serve.audio.features import LogMel
from serve.audio.samples import SAMPLE_RATE, Samples
from train.config import AugmentConfig
from train.examples.rooms import N_ROOMS, diffuse_room, walled_room

_SPEEDS = (0.88, 0.92, 0.96, 1.04, 1.08, 1.12)
_TELEPHONE_RATE = 8_000  # Hz
CODECS = {  # name: libsndfile's container, coding and sample rate in Hz
    "gsm": ("WAV", "GSM610", 8_000),
    "opus": ("OGG", "OPUS", SAMPLE_RATE),
    "mp3": ("MP3", "MPEG_LAYER_III", SAMPLE_RATE),
    "vorbis": ("OGG", "VORBIS", SAMPLE_RATE),
}


class Augmenter:
    """Applies each change with its own probability, in the order in which the world applies them."""

    def __init__(self, config: AugmentConfig, rng: np.random.Generator) -> None:
        self.config = config
        self.rng = rng
        self._babble: Samples = np.zeros(0, np.float32)

    def waveform(self, samples: Samples) -> tuple[Samples, float]:
        """Return samples (n_samples,) with speaker, room, noise and channel changed at random, and the tempo.

        A tempo of 1.1 means that what was said at 1.1 s is now said at 1 s.
        """
        config = self.config
        clean = samples
        tempo = 1.0
        if self._happens(config.speed):
            tempo = float(self.rng.choice(_SPEEDS))
            samples = change_speed(samples, tempo)
        if self._happens(config.echo):
            samples = reverberate(samples, self._room_response())
        if self._happens(config.noise):
            samples = add_noise(samples, self._noise(len(samples)), self.rng.uniform(*config.snr_db))
        if self._happens(config.telephone):
            samples = telephone_band(samples, mu_law=self.rng.random() < 0.5)
        if self._happens(config.codec):
            samples = lossy_codec(samples, str(self.rng.choice(list(CODECS))))
        if self._happens(config.volume):
            samples = samples * float(10 ** (self.rng.uniform(-12, 6) / 20))
        if config.noise:
            self._babble = clean
        return np.clip(samples, -1, 1).astype(np.float32), tempo

    def log_mel(self, log_mel: LogMel, speech_frames: int) -> LogMel:
        """Return log_mel (n_mels, n_frames) with a band and a stretch of the speech masked, at random."""
        if not self._happens(self.config.spec_masks):
            return log_mel
        masked = log_mel.copy()
        floor = masked.min()
        band = int(self.rng.integers(0, 12))
        low = int(self.rng.integers(0, masked.shape[0] - band))
        masked[low : low + band] = floor
        longest = max(1, min(20, speech_frames // 12))  # under 0.2 s: no word vanishes
        stretch = int(self.rng.integers(0, longest))
        start = int(self.rng.integers(0, max(1, speech_frames - stretch)))
        masked[:, start : start + stretch] = floor
        return masked

    def _happens(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def _room_response(self) -> Samples:
        """Return the answer of one of `N_ROOMS` rooms with walls, or of a room drawn at random."""
        if self.rng.random() < 0.5:
            return walled_room(int(self.rng.integers(N_ROOMS)))
        return diffuse_room(self.rng.uniform(0.2, 0.8), self.rng)

    def _noise(self, n_samples: int) -> Samples:
        """Return noise of a random colour, or other speakers: the last clips, overlaid."""
        if len(self._babble) and self.rng.random() < 0.2:
            voices = [
                np.roll(np.resize(self._babble, n_samples), int(self.rng.integers(n_samples)))
                for _ in range(3)
            ]
            return np.asarray(np.sum(voices, axis=0), dtype=np.float32)
        return coloured_noise(n_samples, float(self.rng.choice([0.0, 0.5, 1.0])), self.rng)


def change_speed(samples: Samples, factor: float) -> Samples:
    """Return the samples played `factor` times as fast; pitch and formants move with the tempo."""
    faster, _ = F.speed(torch.from_numpy(samples), SAMPLE_RATE, factor)
    return np.asarray(faster.numpy(), dtype=np.float32)


def reverberate(samples: Samples, response: Samples) -> Samples:
    """Return the samples as heard in a room, as loud as before, with half of its tail after the last word."""
    wet = oaconvolve(samples, response)
    wet = wet[: len(samples) + len(response) // 2]
    return np.asarray(wet * (np.abs(samples).max() / max(1e-6, np.abs(wet).max())), dtype=np.float32)


def add_noise(samples: Samples, noise: Samples, snr_db: float) -> Samples:
    """Return the samples with noise of the same length at a signal-to-noise ratio."""
    noisy = F.add_noise(torch.from_numpy(samples), torch.from_numpy(noise), torch.tensor(snr_db))
    return np.asarray(noisy.numpy(), dtype=np.float32)


def coloured_noise(n_samples: int, slope: float, rng: np.random.Generator) -> Samples:
    """Return noise whose amplitude falls as frequency ** -slope: 0 white, 0.5 pink, 1 brown."""
    n_drawn = scipy.fft.next_fast_len(n_samples, real=True)
    spectrum = scipy.fft.rfft(rng.standard_normal(n_drawn, dtype=np.float32))
    frequencies = np.maximum(scipy.fft.rfftfreq(n_drawn), 1 / max(2, n_drawn))
    noise = scipy.fft.irfft(spectrum * frequencies**-slope, n_drawn)[:n_samples]
    return np.asarray(noise / max(1e-6, np.abs(noise).max()), dtype=np.float32)


def telephone_band(samples: Samples, *, mu_law: bool) -> Samples:
    """Return the samples as a telephone line carries them: 8 kHz, 300 to 3,400 Hz, with mu-law on request."""
    narrow = F.resample(torch.from_numpy(samples), SAMPLE_RATE, _TELEPHONE_RATE)
    narrow = F.lowpass_biquad(F.highpass_biquad(narrow, _TELEPHONE_RATE, 300.0), _TELEPHONE_RATE, 3_400.0)
    if mu_law:
        narrow = F.mu_law_decoding(F.mu_law_encoding(narrow.clamp(-1, 1), 256), 256)
    return np.asarray(F.resample(narrow, _TELEPHONE_RATE, SAMPLE_RATE).numpy(), dtype=np.float32)


def lossy_codec(samples: Samples, codec: str) -> Samples:
    """Return the samples coded and decoded again by one of `CODECS`, as small as libsndfile makes it."""
    container, coding, sample_rate = CODECS[codec]
    if sample_rate != SAMPLE_RATE:
        samples = F.resample(torch.from_numpy(samples), SAMPLE_RATE, sample_rate).numpy()
    coded = io.BytesIO()
    smallest = {} if container == "WAV" else {"compression_level": 0.95}  # libsndfile refuses 1 for MP3
    soundfile.write(coded, np.clip(samples, -1, 1), sample_rate, format=container, subtype=coding, **smallest)
    coded.seek(0)
    heard, _ = soundfile.read(coded, dtype="float32")
    if sample_rate != SAMPLE_RATE:
        heard = F.resample(torch.from_numpy(heard), sample_rate, SAMPLE_RATE).numpy()
    return np.asarray(heard, dtype=np.float32)
