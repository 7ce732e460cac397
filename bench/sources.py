"""Train with the smoke configuration from every kind of source, on the same clips in each format.

Writes bench/sources.json.

    python bench/sources.py                               # ten steps from each, about ten minutes
    python bench/sources.py --max-minutes 10              # ten minutes from each, an hour and a half
    python bench/sources.py --steps 15 --at-once 8        # all side by side, each on a share of the cores

Directories of Parquet files with the same columns, read by the same `datasets`, stand in for corpora of the
Hugging Face hub. A read-only directory stands in for a SageMaker channel in FastFile mode.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import click  # noqa: E402
import pyarrow  # noqa: E402
import pyarrow.parquet  # noqa: E402
import soundfile  # noqa: E402
from rich.console import Console  # noqa: E402

from bench.serving.machine import begin_record, write_record  # noqa: E402
from serve.audio.samples import SAMPLE_RATE  # noqa: E402
from train.data.manifest import Clip, load_samples, read_manifest  # noqa: E402

FILE = click.Path(path_type=Path)
CONFIG = "train/configs/smoke.yaml"
STEPS_A_MINUTE = 6.0
"""Rough time of a step of the smoke configuration on two cores, for --max-minutes."""


def as_manifest(clips: list[Clip], scratch: Path) -> str:
    """JSONL, as `make data` writes it."""
    path = scratch / "manifest" / "train.jsonl"
    path.parent.mkdir()
    rows = [{"audio": str(clip.path), "text": clip.text, "voice": clip.voice} for clip in clips]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def as_common_voice(clips: list[Clip], scratch: Path) -> str:
    """A release as downloaded: MP3s at 32 kHz, a table for each split."""
    release = scratch / "cv-corpus" / "mr"
    (release / "clips").mkdir(parents=True)
    lines: dict[str, list[str]] = {"train": [], "dev": []}
    for number, clip in enumerate(clips):
        name = f"common_voice_mr_{number}.mp3"
        _encode(clip, release / "clips" / name, "-ar", "32000")
        row = "\t".join([f"speaker-{clip.voice}", name, clip.text, "2", "0", "mr"])
        lines["dev" if number % 5 == 4 else "train"].append(row)
    head = "\t".join(["client_id", "path", "sentence", "up_votes", "down_votes", "locale"])
    for split, rows in {**lines, "test": lines["dev"]}.items():
        (release / f"{split}.tsv").write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return f"commonvoice:{release}"


def as_folder(clips: list[Clip], scratch: Path) -> str:
    """Recordings with transcripts beside them: stereo WAV at 44.1 kHz."""
    folder = scratch / "folder"
    folder.mkdir()
    for number, clip in enumerate(clips):
        _encode(clip, folder / f"{number}.wav", "-ar", "44100", "-ac", "2")
        (folder / f"{number}.txt").write_text(clip.text, encoding="utf-8")
    return f"folder:{folder}"


def as_hub(clips: list[Clip], scratch: Path) -> str:
    """A dataset of the hub by its name and columns: Common Voice's, in Parquet."""
    return f"hf:{_parquet(clips, scratch / 'hub', 'sentence', 'train')}:mr_in"


def as_streamed_preset(clips: list[Clip], scratch: Path) -> str:
    """FLEURS, streamed; a directory stands in for its repository."""
    return f"fleurs?repo={_parquet(clips, scratch / 'fleurs', 'transcription', 'train')}&streaming=true"


def as_shards(clips: list[Clip], scratch: Path) -> str:
    """What `shrota prepare` makes of a manifest, in several shards."""
    source = as_manifest(clips, scratch / "before")
    command = [
        sys.executable,
        "-m",
        "train.command_line",
        "prepare",
        source,
        "--output-dir",
        str(scratch / "shards"),
    ]
    subprocess.run([*command, "--shard-mb", "2"], cwd=ROOT, check=True, capture_output=True)
    return f"shards:{scratch / 'shards'}"


def as_channel(clips: list[Clip], scratch: Path) -> str:
    """An input channel of a training job that holds shards, mounted read-only."""
    shards = as_shards(clips, scratch / "channel").removeprefix("shards:")
    channel = scratch / "opt-ml" / "input" / "data" / "train"
    shutil.copytree(shards, channel, ignore=shutil.ignore_patterns(".lock"))
    for path in [*channel.iterdir(), channel]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    return "channel:train"


def as_synthesis(clips: list[Clip], scratch: Path) -> str:
    """The synthetic builder itself, from text to manifest."""
    command = [sys.executable, "-m", "train.command_line", "data", "--output-dir", str(scratch / "synthetic")]
    amounts = dict.fromkeys(("catalogue", "exchanged", "words", "kokoro", "piper"), 0)
    amounts |= {"everyday": len(clips), "test": 10}
    command += [part for name, amount in amounts.items() for part in (f"--{name}", str(amount))]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return str(scratch / "synthetic" / "train.jsonl")


