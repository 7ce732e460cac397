"""Play test clips through a telephone line and an echoing room, to see how an adapter hears them there.

The filters are ffmpeg's, not those of `train.augment`: a test must not repeat the very distortions of
training.
"""

from __future__ import annotations

import json
from pathlib import Path

import ffmpeg

from train.errors import DataError
from train.progress import progress_bar

CONDITIONS = ("telephone", "room")


def write_condition(manifest: Path, condition: str) -> Path:
    """Write `STEM-CONDITION.jsonl` beside a manifest, and the changed clips beside the clips; return it.

    Args:
        manifest: JSONL whose `audio` paths are relative to its directory.
        condition: one of `CONDITIONS`.

    Raises:
        DataError: ffmpeg is missing, or refuses a clip.
    """
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    changed = []
    with progress_bar(f"{manifest.stem}, {condition}", len(rows), "clips") as advance:
        for row in rows:
            clip = Path(row["audio"])
            audio = clip.with_name(f"{clip.stem}-{condition}.flac")
            if not (manifest.parent / audio).is_file():
                _play(manifest.parent / clip, manifest.parent / audio, condition)
            changed.append({**row, "audio": str(audio), "duration_s": None})
            advance()
    target = manifest.with_name(f"{manifest.stem}-{condition}.jsonl")
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in changed)
    target.write_text("".join(lines), encoding="utf-8")
    return target


def _play(clip: Path, target: Path, condition: str) -> None:
    sound = ffmpeg.input(str(clip))
    try:
        if condition == "telephone":
            # A real codec in between: 8 kHz mu-law, as a digital telephone line carries it.
            line = sound.filter("highpass", f=300).filter("lowpass", f=3400)
            line = line.output("pipe:", format="mulaw", acodec="pcm_mulaw", ar=8000, ac=1)
            coded, _ = line.run(capture_stdout=True, capture_stderr=True)
            heard = ffmpeg.input("pipe:", format="mulaw", ar=8000, ac=1)
            heard.output(str(target), ar=16000).run(input=coded, capture_stderr=True, overwrite_output=True)
        else:
            # Early reflections of a bare room of some six metres, dying away over a third of a second.
            delays_ms, decays = "23|41|67|97|139|211", "0.5|0.42|0.35|0.28|0.2|0.12"
            room = sound.filter("apad", pad_dur=0.3).filter("aecho", 0.8, 0.7, delays_ms, decays)
            room.output(str(target), ar=16000).run(capture_stderr=True, overwrite_output=True)
    except FileNotFoundError as error:
        raise DataError("ffmpeg is not installed: run `make system-deps` to install it") from error
    except ffmpeg.Error as error:
        raise DataError(f"ffmpeg could not change {clip}") from error
