"""A recording on its way through the pipeline: blocks of samples, read once, front to back.

An hour of samples takes 230 MB, so nobody holds them all: whoever decodes a recording hands it out block by
block, and what was heard is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator

from serve.audio.samples import SAMPLE_RATE, Samples


class Recording:
    """Blocks of float32 samples at 16 kHz, and what is known about them."""

    def __init__(self, blocks: Iterator[Samples], *, n_channels: int = 1, duration_s: float | None = None):
        """Take the blocks, each (n_channels, n_samples), and the duration where it is announced."""
        self.n_channels = n_channels
        self.duration_s = duration_s
        """Length in seconds: as announced; exact once all blocks are read; None before where nothing says."""
        self._unread = blocks

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

    def mixed(self) -> Recording:
        """Return the recording with its channels averaged. This one must not be read any more."""
        if self.n_channels == 1:
            return self
        averaged = (block.mean(axis=0, keepdims=True) for block in self._unread)
        return Recording(averaged, duration_s=self.duration_s)
