"""Measure live sessions: how long after they were spoken words are committed, and how right they are.

    python bench/live.py                              # one session with each policy, then six at once
    python bench/live.py --recordings 3 --sessions 1 --cpu-clock     # on a busy machine: its own work counts

Joins clips of a test set with short pauses to recordings, and plays them to sessions at the pace of speech.
A word counts as spoken when it ends, by the alignment of the whole file. Its committed lag lasts until the
event that committed it, its partial lag until the first event that shows it. Writes bench/live.json.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import click  # noqa: E402
import jiwer  # noqa: E402
import numpy as np  # noqa: E402
from rich.console import Console  # noqa: E402

from bench.serving.figures import Figures, error_rates  # noqa: E402
from bench.serving.machine import begin_record, write_record  # noqa: E402
from bench.serving.setup import SHIPPED  # noqa: E402
from serve.audio.decode import AudioLimits, decode_audio  # noqa: E402
from serve.audio.samples import SAMPLE_RATE, Samples  # noqa: E402
from serve.engine.ctranslate2.instruction_set import choose_instruction_set  # noqa: E402
from serve.engine.loading import load_engine  # noqa: E402
from serve.engine.scheduling.scheduler import Scheduler  # noqa: E402
from serve.options import TranscriptionOptions  # noqa: E402
from serve.pipeline import Pipeline  # noqa: E402
from serve.service.live.policies import Policy, by_agreement, by_alignment  # noqa: E402
from serve.service.live.session import LiveSession  # noqa: E402
from serve.service.live.settings import LiveSettings  # noqa: E402
from serve.service.live.sound_queue import Piece, SoundQueue  # noqa: E402
from serve.service.loading import load_pipeline  # noqa: E402
from serve.service.worker.supervised import SupervisedEngine  # noqa: E402
from serve.transcript.events import End, LiveEvent, LivePhrase, LiveWords, Word  # noqa: E402

POLICIES: dict[str, Policy] = {"agreement": by_agreement, "alignment": by_alignment}
FRAME_S = 0.1
PAUSES_S = (0.3, 0.6, 1.2)
"""Pauses between clips, in turn: as within a sentence, between sentences, and behind a phrase."""

FILE = click.Path(path_type=Path)
Events = list[tuple[float, LiveEvent]]
"""Seconds since the first sample was spoken, and the event."""


class Played(NamedTuple):
    """A recording, and what a session heard in it."""

    text: str
    of_file: Sequence[Word]
    """The words of the file sent whole."""
    events: Events


class CpuClock:
    """Seconds that this process has worked, and those that were skipped because it had nothing to do."""

    def __init__(self) -> None:
        self._skipped_s = -time.process_time()

    def __call__(self) -> float:
        return time.process_time() + self._skipped_s

    def skip_to(self, when: float) -> None:
        """Let the time pass until `when`, if it has not yet."""
        self._skipped_s += max(0.0, when - self())


class PlayedSound(SoundQueue):
    """Sound that arrives by a CPU clock."""

    def __init__(self, frames: Sequence[bytes], clock: CpuClock) -> None:
        super().__init__(max_bytes=1 << 30)
        self._clock, self._started = clock, clock()
        self._left = [Piece(frame, self._started + (n + 1) * FRAME_S) for n, frame in enumerate(frames)]

    @property
    def n_bytes(self) -> int:
        """Bytes that have arrived and were not taken."""
        now = self._clock()
        return sum(len(piece.data) for piece in self._left[:100] if piece.arrived <= now)

    @n_bytes.setter
    def n_bytes(self, value: int) -> None: ...

    def take(self, max_bytes: int, check: Callable[[], None]) -> Piece | None:
        """Return the next frame, once it has arrived."""
        if not self._left:
            return None
        piece = self._left.pop(0)
        self._clock.skip_to(piece.arrived)
        return piece


@click.command(context_settings={"show_default": True})
@click.option("--manifest", type=FILE, default=ROOT / "data" / "mr" / "test-neural.jsonl")
@click.option("--model-dir", type=FILE, default=SHIPPED)
@click.option("--seconds", default=60.0, help="Speech and pauses in each recording.")
@click.option("--recordings", default=1, help="Recordings to play to one session after the other.")
@click.option("--policy", type=click.Choice(["both", *POLICIES]), default="both", help="For one session.")
@click.option("--sessions", default=6, help="Sessions at once, after one alone.")
@click.option("--threads", default=0, help="CPU threads; 0: all cores.")
@click.option("--cpu-clock", is_flag=True, help="Count the time of this process's work only; one session.")
@click.option("--output", type=FILE, default=ROOT / "bench" / "live.json", help="File of the figures.")
def main(
    manifest: Path,
    model_dir: Path,
    seconds: float,
    recordings: int,
    policy: str,
    sessions: int,
    threads: int,
    cpu_clock: bool,
    output: Path,
) -> None:
    """Measure live sessions, and write the figures."""
    choose_instruction_set()
    console = Console(width=150)
    n_threads = 1 if cpu_clock else threads or len(os.sched_getaffinity(0))
    record: Figures = begin_record(n_threads)
    sounds = joined_clips(manifest, seconds, recordings)
    load = load_engine if cpu_clock else SupervisedEngine  # the latter as a service does
    pipeline = load_pipeline(model_dir, n_threads=n_threads, load=load)
    of_files = [offline_words(pipeline, samples) for _, samples in sounds]
    texts = [text for text, _ in sounds]
    record |= {
        "clock": "cpu" if cpu_clock else "wall",
        "recordings": len(sounds),
        "audio_s": round(sum(len(samples) for _, samples in sounds) / SAMPLE_RATE, 1),
        "file": {
            "words": sum(len(words) for words in of_files),
            **error_rates(texts, [" ".join(word.text for word in words) for words in of_files]),
        },
    }
    chosen = list(POLICIES) if policy == "both" else [policy]
    for name in chosen:
        played, busy = [], []
        for (text, samples), of_file in zip(sounds, of_files, strict=True):
            (events,), share = play(pipeline, samples, POLICIES[name], 1, cpu_clock)
            played.append(Played(text, of_file, events))
            busy.append(share)
        record[f"one_session_{name}"] = {**figures(played), "engine_busy": round(statistics.mean(busy), 3)}
        console.print(name, record[f"one_session_{name}"])
    if sessions > 1 and not cpu_clock:
        (text, samples), of_file = sounds[0], of_files[0]
        heard, share = play(pipeline, samples, POLICIES[chosen[-1]], sessions, False)
        each = [figures([Played(text, of_file, events)]) for events in heard]
        record[f"{sessions}_sessions"] = {
            "committed_lag_s": max(one["committed_lag_s"]["median"] for one in each),
            "partial_lag_s": max(one["partial_lag_s"]["median"] for one in each),
            "changed_words": sum(one["changed_words"] for one in each),
            "wer": max(one["wer"] for one in each),
            "engine_busy": share,
        }
        console.print(f"{sessions} sessions, the worst of each", record[f"{sessions}_sessions"])
    write_record(record, output)


def joined_clips(manifest: Path, seconds: float, n_recordings: int) -> list[tuple[str, Samples]]:
    """Return the text and the samples of recordings, made of clips in turn that are joined with pauses."""
    clips = iter(manifest.read_text(encoding="utf-8").splitlines())
    found: list[tuple[str, Samples]] = []
    while len(found) < n_recordings:
        texts: list[str] = []
        pieces: list[Samples] = []
        while sum(len(piece) for piece in pieces) < seconds * SAMPLE_RATE:
            if (line := next(clips, None)) is None:
                raise SystemExit(f"{manifest} has too few clips for that")
            clip = json.loads(line)
            pause_s = PAUSES_S[len(texts) % len(PAUSES_S)]
            pieces.append(decode_audio((manifest.parent / clip["audio"]).read_bytes(), AudioLimits()))
            pieces.append(np.zeros(round(pause_s * SAMPLE_RATE), np.float32))
            texts.append(clip["text"])
        found.append((" ".join(texts), np.concatenate(pieces)))
    return found


def offline_words(pipeline: Pipeline, samples: Samples) -> list[Word]:
    """Return the words of the file sent whole, with their times."""
    *_, end = pipeline.transcribe(samples, TranscriptionOptions(word_timestamps=True))
    assert isinstance(end, End)
    return [word for segment in end.transcript.segments for word in segment.words]


def play(
    pipeline: Pipeline, samples: Samples, policy: Policy, n_sessions: int, cpu_clock: bool
) -> tuple[list[Events], float]:
    """Play the sound to sessions at once; return the events of each, and the engine's share of busy time."""
    pcm = (np.clip(samples, -1, 1) * 32_767).astype("<i2").tobytes()
    n_bytes = 2 * round(FRAME_S * SAMPLE_RATE)
    frames = [pcm[first : first + n_bytes] for first in range(0, len(pcm), n_bytes)]
    with Scheduler(pipeline.engine, frees_engine=False) as scheduler, scheduler.admit() as first:
        pipeline.warm_up(first)
        before_s = scheduler.totals().busy_s
        if cpu_clock:
            clock = CpuClock()
            sound = PlayedSound(frames, clock)
            session = LiveSession(pipeline, LiveSettings(), first, policy=policy, sound=sound, clock=clock)
            started, events = clock(), []
            session.run(lambda event: events.append((clock() - started, event)))
            return [events], round((scheduler.totals().busy_s - before_s) / (len(samples) / SAMPLE_RATE), 3)
        heard: list[Events] = [[] for _ in range(n_sessions)]
        threads = [
            threading.Thread(target=speak, args=(pipeline, scheduler, policy, frames, events, 0.37 * number))
            for number, events in enumerate(heard)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return heard, round((scheduler.totals().busy_s - before_s) / (len(samples) / SAMPLE_RATE), 3)


def speak(
    pipeline: Pipeline,
    scheduler: Scheduler,
    policy: Policy,
    frames: Sequence[bytes],
    events: Events,
    delay_s: float,
) -> None:
    """Play frames to a session at the pace of speech."""
    time.sleep(delay_s)
    with scheduler.admit() as ticket:
        session = LiveSession(pipeline, LiveSettings(), ticket, policy=policy)
        started = time.monotonic()
        working = threading.Thread(
            target=session.run, args=(lambda event: events.append((time.monotonic() - started, event)),)
        )
        working.start()
        for number, frame in enumerate(frames):
            time.sleep(max(0.0, started + (number + 1) * FRAME_S - time.monotonic()))
            session.hear(frame)
        session.end()
        working.join()


def figures(played: Sequence[Played]) -> Figures:
    """Return lags, changes and word errors of sessions, all words together."""
    heard = [_followed(each.events) for each in played]
    committed_lags, partial_lags = [], []
    for each, (committed, shown, _) in zip(played, heard, strict=True):
        words = [word for _, word in committed]
        aligned = jiwer.process_words([" ".join(word.text for word in each.of_file)], [" ".join(words)])
        for chunk in aligned.alignments[0]:
            if chunk.type == "equal":
                for offset in range(chunk.ref_end_idx - chunk.ref_start_idx):
                    spoken_s = each.of_file[chunk.ref_start_idx + offset].end_s
                    place = chunk.hyp_start_idx + offset
                    committed_lags.append(committed[place][0] - spoken_s)
                    partial_lags.append(shown[place][words[place]] - spoken_s)
    texts = [[word for _, word in committed] for committed, _, _ in heard]
    return {
        "words": sum(len(words) for words in texts),
        "words_as_in_file": len(committed_lags),
        "committed_lag_s": spread(committed_lags),
        "partial_lag_s": spread(partial_lags),
        "events": sum(len(each.events) for each in played),
        "changed_words": sum(
            sum(one != other for one, other in zip(words, phrases, strict=False))
            + abs(len(words) - len(phrases))
            for words, (_, _, phrases) in zip(texts, heard, strict=True)
        ),
        **error_rates([each.text for each in played], [" ".join(words) for words in texts]),
    }


def _followed(events: Events) -> tuple[list[tuple[float, str]], list[dict[str, float]], list[str]]:
    """Return committed words with their times, when each text was first shown there, and phrases."""
    committed: list[tuple[float, str]] = []
    shown: list[dict[str, float]] = []  # by position: text -> when it was first shown there
    phrases: list[str] = []
    for at, event in events:
        if isinstance(event, LivePhrase):
            phrases += [word.text for word in event.segment.words]
        if not isinstance(event, LiveWords):
            continue
        committed += [(at, word.text) for word in event.committed]
        now = [word for _, word in committed] + event.partial.split()
        shown += [{} for _ in range(len(now) - len(shown))]
        for seen, word in zip(shown, now, strict=False):
            seen.setdefault(word, at)
    return committed, shown, phrases


def spread(lags: Sequence[float]) -> Figures:
    """Return the median and the 90th percentile."""
    return {
        "median": round(statistics.median(lags), 3),
        "p90": round(float(np.percentile(lags, 90)), 3),
    }


if __name__ == "__main__":
    main()
