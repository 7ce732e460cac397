"""A recording on its way through the pipeline: blocks of samples, read once, front to back.

An hour of samples takes 230 MB, so nobody holds them all: whoever decodes a recording hands it out block by
block, and what was heard is forgotten. What was done to the sound on its way, and nobody would expect, is
told by a report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from serve.audio.samples import SAMPLE_RATE, Samples


@dataclass(frozen=True, kw_only=True)
class Track:
    """One of the audio tracks that a container holds."""

    number: int
    """Among the audio tracks, from 1."""
    language: str | None = None
    """As the container writes it, such as `mar`; None where it names none."""
    is_default: bool = False
    """Whether the container marks it as the one to play."""
    n_tracks: int = 1
    """Audio tracks that the container holds."""


@dataclass(frozen=True, kw_only=True)
class MixReport:
    """How channels became one."""

    layout: str
    """Name of the layout, such as `5.1`."""
    weights: tuple[float, ...]
    """Share of each channel; 0 was left out."""
    turned: tuple[int, ...] = ()
    """Channels, from 1, that cancelled the others and were turned over."""


@dataclass(frozen=True, kw_only=True)
class ClockReport:
    """Where the container's clock puts the sound."""

    starts_at_s: float = 0.0
    """Silence put before the first sound."""
    gaps_s: float = 0.0
    """Silence put into gaps, all together."""
    leap_s: float = 0.0
    """Longest leap of the clock that was too long to be believed, and was passed over."""


@dataclass(frozen=True, kw_only=True)
class SoundReport:
    """What was done to the sound that nobody would expect of any recording."""

    track: Track | None = None
    """The one that was heard, where there are several or one was asked for."""
    mix: MixReport | None = None
    """None for one channel, and for two that were averaged."""
    clock: ClockReport | None = None
    """None where the sound begins at 0 and has no gap."""


class Recording:
    """Blocks of float32 samples at 16 kHz, and what is known about them."""

    def __init__(
        self,
        blocks: Iterator[Samples],
        *,
        n_channels: int = 1,
        duration_s: float | None = None,
        report: Callable[[], SoundReport | None] = lambda: None,
    ):
        """Take the blocks.

        Args:
            blocks: Each (n_channels, n_samples).
            n_channels: Of every block.
            duration_s: Where it is announced.
            report: Tells what was done to the sound so far.
        """
        self.n_channels = n_channels
        self.duration_s = duration_s
        """Length in seconds: as announced; exact once all blocks are read; None before where nothing says."""
        self._unread = blocks
        self._report = report

    @classmethod
    def of(cls, samples: Samples) -> Recording:
        """Make a recording of (n_samples,), or of (n_channels, n_samples)."""
        whole = samples[None] if samples.ndim == 1 else samples
        return cls(iter((whole,)), n_channels=len(whole), duration_s=whole.shape[1] / SAMPLE_RATE)

    def blocks(self) -> Iterator[Samples]:
        """Yield the blocks, each (n_channels, n_samples), and then know the duration."""
        n_samples = 0
        for block in self._unread:
            n_samples += block.shape[1]
            yield block
        self.duration_s = n_samples / SAMPLE_RATE

    @property
    def report(self) -> SoundReport | None:
        """What was done to the sound so far, complete once all blocks are read; None for nothing unusual."""
        return self._report()

    def read_by(self, through: Callable[[Iterator[Samples]], Iterator[Samples]]) -> Recording:
        """Return the recording with its blocks passed on by `through`. This one must not be read any more."""
        return Recording(
            through(self.blocks()),
            n_channels=self.n_channels,
            duration_s=self.duration_s,
            report=self._report,
        )
