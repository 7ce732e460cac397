"""Tiny real things that many tests share: a random Whisper, an artifact on it, something like speech."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from hypothesis import settings

from serve.engine.ctranslate2.instruction_set import choose_instruction_set
from serve.model.base_model import default_cache_dir

ROOT = Path(__file__).parents[1]
SAMPLE_RATE = 16_000
KEPT_CACHE = pytest.StashKey[Path]()
OWN_CACHE = pytest.StashKey[TemporaryDirectory]()
TINY_LANGUAGES = ("en", "hi", "mr")
TINY_LETTERS = "अआइईउऊएऐओऔकखगघचछजझटठडढणतथदधनपफबभमयरलवशषसहळ"


LARGE_MODEL_BYTES = 10 << 20
"""More than any model that tests make up: converted real ones are worth keeping."""

# Properties are tried on as many examples as these where a test names no number of its own.
settings.register_profile("quick", max_examples=100, deadline=None)
settings.register_profile("thorough", max_examples=1_000, deadline=None)
settings.load_profile("quick")


def pytest_configure(config: pytest.Config) -> None:
    """Let pass what libraries say to each other, and give the tests a cache of their own."""
    # peft reads an attribute that transformers has renamed.
    config.addinivalue_line(
        "filterwarnings", "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning:transformers"
    )
    # peft tells of adapters with saved layers.
    for message in ("Model has `tie_word_embeddings=True`", "Input and output embeddings are no longer tied"):
        config.addinivalue_line("filterwarnings", f"ignore:{message}:UserWarning")
    if not hasattr(config, "workerinput"):  # a worker of pytest-xdist inherits the cache, and shares it
        config.stash[KEPT_CACHE] = default_cache_dir()
        own = TemporaryDirectory(prefix="shrota-tests-")
        link_cache(config.stash[KEPT_CACHE], Path(own.name) / "shrota")
        config.stash[OWN_CACHE] = own
        os.environ["XDG_CACHE_HOME"] = own.name
    choose_instruction_set()  # as services do, before a test imports CTranslate2


def pytest_unconfigure(config: pytest.Config) -> None:
    """Keep the real models that were converted, and nothing else."""
    if (own := config.stash.get(OWN_CACHE, None)) is not None:
        keep_large_models(Path(own.name) / "shrota", config.stash[KEPT_CACHE])
        own.cleanup()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with whole programs: a worker that began one of these long tests last would finish alone."""
    programs = [ROOT / "tests" / folder for folder in ("", "contracts", "train/sagemaker", "train/loop")]
    items.sort(key=lambda item: item.path.parent not in programs)


def link_cache(kept: Path, own: Path) -> None:
    """Fill the cache of the tests with links: to base models, real converted ones, and what others keep."""
    (kept / "base").mkdir(parents=True, exist_ok=True)
    (own / "converted").mkdir(parents=True)
    (own / "base").symlink_to(kept / "base")
    for weights in large_weights(kept):
        (own / "converted" / weights.parent.name).symlink_to(weights.parent)
    for other in kept.parent.iterdir():
        if other != kept:
            (own.parent / other.name).symlink_to(other)


def keep_large_models(own: Path, kept: Path) -> None:
    """Move real models that were converted meanwhile to where they are kept."""
    for weights in large_weights(own):
        target = kept / "converted" / weights.parent.name
        if not weights.parent.is_symlink() and not target.exists():
            target.parent.mkdir(exist_ok=True)
            # First beside it, under a name that nobody asks for: a copy takes its time.
            moving = target.with_name(f".moving-{os.getpid()}-{target.name}")
            shutil.move(weights.parent, moving)
            try:
                moving.rename(target)
            except OSError:  # somebody else was faster
                shutil.rmtree(moving)


def large_weights(cache: Path) -> list[Path]:
    """Return the weights of the real models among the converted ones of a cache."""
    found = (cache / "converted").glob("[!.]*/model.bin")
    return [weights for weights in found if weights.stat().st_size > LARGE_MODEL_BYTES]


