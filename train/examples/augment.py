"""Augment training audio as rooms, telephones and speakers would. Labels stay as they are."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import scipy.fft
import soundfile
import torch
import torchaudio.functional as F
from scipy.signal import firwin2, oaconvolve

from serve.audio.features import LogMel
from serve.audio.samples import SAMPLE_RATE, Samples
from train.config import AugmentConfig
from train.examples.rooms import N_ROOMS, diffuse_room, walled_room
from train.examples.timbre import EXCITATIONS, change_speed, change_voice, vocode

_FACTOR_STEP = 0.04
"""Step of speeds and pitches: resampling by 24 : 25 is cheap, by 239 : 250 is not."""
_PITCHES = (0.76, 1.32)  # five semitones down and up
_FORMANTS = (0.86, 1.16)
_VOCODER_BANDS = (24, 97)
_MOST_SPEAKERS = 5
_KEPT_SPEAKERS = 8
_N_TAPS = 255  # 16 ms: fine enough to cut off at 100 Hz
_TELEPHONE_RATE = 8_000  # Hz
CODECS = {  # name: libsndfile's container, coding and sample rate in Hz
    "gsm": ("WAV", "GSM610", 8_000),
    "opus": ("OGG", "OPUS", SAMPLE_RATE),
    "mp3": ("MP3", "MPEG_LAYER_III", SAMPLE_RATE),
    "vorbis": ("OGG", "VORBIS", SAMPLE_RATE),
}


class Augmenter:
    """Applies each change with its own probability, in the order in which they happen in the world."""

    def __init__(self, config: AugmentConfig, rng: np.random.Generator) -> None:
        self.config = config
        self.rng = rng
        self._speakers: list[Samples] = []  # recent clips, used as background voices for later ones

    def waveform(self, samples: Samples) -> tuple[Samples, float]:
        """Change speaker, room, noise and channel of samples (n_samples,) at random; also return the tempo.

        With a tempo of 1.1, what was spoken at 1.1 s is now spoken at 1 s.
        """
        clean = samples
        samples, tempo = self._speaker(samples)
        samples = self._surroundings(samples)
        samples = self._channel(samples)
        if self.config.babble:
            self._speakers = [*self._speakers[1 - _KEPT_SPEAKERS :], clean]
        return np.clip(samples, -1, 1).astype(np.float32), tempo

    def _speaker(self, samples: Samples) -> tuple[Samples, float]:
        """Return the samples as another speaker or a vocoder would say them, and the tempo."""
        config, tempo, pitch, formants = self.config, 1.0, 1.0, 1.0
        if self._happens(config.speed):
            tempo = self._factor(*config.speed_range)
            samples = change_speed(samples, tempo)
        if self._happens(config.pitch):
            pitch = self._factor(*_PITCHES)
        if self._happens(config.formants):
            formants = self._factor(*_FORMANTS)
        if (pitch, formants) != (1, 1):
            samples = change_voice(samples, pitch, formants)
        if self._happens(config.vocoder):
            n_bands = int(self.rng.integers(*_VOCODER_BANDS))
            excitation = EXCITATIONS[self.rng.integers(len(EXCITATIONS))]
            samples = vocode(samples, n_bands, excitation, self.rng.uniform(0.4, 1), self.rng)
        return samples, tempo

    def _surroundings(self, samples: Samples) -> Samples:
        """Return the samples with a room, other voices and noise."""
        config = self.config
        if self._happens(config.echo):
            samples = reverberate(samples, self._room_response())
        if self._happens(config.babble) and self._speakers:
            samples = add_noise(samples, self._babble(len(samples)), self.rng.uniform(*config.snr_db))
        if self._happens(config.noise):
            noise = coloured_noise(len(samples), float(self.rng.choice([0.0, 0.5, 1.0])), self.rng)
            samples = add_noise(samples, noise, self.rng.uniform(*config.snr_db))
        return samples

    def _channel(self, samples: Samples) -> Samples:
        """Return the samples as a microphone and a line would transmit them."""
        config = self.config
        if self._happens(config.band):
            samples = equalise(samples, *self._gains())
        if self._happens(config.clipping):
            samples = overdrive(samples, float(10 ** self.rng.uniform(-3, -1)))
        if self._happens(config.telephone):
            samples = telephone_band(samples, mu_law=self.rng.random() < 0.5)
        if self._happens(config.codec):
            samples = lossy_codec(samples, str(self.rng.choice(list(CODECS))))
        if self._happens(config.volume):
            samples = samples * float(10 ** (self.rng.uniform(-12, 6) / 20))
        return samples

    def log_mel(self, log_mel: LogMel, speech_frames: int) -> LogMel:
        """Mask a frequency band and a stretch of speech of log_mel (n_mels, n_frames), at random."""
        if not self._happens(self.config.spec_masks):
            return log_mel
        masked = log_mel.copy()
        floor = masked.min()
        band = int(self.rng.integers(0, 12))
        low = int(self.rng.integers(0, masked.shape[0] - band))
        masked[low : low + band] = floor
        longest = max(1, min(20, speech_frames // 12))  # under 0.2 s, so that no word vanishes
        stretch = int(self.rng.integers(0, longest))
        start = int(self.rng.integers(0, max(1, speech_frames - stretch)))
        masked[:, start : start + stretch] = floor
        return masked

    def _happens(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def _room_response(self) -> Samples:
        """Return the impulse response of a stored room with walls, or of a new diffuse room."""
        if self.rng.random() < 0.5:
            return walled_room(int(self.rng.integers(N_ROOMS)))
        return diffuse_room(self.rng.uniform(0.2, 0.8), self.rng)

    def _babble(self, n_samples: int) -> Samples:
        """Return several recent clips mixed, each from a random offset."""
        count = int(self.rng.integers(1, _MOST_SPEAKERS + 1))
        voices = [
            np.roll(np.resize(self._speakers[number], n_samples), int(self.rng.integers(n_samples)))
            for number in self.rng.permutation(len(self._speakers))[:count]
        ]
        return np.asarray(np.sum(voices, axis=0), dtype=np.float32)

    def _factor(self, low: float, high: float) -> float:
        return float(round(self.rng.uniform(low, high) / _FACTOR_STEP) * _FACTOR_STEP)

    def _gains(self) -> tuple[list[float], list[float]]:
        """Draw octave frequencies in Hz and gains in dB: an uneven microphone, often band-limited."""
        octaves = [62.5 * 2**number for number in range(8)]  # to 8 kHz
        gains = np.cumsum(self.rng.uniform(-4, 4, len(octaves)))
        gains = np.clip(gains - gains.mean(), -12, 12)
        points = dict(zip(octaves, gains.tolist(), strict=True))
        if self.rng.random() < 0.5:
            edge_hz = float(np.exp(self.rng.uniform(np.log(2_500), np.log(7_000))))
            points = {hz: gain for hz, gain in points.items() if hz < edge_hz}
            points |= {edge_hz: gains[5], min(edge_hz * 1.15, 7_999.0): -50.0, 8_000.0: -50.0}
        if self.rng.random() < 0.5:
            edge_hz = float(np.exp(self.rng.uniform(np.log(50), np.log(400))))
            points = {hz: gain for hz, gain in points.items() if hz > edge_hz}
            points |= {0.0: -50.0, edge_hz * 0.6: -50.0, edge_hz: gains[2]}
        ascending = sorted(points)
        return ascending, [float(points[hz]) for hz in ascending]


def equalise(samples: Samples, frequencies_hz: Sequence[float], gains_db: Sequence[float]) -> Samples:
    """Apply gains at ascending frequencies, interpolated linearly between them."""
    inside = [(hz, db) for hz, db in zip(frequencies_hz, gains_db, strict=True) if 0 < hz < SAMPLE_RATE / 2]
    hz, db = zip((0.0, gains_db[0]), *inside, (SAMPLE_RATE / 2, gains_db[-1]), strict=True)
    response = firwin2(_N_TAPS, hz, 10 ** (np.array(db) / 20), fs=SAMPLE_RATE)
    return np.asarray(oaconvolve(samples, response, mode="same"), dtype=np.float32)


def overdrive(samples: Samples, share: float) -> Samples:
    """Clip the loudest share of the samples, and restore the peak level."""
    loudest = np.abs(samples).max()
    limit = float(np.quantile(np.abs(samples), 1 - share))
    return samples if limit <= 0 else np.clip(samples, -limit, limit) * (loudest / limit)


def reverberate(samples: Samples, response: Samples) -> Samples:
    """Convolve with a room's response at unchanged peak level; keep half of the tail after the end."""
    wet = oaconvolve(samples, response)
    wet = wet[: len(samples) + len(response) // 2]
    return np.asarray(wet * (np.abs(samples).max() / max(1e-6, np.abs(wet).max())), dtype=np.float32)


def add_noise(samples: Samples, noise: Samples, snr_db: float) -> Samples:
    """Add noise of the same length at a signal-to-noise ratio in dB."""
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
    """Pass samples through a telephone line: 8 kHz, 300 to 3,400 Hz, optionally in mu-law."""
    narrow = F.resample(torch.from_numpy(samples), SAMPLE_RATE, _TELEPHONE_RATE)
    narrow = F.lowpass_biquad(F.highpass_biquad(narrow, _TELEPHONE_RATE, 300.0), _TELEPHONE_RATE, 3_400.0)
    if mu_law:
        narrow = F.mu_law_decoding(F.mu_law_encoding(narrow.clamp(-1, 1), 256), 256)
    return np.asarray(F.resample(narrow, _TELEPHONE_RATE, SAMPLE_RATE).numpy(), dtype=np.float32)


def lossy_codec(samples: Samples, codec: str) -> Samples:
    """Encode samples by one of `CODECS` at its lowest quality, and decode them again."""
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
