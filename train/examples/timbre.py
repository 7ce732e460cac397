"""Change a clip's voice and how it was produced: pitch, formants, vocoder. Words and tempo stay.

Synthetic voices are few, and each always sounds the same. These changes make many voices of one.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import torchaudio.functional as F

from serve.audio.samples import SAMPLE_RATE, Samples

Excitation = Literal["noise", "buzz", "own"]
EXCITATIONS: tuple[Excitation, ...] = ("noise", "buzz", "own")
"""What fills a vocoder's bands: noise as in whispering, pulses of one pitch, or the voice's own phases."""

_N_FFT = 512
_HOP = 128
_N_CEPSTRUM = 32  # samples, 2 ms: below lies the spectral envelope, above the pitch
_FLOOR = 1e-5


def change_speed(samples: Samples, factor: float) -> Samples:
    """Play samples `factor` times as fast; pitch and formants move with the tempo."""
    faster, _ = F.speed(torch.from_numpy(samples), SAMPLE_RATE, factor)
    return np.asarray(faster.numpy(), dtype=np.float32)


def change_voice(samples: Samples, pitch: float, formants: float) -> Samples:
    """Multiply pitch and formants of samples (n_samples,), each by its own factor.

    Resampling and a phase vocoder (Laroche and Dolson, 1999) move the pitch, and the formants with it. The
    formants are then corrected by the ratio of two smoothed spectra.
    """
    changed = samples
    if pitch != 1:
        moved = _spectrum(change_speed(samples, pitch))
        advance = torch.linspace(0, math.pi * _HOP, _N_FFT // 2 + 1)[:, None]
        changed = _sound(F.phase_vocoder(moved, 1 / pitch, advance), len(samples))
    if formants != pitch:
        changed = _move_envelope(changed, formants / pitch)
    return changed


def vocode(
    samples: Samples, n_bands: int, excitation: Excitation, mix: float, rng: np.random.Generator
) -> Samples:
    """Pass samples through a channel vocoder of `n_bands` mel bands, at unchanged loudness.

    Args:
        samples: (n_samples,).
        n_bands: Few bands sound like a robot, many like a telephone.
        excitation: What fills the bands.
        mix: Share of the vocoder in the result; the rest is the original.
        rng: Draws noise and pitch.
    """
    spectrum = _spectrum(samples)
    bands = _mel_bands(n_bands)  # (n_frequencies, n_bands)
    level = (spectrum.abs().square().T @ bands / bands.sum(0).clamp(min=_FLOOR)).clamp(min=0)
    shape = (level @ bands.T / bands.sum(1).clamp(min=_FLOOR)).sqrt().T  # (n_frequencies, n_frames)
    source = spectrum if excitation == "own" else _spectrum(_excite(len(samples), excitation, rng))
    spoken = _sound(shape * source / source.abs().clamp(min=_FLOOR), len(samples))
    spoken *= np.sqrt(np.mean(samples**2) / max(_FLOOR**2, float(np.mean(spoken**2))))
    return np.asarray((1 - mix) * samples + mix * spoken, dtype=np.float32)


def _move_envelope(samples: Samples, factor: float) -> Samples:
    """Stretch the spectral envelope along the frequency axis by a factor."""
    spectrum = _spectrum(samples)
    log_magnitude = spectrum.abs().clamp(min=_FLOOR).log()
    cepstrum = torch.fft.irfft(log_magnitude, n=_N_FFT, dim=0)
    cepstrum[_N_CEPSTRUM : _N_FFT - _N_CEPSTRUM + 1] = 0
    envelope = torch.fft.rfft(cepstrum, dim=0).real  # (n_frequencies, n_frames)
    places = (torch.arange(len(envelope)) / factor).clamp(max=len(envelope) - 1)
    low = places.floor().long()
    high = (low + 1).clamp(max=len(envelope) - 1)
    moved = torch.lerp(envelope[low], envelope[high], (places - low)[:, None])
    change = (moved - envelope).clamp(-3, 3)  # 26 dB: larger changes only affect gaps between harmonics
    return _sound(spectrum * change.exp(), len(samples))


def _excite(n_samples: int, excitation: Excitation, rng: np.random.Generator) -> Samples:
    if excitation == "noise":
        return rng.standard_normal(n_samples, dtype=np.float32)
    pulses = np.zeros(n_samples, np.float32)
    pulses[:: int(SAMPLE_RATE / rng.uniform(80, 300))] = 1.0
    return pulses


@lru_cache
def _mel_bands(n_bands: int) -> torch.Tensor:
    bands: torch.Tensor = F.melscale_fbanks(_N_FFT // 2 + 1, 20.0, SAMPLE_RATE / 2, n_bands, SAMPLE_RATE)
    return bands


@lru_cache
def _window() -> torch.Tensor:
    return torch.hann_window(_N_FFT)


def _spectrum(samples: Samples) -> torch.Tensor:
    """Return the short-time spectrum, (n_frequencies, n_frames)."""
    filled = torch.from_numpy(np.pad(samples, (0, max(0, _N_FFT - len(samples)))))
    return torch.stft(filled, _N_FFT, _HOP, window=_window(), return_complex=True)


def _sound(spectrum: torch.Tensor, n_samples: int) -> Samples:
    samples = torch.istft(spectrum, _N_FFT, _HOP, window=_window())[:n_samples].numpy()
    return np.asarray(np.pad(samples, (0, n_samples - len(samples))), dtype=np.float32)