@pytest.fixture(scope="session")
def speech() -> np.ndarray:
    """Four seconds of a buzz with moving formants, which a detector takes for speech, between silences."""
    time_s = np.arange(4 * SAMPLE_RATE) / SAMPLE_RATE
    phase = np.cumsum(120 + 15 * np.sin(2 * np.pi * 0.7 * time_s)) / SAMPLE_RATE
    formants_hz = (500 + 250 * np.sin(4 * np.pi * time_s), 1500 + 500 * np.sin(2.6 * np.pi * time_s), 2600)
    voice = sum(
        sum(np.exp(-(((harmonic * 120 - formant) / 180) ** 2)) for formant in formants_hz)
        * np.sin(2 * np.pi * harmonic * phase)
        for harmonic in range(1, 30)
    )
    syllables = np.clip(1.4 * np.sin(4 * np.pi * time_s) ** 2, 0, 1)
    voice = voice * syllables + np.random.default_rng(0).normal(0, 0.003, len(time_s))
    silence = np.zeros(SAMPLE_RATE // 2)
    return np.concatenate([silence, 0.3 * voice / np.abs(voice).max(), silence]).astype(np.float32)


class Child:
    """A server in a child process; its log is read as it is written."""

    def __init__(self, *command: str | Path, **environ: str) -> None:
        own = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SHROTA_", "SAGEMAKER_"))
        }
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=own | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | environ,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[dict] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_for(self, event: str) -> dict:
        """Return the first line of the log that tells of this event, once it is there."""
        while True:
            ended = self.process.poll() is not None
            for line in list(self.log):
                if line.get("event") == event:
                    return line
            assert not ended, f"the log ended without {event}: {self.log}"
            time.sleep(0.02)

    def client(self) -> httpx.Client:
        """Return a client of it, once it listens."""
        port = self.wait_for("service.listening")["address"].rpartition(":")[2]
        return httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)

    def resident_bytes(self) -> int:
        """Return the resident memory of it and its own children, such as the engine's process."""
        own = psutil.Process(self.process.pid)
        total = 0
        for each in [own, *own.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                total += each.memory_info().rss
        return total

    def finish(self) -> int:
        """Return the exit status, once it has ended and its log is whole."""
        status = self.process.wait(timeout=40)
        self._reader.join(timeout=40)
        return status

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr:
            for line in self.process.stderr:
                self.log.append(json.loads(line) if line.startswith("{") else {"event": line})


@pytest.fixture(scope="session")
def start_child() -> Iterator[Callable[..., Child]]:
    """Start servers: `start_child(*command, **environ)`; what still runs at the end is killed."""
    children = []

    def start(*command: str | Path, **environ: str) -> Child:
        children.append(Child(*command, **environ))
        return children[-1]

    yield start
    for child in children:
        child.process.kill()
        child.finish()


@pytest.fixture(scope="session")
def served(start_child: Callable[..., Child]) -> Callable[..., AbstractContextManager[httpx.Client]]:
    """A context that serves a model as `make serve` does: `served(model_dir, *flags)`; gives its client."""

    @contextmanager
    def serve(model_dir: Path, *flags: str) -> Iterator[httpx.Client]:
        command = [sys.executable, "-m", "serve", "--model-dir", model_dir, "--host", "127.0.0.1"]
        child = start_child(*command, "--port", "0", *flags)
        with child.client() as client:
            child.wait_for("model.ready")
            yield client
        child.process.terminate()
        assert child.finish() == 0

    return serve


def wav_bytes(samples: np.ndarray) -> bytes:
    """Write samples as a 16-bit mono WAV file at 16 kHz."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((samples * 32_767).astype("<i2").tobytes())
    return out.getvalue()


@pytest.fixture(scope="session")
def speech_wav(speech: np.ndarray) -> bytes:
    """The same as a WAV file."""
    return wav_bytes(speech)


@pytest.fixture(scope="session")
def tiny_base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a random Whisper of two layers that speaks a few Devanagari letters."""
    import torch
    from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor
    from transformers import WhisperForConditionalGeneration as Whisper

    directory = tmp_path_factory.mktemp("tiny-base")
    special = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in TINY_LANGUAGES)]
    special += ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>"]
    special += ["<|notimestamps|>", *(f"<|{hundredths / 100:.2f}|>" for hundredths in range(0, 3002, 2))]
    numbers = {token: number for number, token in enumerate([*TINY_LETTERS, *special])}
    _write_tokenizer(directory, numbers, special)
    end, start = numbers["<|endoftext|>"], numbers["<|startoftranscript|>"]
    config = WhisperConfig(
        vocab_size=len(numbers),
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=start,
        init_std=0.5,  # with the usual 0.02 every token would be as likely as any other
    )
    torch.manual_seed(0)
    model = Whisper(config)
    model.generation_config = GenerationConfig(
        decoder_start_token_id=start,
        eos_token_id=end,
        pad_token_id=end,
        is_multilingual=True,
        lang_to_id={f"<|{code}|>": numbers[f"<|{code}|>"] for code in TINY_LANGUAGES},
        task_to_id={task: numbers[f"<|{task}|>"] for task in ("translate", "transcribe")},
        no_timestamps_token_id=numbers["<|notimestamps|>"],
        suppress_tokens=[numbers["अ"]],
        begin_suppress_tokens=[numbers["आ"], end],
    )
    model.save_pretrained(directory)
    WhisperFeatureExtractor().save_pretrained(directory)
    return directory


