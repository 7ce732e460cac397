"""Build a Marathi speech corpus without a data hub: text -> synthetic voices -> FLAC clips and manifests.

No test sentence and no test voice occurs in training. The same seed, options and synthesiser versions give
the same corpus, except that Piper draws random noise. Manifests:

* formant and diphone voices: `train.jsonl`; `valid.jsonl`, held-out sentences in training voices, for model
  selection; `test-catalogue.jsonl` and `test-everyday.jsonl`, held-out sentences in held-out voices, for
  reporting; the latter also by telephone, in an echoing room, at another pitch and with noise;
* neural voices: `train-neural.jsonl`, `valid-neural.jsonl`, `test-neural.jsonl`, each with its own voices;
* Hindi by neural voices: `train-hindi.jsonl`, for training only;
* no speech: `test-no-speech.jsonl`.

Manifests grow during the build, and their first rows are a fair sample, so training may start early. An
interrupted build resumes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import soundfile
import torch

from serve.audio.samples import SAMPLE_RATE
from serve.config.progress import progress_bar
from serve.model.durable_write import put_in_place, write_whole
from train.data.synthesis import voices
from train.data.synthesis.conditions import CONDITIONS, write_condition, write_no_speech
from train.data.synthesis.plan import Utterance, plan_corpus
from train.data.synthesis.sizes import Sizes
from train.errors import DataError

MAX_CLIP_S = 12.0
_NO_SPEECH_CLIPS = 100
_CLIPS_BETWEEN_MANIFESTS = 50


def build_corpus(output_dir: Path, sizes: Sizes, seed: int) -> dict[str, int]:
    """Speak the planned corpus into `output_dir`; return the number of clips of each split.

    Existing clips are kept, so an interrupted build resumes.

    Raises:
        DataError: A text source or synthesiser is missing, or too few clips could be spoken.
    """
    plan = plan_corpus(sizes, seed)
    clips = output_dir / "clips"
    clips.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # workers run in parallel, so each resamples on one thread
    rows: dict[str, list[str]] = {}
    n_failed, stretch = 0, _Stretch()
    with (
        ThreadPoolExecutor(os.cpu_count() or 1) as pool,
        progress_bar("speaking", len(plan), "clips") as advance,
    ):
        spoken = pool.map(lambda utterance: _write_clip(utterance, clips), plan)
        for number, (utterance, duration_s) in enumerate(zip(plan, spoken, strict=True), 1):
            if duration_s is None:
                n_failed += 1
            else:
                rows.setdefault(utterance.split, []).append(_manifest_line(utterance, duration_s))
            if number % _CLIPS_BETWEEN_MANIFESTS == 0:
                _write_manifests(output_dir, rows)
                stretch.report(number, len(plan))
            advance()
    _write_manifests(output_dir, rows)
    if n_failed > len(plan) // 5:
        raise DataError(
            f"{n_failed} of {len(plan)} sentences could not be spoken: are the voices installed whole?"
        )
    if "test-everyday" in rows:
        for condition in CONDITIONS:
            write_condition(output_dir / "test-everyday.jsonl", condition)
        write_no_speech(output_dir, min(_NO_SPEECH_CLIPS, 2 * sizes.test))
    return {split: len(lines) for split, lines in rows.items()}


class _Stretch:
    """Reports progress in lines where no progress bar can be drawn, as in a log file."""

    def __init__(self) -> None:
        self._began, self._from = time.monotonic(), 0

    def report(self, n_spoken: int, n_planned: int) -> None:
        """Print the rate since the last report and the remaining time, unless in a terminal."""
        per_s = (n_spoken - self._from) / max(1e-3, time.monotonic() - self._began)
        self._began, self._from = time.monotonic(), n_spoken
        if not sys.stderr.isatty():
            left = timedelta(seconds=round((n_planned - n_spoken) / per_s))
            line = f"{n_spoken} of {n_planned} clips, {per_s:.2f} clips/s, {left} left"
            print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def _write_manifests(output_dir: Path, rows: dict[str, list[str]]) -> None:
    """Write each manifest atomically, since training may be reading it."""
    for split, lines in rows.items():
        write_whole(output_dir / f"{split}.jsonl", "".join(lines).encode())


def _write_clip(utterance: Utterance, clips: Path) -> float | None:
    """Speak one clip unless it exists; return its duration in seconds, or None if that failed."""
    path = clips / utterance.clip_name
    if path.is_file():
        return float(soundfile.info(path).duration)
    samples = voices.speak(utterance.sentence, utterance.voice, utterance.delivery, utterance.language)
    if samples is None or not 0.5 <= len(samples) / SAMPLE_RATE <= MAX_CLIP_S:
        return None
    part = path.with_suffix(f".{os.getpid()}.part")
    soundfile.write(part, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    put_in_place(part, path)
    return len(samples) / SAMPLE_RATE


def _manifest_line(utterance: Utterance, duration_s: float) -> str:
    row = {
        "audio": f"clips/{utterance.clip_name}",
        "text": utterance.sentence,
        "language": utterance.language,
        "duration_s": round(duration_s, 3),
        "voice": utterance.voice.name,
        "kind": utterance.voice.kind,
        "source": utterance.source,
    }
    return json.dumps(row, ensure_ascii=False) + "\n"
