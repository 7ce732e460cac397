"""A recording as it passes through the pipeline: blocks of samples, read once, front to back.

An hour of samples takes 230 MB, so the whole recording is never in memory: its decoder yields block after
block, and the pipeline drops what it has transcribed. A report tells about unusual changes to the sound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from serve.audio.samples import SAMPLE_RATE, Samples


@dataclass(frozen=True, kw_only=True)
class Track:
    number: int
    """Number among the audio tracks, from 1."""
    language: str | None = None
    """Language as the container writes it, such as `mar`; None where it names none."""
    is_default: bool = False
    """Whether the container marks it as the track to play."""
    n_tracks: int = 1
    """Number of audio tracks in the container."""


@dataclass(frozen=True, kw_only=True)
class MixReport:
    """How channels were mixed into one."""

    layout: str
    """Name of the layout, such as `5.1`."""
    weights: tuple[float, ...]
    """Weight of each channel; 0 was left out."""
    turned: tuple[int, ...] = ()
    """Numbers, from 1, of channels that cancelled the others and were inverted."""


@dataclass(frozen=True, kw_only=True)
class ClockReport:
    """How the container's clock moved the sound."""

    starts_at_s: float = 0.0
    """Silence inserted before the first sound."""
    gaps_s: float = 0.0
    """Silence inserted in gaps, summed."""
    leap_s: float = 0.0
    """Largest clock jump that was ignored as implausible."""


@dataclass(frozen=True, kw_only=True)
class SoundReport:
    """What was done to the sound that a user may not expect."""

    track: Track | None = None
    """The transcribed track, where there are several or one was requested."""
    mix: MixReport | None = None
    """None for mono, and for stereo that was averaged."""
    clock: ClockReport | None = None
    """None where the sound starts at 0 and has no gap."""


class Recording:
    """Blocks of float32 samples at 16 kHz, with their number of channels and duration."""

    def __init__(
        self,
        blocks: Iterator[Samples],
        *,
        n_channels: int = 1,
        duration_s: float | None = None,
        report: Callable[[], SoundReport | None] = lambda: None,
    ):
        """Wrap blocks.

        Args:
            blocks: Each (n_channels, n_samples).
            n_channels: Channels of every block.
            duration_s: Declared duration, if any.
            report: Returns what was done to the sound so far.
        """
        self.n_channels = n_channels
        self.duration_s = duration_s
        """Declared duration in seconds, or None; exact once all blocks are read."""
        self._unread = blocks
        self._report = report

    @classmethod
    def of(cls, samples: Samples) -> Recording:
        """Wrap samples (n_samples,) or (n_channels, n_samples)."""
        whole = samples[None] if samples.ndim == 1 else samples
        return cls(iter((whole,)), n_channels=len(whole), duration_s=whole.shape[1] / SAMPLE_RATE)

    def blocks(self) -> Iterator[Samples]:
        """Yield the blocks, each (n_channels, n_samples); at their end, set the exact duration."""
        n_samples = 0
        for block in self._unread:
            n_samples += block.shape[1]
            yield block
        self.duration_s = n_samples / SAMPLE_RATE

    @property
    def report(self) -> SoundReport | None:
        """What was done to the sound, complete once all blocks are read; None for nothing unusual."""
        return self._report()

    def read_by(self, through: Callable[[Iterator[Samples]], Iterator[Samples]]) -> Recording:
        """Return a recording whose blocks pass `through`. This one must not be read any more."""
        return Recording(
            through(self.blocks()),
            n_channels=self.n_channels,
            duration_s=self.duration_s,
            report=self._report,
        )