FORMS: dict[str, Callable[[list[Clip], Path], str]] = {
    "manifest": as_manifest,
    "commonvoice": as_common_voice,
    "folder": as_folder,
    "hub": as_hub,
    "hub preset, streamed": as_streamed_preset,
    "shards": as_shards,
    "sagemaker channel": as_channel,
    "synthesis": as_synthesis,
}


@click.command(context_settings={"show_default": True})
@click.option(
    "--manifest", type=FILE, default=ROOT / "data/mr/train.jsonl", help="Corpus to take clips from."
)
@click.option("--clips", default=120, help="Clips in each source.")
@click.option("--steps", default=10, help="Steps of each run.")
@click.option("--max-minutes", default=0.0, help="About how long each trains, in place of steps.")
@click.option("--at-once", default=1, help="Runs side by side.")
@click.option("--output", type=FILE, default=ROOT / "bench" / "sources.json", help="File of the figures.")
def main(manifest: Path, clips: int, steps: int, max_minutes: float, at_once: int, output: Path) -> None:
    """Train a few steps from every kind of source, and print how they went."""
    console = Console(width=150)
    if not manifest.is_file():
        raise SystemExit(f"{manifest} does not exist: `make data` builds the corpus")
    chosen = read_manifest(manifest)[:clips]
    steps = round(max_minutes * STEPS_A_MINUTE) or steps
    record = begin_record(1 if at_once > 1 else os.cpu_count() or 1)

    def run(name: str) -> dict[str, Any]:
        scratch = Path(directory) / name.replace(" ", "-").replace(",", "")
        for part in (scratch, scratch / "before", scratch / "channel", scratch / "channel" / "before"):
            part.mkdir(parents=True, exist_ok=True)
        found = train(FORMS[name](chosen, scratch), steps, scratch, n_threads=0 if at_once == 1 else 1)
        console.print(f"{name}: {found}", highlight=False)
        for path in scratch.rglob("*"):
            if path.is_dir():
                path.chmod(0o755)  # a read-only channel could not be removed
        return found

    with (
        tempfile.TemporaryDirectory(prefix="shrota-sources-") as directory,
        ThreadPoolExecutor(at_once) as pool,
    ):
        runs = dict(zip(FORMS, pool.map(run, FORMS), strict=True))
    write_record({**record, "steps": steps, "at_once": at_once, "runs": runs}, output)
    console.print(f"written to {output}")


def train(source: str, steps: int, scratch: Path, *, n_threads: int) -> dict[str, Any]:
    """Train on a source and return the figures of the run."""
    run = scratch / "run"
    command = [sys.executable, "train/run.py", "--config", CONFIG, "--output_dir", str(run)]
    command += ["--train_data", source, "--valid_data", "[]", "--test_data", "[]", "--max_steps", str(steps)]
    command += ["--n_threads", str(n_threads)]
    started = time.monotonic()
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "SAGEMAKER_BASE_DIR": str(scratch / "opt-ml")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(
            f"training from {source} ended with status {done.returncode}:\n{done.stderr[-2000:]}"
        )
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    found = re.search(r"(\d+) training clips, (\d+) left out", done.stderr)
    assert found is not None, done.stderr
    third = max(1, len(losses) // 3)
    return {
        "training_clips": int(found[1]),
        "left_out": int(found[2]),
        "steps": len(losses),
        "loss_first_third": round(sum(losses[:third]) / third, 3),
        "loss_last_third": round(sum(losses[-third:]) / third, 3),
        "artifact": (run / "artifact" / "manifest.json").is_file(),
        "seconds": round(time.monotonic() - started, 1),
    }


def _encode(clip: Clip, target: Path, *options: str) -> None:
    command = ["ffmpeg", "-v", "error", "-i", str(clip.path), *options, str(target)]
    subprocess.run(command, check=True)


def _parquet(clips: list[Clip], directory: Path, text: str, split: str) -> Path:
    """Write clips in the hub's format: a column of FLAC files as bytes, and a column of text."""
    part = directory / "mr_in" / split  # as the hub's own conversion lays files out
    part.mkdir(parents=True)
    audio = []
    for number, clip in enumerate(clips):
        flac = directory / f"{number}.flac"
        soundfile.write(flac, load_samples(clip), SAMPLE_RATE)
        audio.append({"bytes": flac.read_bytes(), "path": flac.name})
        flac.unlink()
    table = pyarrow.table({"audio": audio, text: [clip.text for clip in clips]})
    pyarrow.parquet.write_table(table, part / "0000.parquet")
    return directory


if __name__ == "__main__":
    main()