def _write_tokenizer(directory: Path, numbers: dict[str, int], special: list[str]) -> None:
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel(numbers, unk_token=TINY_LETTERS[0]))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "WhisperTokenizer",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.fixture(scope="session")
def tiny_artifact_dir(tiny_base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact named `tiny-mr`: a random adapter for the tiny base, with short windows."""
    directory = tmp_path_factory.mktemp("tiny-artifact")
    _write_tiny_artifact(tiny_base_dir, directory)
    return directory


@pytest.fixture(scope="session")
def write_tiny_artifact(tiny_base_dir: Path) -> Callable[..., Path]:
    """A function that writes another: `write_tiny_artifact(directory, seed=2, name=..., language=...)`.

    `lora` holds what its LoraConfig has besides, such as `modules_to_save`.
    """

    def write(
        directory: Path, *, seed: int = 2, lora: dict[str, object] | None = None, **facts: object
    ) -> Path:
        directory.mkdir(parents=True)
        _write_tiny_artifact(tiny_base_dir, directory, seed, lora, **facts)
        return directory

    return write


def _write_tiny_artifact(
    tiny_base_dir: Path,
    directory: Path,
    seed: int = 1,
    lora: dict[str, object] | None = None,
    **facts: object,
) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import WhisperForConditionalGeneration as Whisper

    from serve.model.artifact import SCHEMA_VERSION, BaseModel, Manifest, write_manifest
    from serve.model.base_model import base_fingerprint

    model = Whisper.from_pretrained(tiny_base_dir)
    usual_lora = {"r": 4, "target_modules": ["q_proj", "v_proj", "fc1"]}
    adapted = get_peft_model(model, LoraConfig(**{**usual_lora, **(lora or {})}))
    torch.manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name or ".modules_to_save." in name:
            # lora_B begins as zeros, with which the adapter would change nothing
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(directory / "adapter")
    base = BaseModel(name=str(tiny_base_dir), fingerprint=base_fingerprint(tiny_base_dir))
    usual = {"name": "tiny-mr", "language": "mr", "encoder_context": "dynamic", "max_window_s": 12.0}
    write_manifest(directory, Manifest(schema_version=SCHEMA_VERSION, base_model=base, **{**usual, **facts}))


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """An S3 server on loopback with one bucket, as botocore finds it by the environment."""
    import fsspec
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        # moto keeps its buckets for the process, so an earlier server's are still there
        httpx.post(f"http://{host}:{port}/moto-api/reset").raise_for_status()
        storage = fsspec.filesystem("s3", skip_instance_cache=True)
        storage.mkdir("bucket")
        yield storage
    server.stop()
