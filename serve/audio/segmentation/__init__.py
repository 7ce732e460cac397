"""A recording -> spans of speech -> windows for the encoder, going through it once.

A span is speech; a window is what the encoder sees: one or more spans with the short pauses between them.
Both are half-open ranges of samples. Knows no language model and no request.
"""

from serve.audio.segmentation.listening import Listener, Tape, iter_windows
from serve.audio.segmentation.speech import (
    FRAME_SAMPLES,
    PAD_SAMPLES,
    RUN_SAMPLES,
    Span,
    SpeechDetector,
    find_speech,
)
from serve.audio.segmentation.windows import Window, WindowLimits, WindowPacker

__all__ = [
    "FRAME_SAMPLES",
    "PAD_SAMPLES",
    "RUN_SAMPLES",
    "Listener",
    "Span",
    "SpeechDetector",
    "Tape",
    "Window",
    "WindowLimits",
    "WindowPacker",
    "find_speech",
    "iter_windows",
]
