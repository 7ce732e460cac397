"""How large a corpus is. Knows neither text nor voices, so that a look at --help loads none."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How many clips of each kind to build; 0 leaves a kind out."""

    everyday: int = 16_000
    """Training clips of everyday sentences by espeak and festival."""
    catalogue: int = 1_000
    """Training clips of message-catalogue sentences."""
    exchanged: int = 10_000
    """Training clips of sentences with words exchanged for others of the same ending."""
    words: int = 500
    """Training clips of word sequences."""
    kokoro: int = 3_000
    """Training clips of Kokoro's neural voices; each takes a core one to two seconds."""
    piper: int = 2_000
    """Training clips of Piper's neural voice."""
    hindi: int = 1_000
    """Training clips of Hindi by neural voices, in a manifest of their own."""
    test: int = 150
    """Sentences held out for each test set, and as many for validation."""

    @property
    def neural(self) -> int:
        """Training clips of neural voices."""
        return self.kokoro + self.piper
