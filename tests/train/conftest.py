"""A corpus of a dozen tones, a tiny Whisper to train on it, the real base model where only that will do."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from serve.audio.features import FeatureExtractor
from serve.audio.samples import SAMPLE_RATE
from serve.engine.vocabulary import Vocabulary
from serve.model.base_model import resolve_base_model
from train.config import TrainConfig
from train.data.manifest import Clip, read_manifest
from train.evaluate.evaluation import compare_with_base, group_scores, utterance_rows
from train.examples.collate import Collator
from train.loop.loop import Outcome, train_adapter
from train.model.build import build_model

CPU = torch.device("cpu")
LETTERS = "कखगघचछजझटठडढ"
SENTENCES = [
    *("पाऊस आला", "ती घरी गेली", "आज सुट्टी आहे", "मला चहा हवा"),
    *("रस्ता लांब आहे", "तो झोपला", "दार उघड", "पाणी दे"),
]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny products are slower on several threads, and sums must not depend on the number of cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def whisper_base_dir() -> Path:
    """The real openai/whisper-base, from the cache if it is there."""
    return resolve_base_model("openai/whisper-base")


@pytest.fixture(scope="session")
def tiny_manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve tones of 0.7 to 1.8 s; each is called by three letters that the tiny tokenizer knows."""
    directory = tmp_path_factory.mktemp("tiny-corpus")
    lines = []
    for number in range(12):
        time_s = np.arange(round((0.7 + 0.1 * number) * SAMPLE_RATE)) / SAMPLE_RATE
        samples = 0.3 * np.sin(2 * np.pi * 200 * (1 + number) * time_s)
        soundfile.write(directory / f"{number}.wav", samples, SAMPLE_RATE)
        text = " ".join(LETTERS[(number + step) % 12] for step in range(3))
        row = {"audio": f"{number}.wav", "text": text, "duration_s": len(samples) / SAMPLE_RATE}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    (directory / "tones.jsonl").write_text("".join(lines), encoding="utf-8")
    return directory / "tones.jsonl"


@pytest.fixture
def wavs(tmp_path: Path) -> Path:
    """A directory with eight WAV files of 1 to 1.7 s and `clips.jsonl`, which names them."""
    directory = tmp_path / "wavs"
    directory.mkdir()
    lines = []
    for number, sentence in enumerate(SENTENCES):
        time_s = np.arange(round((1 + 0.1 * number) * SAMPLE_RATE)) / SAMPLE_RATE
        samples = 0.3 * np.sin(2 * np.pi * (200 + 40 * number) * time_s)
        soundfile.write(directory / f"{number}.wav", samples, SAMPLE_RATE)
        row = {"audio": f"{number}.wav", "text": sentence, "voice": f"v{number % 3}"}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    (directory / "clips.jsonl").write_text("".join(lines), encoding="utf-8")
    return directory


@pytest.fixture
def common_voice(tmp_path: Path, wavs: Path) -> Path:
    """A release of six real MP3s at 32 kHz, as Common Voice has them: two in each of train, dev and test."""
    release = tmp_path / "cv-corpus-17.0" / "mr"
    (release / "clips").mkdir(parents=True)
    for place, split in enumerate(("train", "dev", "test")):
        lines = ["client_id\tpath\tsentence\tlocale"]
        for number in (2 * place, 2 * place + 1):
            mp3 = release / "clips" / f"cv_{number}.mp3"
            command = ["ffmpeg", "-v", "error", "-i", str(wavs / f"{number}.wav"), "-ar", "32000", str(mp3)]
            subprocess.run(command, check=True)
            lines.append(f"speaker{place}\tcv_{number}.mp3\t{SENTENCES[number]}\tmr")
        (release / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return release


@pytest.fixture
def tiny_config(tiny_base_dir: Path, tiny_manifest: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Return a function that makes a configuration for the tiny base and corpus, with changes."""

    def make(**changes: Any) -> TrainConfig:
        values = {
            "name": "tiny",
            "output_dir": tmp_path / "run",
            "base_model": str(tiny_base_dir),
            "quantization": "none",
            "train_data": (str(tiny_manifest),),
            "lora_rank": 4,
            "lora_alpha": 8,
            "lora_dropout": 0.0,
            "lora_targets": ("q_proj", "v_proj", "fc1"),
            "max_window_s": 4.0,
            "batch_s": 8.0,
            "max_steps": 6,
            "learning_rate": 1e-2,
            "log_every_steps": 1,
            "save_every_steps": 3,
            "eval_every_steps": 0,
        }
        return TrainConfig(**{**values, **changes})

    return make


@pytest.fixture
def tiny_collator(tiny_base_dir: Path) -> Callable[..., Collator]:
    """Return a function that makes the collator of a configuration's training clips."""
    features, vocabulary = FeatureExtractor(tiny_base_dir), Vocabulary.read(tiny_base_dir)

    def make(config: TrainConfig, *, augmented: bool = True) -> Collator:
        return Collator(
            read_manifest(Path(config.train_data[0])), config, features, vocabulary, augmented=augmented
        )

    return make


@pytest.fixture
def tiny_model(tiny_base_dir: Path) -> Callable[[TrainConfig], Any]:
    """Return a function that makes a tiny Whisper with fresh adapters, the same each time."""

    def make(config: TrainConfig) -> Any:
        torch.manual_seed(config.seed)
        return build_model(tiny_base_dir, config, CPU)

    return make


@pytest.fixture
def train(
    tiny_model: Callable[[TrainConfig], Any], tiny_collator: Callable[..., Collator]
) -> Callable[..., Outcome]:
    """Return a function that trains a tiny model as a configuration says."""

    def run(
        config: TrainConfig, *, train_data: Collator | None = None, valid_data: Collator | None = None
    ) -> Outcome:
        config.output_dir.mkdir(parents=True, exist_ok=True)
        return train_adapter(tiny_model(config), config, train_data or tiny_collator(config), valid_data, CPU)

    return run


@pytest.fixture(scope="session")
def results() -> dict[str, Any]:
    """What an evaluation of base and tuned on one test set found, by scoring two small lists of texts."""
    references = ["घर लाल आहे", "दार मोठे आहे", "शिक्षणाच्या किती वाटा", "आज पाऊस पडला"]
    written = {
        "base": ["<b>ghar</b> lal", "दर मोते आये", "शिक्षण|किती", "आज आज आज आज"],
        "tuned": ["गर लाल आहे", "दार मोठे आहे", "शिक्षणाच्या कीती वाटा", "आज पाऊस पडला"],
    }
    clips = [
        Clip(
            path=Path("none.wav"),
            text=text,
            start_s=0.0,
            duration_s=1.5 + 2 * number,
            language="mr",
            voice="espeak-f1",
            kind="formant",
            origin=f"test.jsonl:{number + 1}",
        )
        for number, text in enumerate(references)
    ]
    models = {
        label: {
            "manifest": "test.jsonl",
            "profile": "marathi",
            "audio_s": 12.0,
            "times_real_time": 3.0,
            **group_scores(clips, texts, ("raw", "marathi")),
            "utterances": utterance_rows(clips, texts, "marathi"),
        }
        for label, texts in written.items()
    }
    comparison = compare_with_base(models)
    assert comparison is not None
    models["tuned"]["against_base"] = asdict(comparison)
    return {"test-everyday": models}
