"""Part a batch into rows for the adapter and rows for the base model alone. Knows no runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from serve.engine import DecodingOptions, Hypothesis, LogMel

Transcribe = Callable[[bool, list[LogMel], list[DecodingOptions]], list[Hypothesis]]
"""Decodes windows that are all for the adapter (True), or all for the base model alone."""


def transcribe_by_adapter(
    log_mels: Sequence[LogMel],
    options: Sequence[DecodingOptions],
    has_adapter: bool,
    transcribe: Transcribe,
) -> list[Hypothesis]:
    """Decode windows of both kinds; the answer is in the order of the input."""
    assert len(log_mels) == len(options)
    by_adapter: dict[bool, list[int]] = {}
    for index, option in enumerate(options):
        by_adapter.setdefault(option.adapter and has_adapter, []).append(index)
    hypotheses: dict[int, Hypothesis] = {}
    for adapter, indices in by_adapter.items():
        found = transcribe(
            adapter, [log_mels[index] for index in indices], [options[index] for index in indices]
        )
        hypotheses.update(zip(indices, found, strict=True))
    return [hypotheses[index] for index in range(len(options))]
