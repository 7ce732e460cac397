"""Measure live sessions: how long after they were spoken words are committed, and how right they are.

    python bench/live.py                          # one session, both policies; then six sessions at once
    python bench/live.py --policy alignment --sessions 1

Joins clips of a test set with short pauses, and plays them to sessions of one scheduler at the pace of speech.
A word counts as spoken when it ends by the alignment of the whole file. Its committed lag is measured to the
event that committed it, its partial lag to the first event that shows it. Writes bench/live.json.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import click  # noqa: E402
import jiwer  # noqa: E402
import numpy as np  # noqa: E402

from bench.serving.machine import begin_record, write_record  # noqa: E402
from serve.audio.decode import AudioLimits, decode_audio  # noqa: E402
from serve.audio.samples import SAMPLE_RATE, Samples  # noqa: E402
from serve.engine.scheduler import Scheduler  # noqa: E402
from serve.options import TranscriptionOptions  # noqa: E402
from serve.pipeline import Pipeline  # noqa: E402
from serve.service.live.policies import Policy, by_agreement, by_alignment  # noqa: E402
from serve.service.live.session import LiveSession  # noqa: E402
from serve.service.live.settings import LiveSettings  # noqa: E402
from serve.service.loading import load_pipeline  # noqa: E402
from serve.transcript.events import End, LiveEvent, LivePhrase, LiveWords, Word  # noqa: E402
from train.evaluate.scoring import normalise_all  # noqa: E402

POLICIES: dict[str, Policy] = {"agreement": by_agreement, "alignment": by_alignment}
FRAME_S = 0.1
PAUSES_S = (0.3, 0.6, 1.2)
"""Pauses between clips, in turn: within a phrase, at a comma, at the end of a phrase."""


@dataclass
class Heard:
    """What a session said, and when."""

    events: list[tuple[float, LiveEvent]] = field(default_factory=list)
    """Seconds since the first sample, event."""
    committed: list[Word] = field(default_factory=list)
    n_changed: int = 0
    """Committed words that a phrase does not have, or has otherwise."""
