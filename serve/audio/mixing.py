"""Mix channels into one so that speech stays audible: weighted by layout, without cancellation.

In surround sound, speech comes from the centre, and the subwoofer holds none. In a pair with one inverted
channel (a miswired plug), a plain average is silence. Where a mix holds far less energy than its channels,
the channels that cancel the others are inverted. Inversion is inaudible to ears and models, so it may happen
inside a word. Blocks of any size give the same mix as the whole recording. Knows no container.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from serve.audio.recording import MixReport, Recording, SoundReport
from serve.audio.samples import SAMPLE_RATE, Samples
from serve.errors import UnsupportedOption

MAX_CHANNELS = 4
"""Channels that are told apart: those of telephone switches and conference recorders."""

HOP_S = 0.1  # each hop of the mix is checked before it is returned
FADE_S = 0.005  # cross-fade while a channel is inverted
CANCELLED_SHARE = 0.1  # of the energy of uncorrelated channels: below it they cancel each other
QUIETEST = 1e-9  # mean square below which sound is not checked: -90 dB

# Speakers of WAVEFORMATEXTENSIBLE by bit of the mask, as in ffmpeg.
SPEAKERS = (
    *("FL", "FR", "FC", "LFE", "BL", "BR", "FLC", "FRC", "BC", "SL", "SR"),
    *("TC", "TFL", "TFC", "TFR", "TBL", "TBC", "TBR"),
)
FRONT = frozenset({"FL", "FR", "FLC", "FRC"})
STEREO = 0x003
LAYOUT_NAMES = {
    STEREO: "stereo",
    0x00B: "2.1",
    0x007: "3.0",
    0x033: "quad",
    0x603: "quad",
    0x107: "4.0",
    0x037: "5.0",
    0x607: "5.0",
    0x03F: "5.1",
    0x60F: "5.1",
    0x13F: "6.1",
    0x70F: "6.1",
    0x63F: "7.1",
    0x0FF: "7.1",
}

Weights = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Layout:
    """The speaker positions of a recording's channels."""

    n_channels: int
    mask: int = 0
    """Bit mask over `SPEAKERS`, in the order of the channels; 0 if unknown."""

    def __post_init__(self) -> None:
        """Treat two channels of unknown layout as stereo."""
        if self.n_channels == 2 and not self.mask:
            object.__setattr__(self, "mask", STEREO)

    @property
    def speakers(self) -> tuple[str, ...]:
        """Name of each channel's speaker; empty where the mask does not fit the channels."""
        names = tuple(
            SPEAKERS[bit] if bit < len(SPEAKERS) else f"speaker {bit}"
            for bit in range(self.mask.bit_length())
            if self.mask >> bit & 1
        )
        return names if len(names) == self.n_channels else ()

    @property
    def name(self) -> str:
        """Name of the layout, for people."""
        if not self.speakers:
            return f"{self.n_channels} channels"
        return LAYOUT_NAMES.get(self.mask, "+".join(self.speakers))

    def weights(self) -> Weights:
        """Return the weight of each channel in the mix, (n_channels,), summing to 1.

        The centre dominates: the others should be heard where it is silent, but must not drown it.
        """
        if self.speakers:
            weights = np.array(self._by_speaker(), dtype=np.float32)
        elif self.n_channels in (6, 8):  # probably 5.1 or 7.1; if not, no channel may be lost
            weights = np.full(self.n_channels, 0.25, dtype=np.float32)
            weights[2] = 1.0
        else:
            weights = np.ones(self.n_channels, dtype=np.float32)
        if not weights.any():
            weights[:] = 1.0
        shares: Weights = weights / weights.sum()
        return shares

    def _by_speaker(self) -> list[float]:
        has_centre = "FC" in self.speakers
        front, others = (0.25, 0.125) if has_centre else (1.0, 0.5)
        known = {"FC": 1.0, "LFE": 0.0} | dict.fromkeys(FRONT, front)
        return [known.get(speaker, others) for speaker in self.speakers]


