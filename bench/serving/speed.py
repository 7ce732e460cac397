"""Measure time and word errors of every peer: short clips, eight clients at once, a ten-minute recording.

Each call of a peer is paired with a call of ours on the same recording right before or after it, so that a
machine whose speed drifts changes both.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np

from bench.serving.children import SETTLE_S, Answer, ChildFailed, PeerProcess, service
from bench.serving.figures import Figures, error_rates, percentiles, ratios, times_real_time
from bench.serving.peers import OURS, PEERS, REFERENCE
from bench.serving.recordings import Recording, join_clips, short_clips, total_s
from bench.serving.setup import CLIENTS, Setup
from serve.config.progress import progress_bar
from train.data.normalise import PROFILES
from train.evaluate.scoring import compare, score_utterances

SHORT_PEERS = [name for name in PEERS if name not in (OURS, "faster-whisper-vad")]
LONG_PEERS = [name for name in PEERS if name not in (OURS, REFERENCE)]


def measure_short(setup: Setup) -> Figures:
    """Transcribe clips of 2 to 8 s, one at a time."""
    clips = short_clips(setup, setup.plan.short_clips)
    failed: Figures = {}
    ours: dict[str, list[Answer]] = {}  # beside each peer
    theirs: dict[str, list[Answer]] = {}
    with ExitStack() as stack:
        processes = dict(_start_peers(setup, [OURS, *SHORT_PEERS], clips[0], stack, failed))
        our_process = _required(processes, failed)
        with progress_bar("short clips", len(clips) * len(processes), "pairs") as advance:
            for number, clip in enumerate(clips):
                for name in list(processes):
                    try:
                        pair = _pair(our_process, processes[name], clip, peer_first=number % 2 == 1)
                    except ChildFailed as error:
                        _give_up(our_process, error)
                        failed[name] = str(error)
                        del processes[name]
                        continue
                    ours.setdefault(name, []).append(pair[0])
                    theirs.setdefault(name, []).append(pair[1])
                    advance(note=PEERS[name].label)
    texts = [answer.text for answer in next(iter(ours.values()), [])]
    peers = {OURS: _short_figures(clips, texts, [a for answers in ours.values() for a in answers])}
    for name in processes:
        answers = theirs[name]
        peers[name] = _short_figures(clips, [a.text for a in answers], answers)
        peers[name]["time_ratio"] = ratios(_seconds(answers), _seconds(ours[name]))
    return {
        "clips": len(clips),
        "audio_s": round(total_s(clips), 1),
        "peers": peers,
        "failed": failed,
        "seconds": {
            name: {"theirs": _rounded(theirs[name]), "ours": _rounded(ours[name])} for name in processes
        },
    }


def measure_drift(setup: Setup) -> Figures:
    """Compare word errors of the served 8-bit engine on short windows with fp32 on windows of 30 s."""
    clips = short_clips(setup, setup.plan.drift_clips)
    texts: dict[str, list[str]] = {}
    for name in (OURS, REFERENCE):
        with PeerProcess(setup, name, clips[0]) as process:
            texts[name] = []
            with progress_bar(f"drift, {PEERS[name].label}", len(clips), "clips") as advance:
                for clip in clips:
                    texts[name].append(process.transcribe(clip, settle_s=0).text)
                    advance()
    references = [clip.text for clip in clips]
    scores = {name: score_utterances(references, found, "marathi") for name, found in texts.items()}
    errors = {name: np.array([s.word_errors for s in found]) for name, found in scores.items()}
    found = compare(errors[REFERENCE], errors[OURS])
    return {
        "clips": len(clips),
        "peers": {name: error_rates(references, texts[name]) for name in texts},
        "wer_difference": {
            "ours_minus_reference": round(found.difference, 5),
            "low": round(found.low, 5),
            "high": round(found.high, 5),
        },
    }


def measure_concurrent(setup: Setup) -> Figures:
    """Send clips of 2 to 8 s from eight clients over HTTP; faster-whisper takes them from memory, in turn."""
    clips = short_clips(setup, setup.plan.concurrent_clips)
    failed: Figures = {}
    with ExitStack() as stack:
        running = stack.enter_context(service(setup))
        names = ["faster-whisper", "faster-whisper-batched"]
        processes = dict(_start_peers(setup, names, clips[0], stack, failed))
        bodies = [clip.path.read_bytes() for clip in clips]

        def post(body: bytes) -> tuple[str, float]:
            started = time.perf_counter()
            answer = running.client.post("/invocations", content=body)
            return answer.raise_for_status().json()["text"], time.perf_counter() - started

        def our_round() -> float:
            time.sleep(SETTLE_S)
            started = time.perf_counter()
            answers.extend(pool.map(post, bodies))
            return time.perf_counter() - started

        pool = stack.enter_context(ThreadPoolExecutor(CLIENTS))
        answers: list[tuple[str, float]] = []
        list(pool.map(post, bodies[:CLIENTS]))  # warm-up: connections, and batches of this size
        rounds_s: list[float] = []
        peers: Figures = {OURS: {}}
        with progress_bar("eight clients", len(clips) * len(processes), "clips") as advance:
            for name, process in processes.items():
                rounds_s.append(our_round())
                theirs: list[Answer] = []
                for clip in clips:
                    theirs.append(process.transcribe(clip, settle_s=0 if theirs else SETTLE_S))
                    advance(note=PEERS[name].label)
                rounds_s.append(our_round())
                seconds = sum(_seconds(theirs))
                peers[name] = {
                    "times_real_time": times_real_time(total_s(clips), seconds),
                    "throughput_ratio": round(seconds / statistics.mean(rounds_s[-2:]), 3),
                    **error_rates([clip.text for clip in clips], [answer.text for answer in theirs]),
                }
        if not rounds_s:
            rounds_s.append(our_round())
    peers[OURS] = {
        "times_real_time": times_real_time(total_s(clips), statistics.median(rounds_s)),
        "latency_s": percentiles([seconds for _, seconds in answers]),
        **error_rates([clip.text for clip in clips], [text for text, _ in answers[: len(clips)]]),
    }
    return {
        "clips": len(clips),
        "clients": CLIENTS,
        "audio_s": round(total_s(clips), 1),
        "our_rounds_s": [round(seconds, 3) for seconds in rounds_s],
        "peers": peers,
        "failed": failed,
    }


def measure_long(setup: Setup) -> Figures:
    """Transcribe ten minutes of speech with pauses; the slow peers take the same recording's beginning."""
    whole = join_clips(setup, setup.plan.long_s)
    piece = join_clips(setup, setup.plan.long_slow_s)
    (warm_up,) = short_clips(setup, 1)
    failed: Figures = {}
    peers: Figures = {}
    our_s: list[float] = []
    with PeerProcess(setup, OURS, warm_up, long=True) as ours:
        with progress_bar("ten minutes", len(LONG_PEERS), "peers") as advance:
            for name in LONG_PEERS:
                advance(0, note=PEERS[name].label)
                recording = piece if PEERS[name].slow else whole
                try:
                    with PeerProcess(setup, name, warm_up, long=True) as process:
                        our_answer, answer = _pair(ours, process, recording)
                except ChildFailed as error:
                    _give_up(ours, error)
                    failed[name] = str(error)
                    advance()
                    continue
                if recording is whole:
                    our_s.append(our_answer.seconds)
                peers[name] = {
                    **_long_figures(recording, answer),
                    "time_ratio": round(answer.seconds / our_answer.seconds, 3),
                    "wer_of_ours": error_rates([recording.text], [our_answer.text])["wer"],
                }
                advance()
        our_answer = ours.transcribe(whole)
    our_s.append(our_answer.seconds)
    peers[OURS] = _long_figures(whole, our_answer)
    peers[OURS]["times_real_time"] = times_real_time(whole.duration_s, statistics.median(our_s))
    return {"our_runs_s": [round(seconds, 2) for seconds in our_s], "peers": peers, "failed": failed}


