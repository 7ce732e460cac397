"""Measure hallucinations: silence, noise, tones and music must give no text."""

from __future__ import annotations

from bench.serving.children import ChildFailed, PeerProcess
from bench.serving.figures import Figures
from bench.serving.peers import OURS, PEERS
from bench.serving.recordings import no_speech_clips, short_clips
from bench.serving.setup import NO_SPEECH, Setup
from serve.config.progress import progress_bar

COMPARED = (OURS, "faster-whisper-vad", "faster-whisper", "openai-whisper")


def measure_no_speech(setup: Setup) -> Figures:
    """Transcribe recordings without speech; return the share of empty texts, by kind."""
    clips = no_speech_clips(NO_SPEECH, setup.plan.no_speech_clips)
    (warm_up,) = short_clips(setup, 1)
    peers: Figures = {}
    failed: Figures = {}
    for name in COMPARED:
        kinds: dict[str, list[bool]] = {}
        try:
            with (
                PeerProcess(setup, name, warm_up) as process,
                progress_bar(f"no speech, {PEERS[name].label}", len(clips), "clips") as advance,
            ):
                for clip in clips:
                    text = process.transcribe(clip, settle_s=0).text
                    kinds.setdefault(clip.kind, []).append(not text)
                    advance()
        except ChildFailed as error:
            failed[name] = str(error)
            continue
        empty = [found for each in kinds.values() for found in each]
        peers[name] = {
            "empty_share": round(sum(empty) / len(empty), 4),
            "by_kind": {kind: round(sum(found) / len(found), 4) for kind, found in kinds.items()},
        }
    return {"clips": len(clips), "peers": peers, "failed": failed}