class Mixer:
    """Mixes a stream of channels into one."""

    def __init__(self, layout: Layout, sample_rate: int) -> None:
        self._layout = layout
        self._weights = layout.weights()
        self._signs = np.ones(layout.n_channels, dtype=np.float32)
        self._turned: set[int] = set()
        self._hop = max(1, int(HOP_S * sample_rate))
        self._fade = np.linspace(0, 1, max(1, int(FADE_S * sample_rate)), dtype=np.float32)[:, None]
        self._pending = np.zeros((0, layout.n_channels), dtype=np.float32)

    def push(self, frames: Samples) -> Samples:
        """Return the mix (n_samples,) that is known after these frames (n_samples, n_channels)."""
        if self._layout.n_channels == 1:
            return frames[:, 0]
        frames = np.concatenate([self._pending, frames]) if len(self._pending) else frames
        n_whole = len(frames) - len(frames) % self._hop
        self._pending = frames[n_whole:].copy()
        return self._mixed(frames[:n_whole], self._hop)

    def flush(self) -> Samples:
        rest, self._pending = self._pending, self._pending[:0]
        return self._mixed(rest, len(rest))

    @property
    def report(self) -> MixReport | None:
        """How the stream was mixed so far; None for mono and plain stereo."""
        if self._layout.n_channels <= 2 and not self._turned:
            return None
        turned = tuple(sorted(channel + 1 for channel in self._turned))
        weights = [round(float(weight), 3) for weight in self._weights]
        return MixReport(layout=self._layout.name, weights=tuple(weights), turned=turned)

    def _mixed(self, frames: Samples, hop: int) -> Samples:
        """Mix hops, each (hop, n_channels), changing signs where channels cancel."""
        if not len(frames):
            return np.zeros(0, dtype=np.float32)
        weighted = (frames * self._weights).reshape(-1, hop, self._layout.n_channels)
        products = weighted.transpose(0, 2, 1) @ weighted  # of each pair of channels, (n_hops, n, n)
        apart = np.trace(products, axis1=1, axis2=2)
        mixed = np.empty((len(weighted), hop), dtype=np.float32)
        first = 0
        while first < len(weighted):
            together = np.einsum("hij,i,j->h", products[first:], self._signs, self._signs)
            cancels = (together < CANCELLED_SHARE * apart[first:]) & (apart[first:] > QUIETEST * hop)
            n_kept = int(np.argmax(cancels)) if cancels.any() else len(cancels)
            mixed[first : first + n_kept] = weighted[first : first + n_kept] @ self._signs
            first += n_kept
            if first < len(weighted):
                mixed[first] = self._turning(weighted[first], products[first])
                first += 1
        return mixed.reshape(-1)

    def _turning(self, weighted: Samples, products: Samples) -> Samples:
        """Find signs without cancellation, and mix a hop with a cross-fade to them."""
        before, self._signs = self._signs, _agreeing_signs(products)
        if float(self._signs @ before) < 0:  # invert as few channels as possible
            self._signs = -self._signs
        self._turned |= {int(channel) for channel in np.flatnonzero(self._signs < 0)}
        mixed: Samples = weighted @ self._signs
        fade = self._fade[: len(weighted)]
        signs = before + fade * (self._signs - before)
        mixed[: len(fade)] = np.sum(weighted[: len(fade)] * signs, axis=1)
        return mixed


def _agreeing_signs(products: Samples) -> Weights:
    """Return a sign for each channel, strongest first, such that it adds to those before it."""
    order = np.argsort(-np.diagonal(products), kind="stable")
    signs = np.zeros(len(products), dtype=np.float32)
    for channel in order:
        signs[channel] = -1.0 if float(products[channel] @ signs) < 0 else 1.0
    return signs


def chosen_channels(recording: Recording, *, split: bool) -> Recording:
    """Return a recording with the channels that are to be heard: mixed into one, or each for itself.

    Raises:
        UnsupportedOption: There are too many to tell apart.
    """
    if not split:
        return mix_channels(recording)
    check_split(recording.n_channels)
    return recording


def check_split(n_channels: int) -> None:
    """Refuse to split too many channels.

    Raises:
        UnsupportedOption: There are too many to tell apart.
    """
    if n_channels > MAX_CHANNELS:
        raise UnsupportedOption(
            "channels", f"the recording has {n_channels} channels; at most {MAX_CHANNELS} can be split"
        )


def mix_channels(recording: Recording) -> Recording:
    """Mix a recording's channels into one. The given recording must not be read any more."""
    if recording.n_channels == 1:
        return recording
    mixer = Mixer(Layout(recording.n_channels), SAMPLE_RATE)

    def blocks() -> Iterator[Samples]:
        for block in recording.blocks():
            yield mixer.push(block.T)[None]
        yield mixer.flush()[None]

    def report() -> SoundReport | None:
        before, mix = recording.report, mixer.report
        return before if mix is None else replace(before or SoundReport(), mix=mix)

    return Recording(blocks(), duration_s=recording.duration_s, report=report)