def _start_peers(
    setup: Setup, names: Sequence[str], warm_up: Recording, stack: ExitStack, failed: Figures
) -> Iterator[tuple[str, PeerProcess]]:
    """Start peers; record why one does not start."""
    for name in names:
        try:
            yield name, stack.enter_context(PeerProcess(setup, name, warm_up))
        except ChildFailed as error:
            failed[name] = str(error)


def _required(processes: dict[str, PeerProcess], failed: Figures) -> PeerProcess:
    if OURS not in processes:
        raise ChildFailed(failed[OURS])
    return processes.pop(OURS)


def _give_up(ours: PeerProcess, error: ChildFailed) -> None:
    """Our own process is missing, so there is nothing to compare with."""
    if ours.has_ended:
        raise error


def _pair(
    ours: PeerProcess, peer: PeerProcess, recording: Recording, *, peer_first: bool = False
) -> tuple[Answer, Answer]:
    """Return our answer and the peer's."""
    if peer_first:
        answer = peer.transcribe(recording)
        return ours.transcribe(recording), answer
    return ours.transcribe(recording), peer.transcribe(recording)


def _short_figures(clips: Sequence[Recording], texts: list[str], answers: Sequence[Answer]) -> Figures:
    seconds = _seconds(answers)
    n_rounds = len(answers) // len(clips)
    return {
        "times_real_time": times_real_time(n_rounds * total_s(clips), sum(seconds)),
        "latency_s": percentiles(seconds),
        "peak_gib": round(max(answer.peak_gib for answer in answers), 3),
        **error_rates([clip.text for clip in clips], texts),
    }


def _long_figures(recording: Recording, answer: Answer) -> Figures:
    n_words = len(PROFILES["marathi"](recording.text).split())
    return {
        "audio_s": round(recording.duration_s, 1),
        "seconds": round(answer.seconds, 2),
        "times_real_time": times_real_time(recording.duration_s, answer.seconds),
        "peak_gib": round(answer.peak_gib, 3),
        "words_written_share": round(len(PROFILES["marathi"](answer.text).split()) / n_words, 3),
        **error_rates([recording.text], [answer.text]),
    }


def _seconds(answers: Sequence[Answer]) -> list[float]:
    return [answer.seconds for answer in answers]


def _rounded(answers: Sequence[Answer]) -> list[float]:
    return [round(answer.seconds, 4) for answer in answers]
