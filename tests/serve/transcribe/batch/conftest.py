"""Corpora of real clips, and the command run as a person runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import soundfile

ROOT = Path(__file__).parents[4]
SAMPLES = [ROOT / "tests" / "data" / f"sample-{language}.flac" for language in ("mr", "en")]
SPOKEN = ROOT / "data" / "mr" / "clips"
"""Clips of `make data`, where it has been made."""


DEADLY = """
import os, signal, sys

def die(event, arguments):
    if event == "open" and "deadly" in str(arguments[0]) and "ctranslate2" in sys.modules:
        os.kill(os.getpid(), signal.SIGSEGV)

sys.addaudithook(die)
"""
"""Start-up code of a Python in which whoever has a model and opens a recording named deadly really dies."""


class Batch:
    """The command `shrota batch`, and what it writes."""

    def __init__(self) -> None:
        self.start_up: Path | None = None
        """Folder with a `sitecustomize.py` for all processes of the command."""

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("SHROTA_")}
        path = os.pathsep.join(str(each) for each in (self.start_up, ROOT) if each)
        return subprocess.Popen(
            [sys.executable, "-m", "serve.transcribe.batch", *map(str, arguments)],
            cwd=ROOT,
            env=own | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "COLUMNS": "200"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )

    def run(self, source: object, output: object, *arguments: object) -> str:
        """Transcribe a corpus, and return what was said on standard error."""
        child = self.start("--input", source, "--output", output, *arguments)
        _, errors = child.communicate(timeout=1_800)
        assert child.returncode == 0, errors
        assert "Traceback" not in errors
        return errors

    def refusal(self, source: object, output: object, *arguments: object) -> str:
        """Return why a run is refused."""
        child = self.start("--input", source, "--output", output, *arguments)
        _, errors = child.communicate(timeout=600)
        assert child.returncode == 1 and "Traceback" not in errors
        return errors

    def rows(self, output: Path) -> list[dict]:
        shards = sorted((output / "results").glob("*.jsonl"))
        return [json.loads(line) for shard in shards for line in shard.read_text("utf-8").splitlines()]

    def texts(self, output: Path) -> dict[str, str]:
        return {row["path"]: row["text"] for row in self.rows(output)}

    def quarantined(self, output: Path) -> dict[str, str]:
        """Return the files in quarantine by name, and their errors."""
        lines = (output / "quarantine.jsonl").read_text("utf-8").splitlines()
        return {Path(each["path"]).name: each["error"] for each in map(json.loads, lines)}

    def assert_each_once(self, output: Path, clips: list[Path]) -> None:
        """Require one row for each clip, and none besides."""
        assert Counter(row["path"] for row in self.rows(output)) == Counter(map(str, clips))

    def write_clips(self, folder: Path, count: int) -> list[Path]:
        """Write clips of speech whose contents all differ: those of `make data`, or cuts of the samples."""
        folder.mkdir(parents=True, exist_ok=True)
        spoken = sorted(SPOKEN.glob("*.flac"))[:count]
        if len(spoken) == count > 100:
            return [Path(shutil.copy(clip, folder)) for clip in spoken]
        sounds = [soundfile.read(sample, dtype="int16") for sample in SAMPLES]
        clips = []
        for number in range(count):
            samples, sample_rate = sounds[number % 2]
            clips.append(folder / f"clip-{number:04d}.flac")
            soundfile.write(clips[-1], samples[number * 16 : len(samples) - number % 7 * 2_000], sample_rate)
        return clips


@pytest.fixture(scope="session")
def batch() -> Batch:
    return Batch()


@pytest.fixture
def deadly(tmp_path: Path) -> Batch:
    """The command, whose workers die of recordings named deadly."""
    command = Batch()
    command.start_up = tmp_path / "start-up"
    command.start_up.mkdir()
    (command.start_up / "sitecustomize.py").write_text(DEADLY)
    return command


@pytest.fixture
def corpus(tmp_path: Path, batch: Batch) -> Path:
    """A dozen clips in two folders, one of them twice, and two files that are none."""
    folder = tmp_path / "corpus"
    clips = batch.write_clips(folder, 12)
    (folder / "more").mkdir()
    for clip in clips[9:]:
        clip.rename(folder / "more" / clip.name)
    shutil.copy(clips[0], folder / "more" / "copy.flac")
    (folder / "broken.flac").write_bytes(clips[1].read_bytes()[:9_000])
    (folder / "empty.wav").touch()
    return folder
