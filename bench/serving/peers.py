"""Peers: other ways to run the same merged weights on samples in memory, set up the way their users do.

All decode greedily and without retries at higher temperatures, which would only cost the peers time. "beam 5"
is faster-whisper with its defaults. Timestamps are switched off where nothing needs them, which saves tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.serving.weights import CT2, FIXED_ARTIFACT, GGML, OPENAI, TRANSFORMERS
from serve.audio.samples import SAMPLE_RATE, Samples

Transcribe = Callable[[Samples], str]

OURS = "ours"
REFERENCE = "ours-fp32-30s"


@dataclass(frozen=True, kw_only=True)
class Job:
    """How a peer is loaded."""

    artifact_dir: Path
    weights: Path
    """Directory of `prepare_weights`."""
    engine: str
    """Quantization of our pipeline."""
    language: str | None
    n_threads: int
    long: bool
    """Whether it transcribes recordings of minutes, not clips."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A peer."""

    label: str
    load: Callable[[Job], Transcribe]
    distribution: str = "shrota"
    """Package whose version is reported."""
    slow: bool = False
    """Whether it gets only the beginning of long recordings."""


def _load_ours(job: Job) -> Transcribe:
    return _pipeline(job.artifact_dir, job, engine=job.engine, quantization="int8")


def _load_reference(job: Job) -> Transcribe:
    return _pipeline(job.weights / FIXED_ARTIFACT, job, engine="transformers", quantization="none")


def _pipeline(model_dir: Path, job: Job, **options: Any) -> Transcribe:
    from serve.service.loading import load_pipeline

    pipeline = load_pipeline(model_dir, n_threads=job.n_threads, offline=True, **options)
    return lambda samples: pipeline.transcribe_many([samples])[0].text


def _load_faster_whisper(job: Job, *, vad: bool = False, batched: bool = False) -> Transcribe:
    from faster_whisper import BatchedInferencePipeline

    model = _faster_whisper_model(job)
    greedy: dict[str, Any] = {"language": job.language, "beam_size": 1, "temperature": 0.0}
    if batched:
        greedy |= {"without_timestamps": True, "vad_filter": job.long}
        if not job.long:  # a clip is one piece
            return lambda samples: _joined(
                BatchedInferencePipeline(model).transcribe(
                    samples, clip_timestamps=[{"start": 0.0, "end": len(samples) / SAMPLE_RATE}], **greedy
                )
            )
        pipeline = BatchedInferencePipeline(model)
        return lambda samples: _joined(pipeline.transcribe(samples, batch_size=8, **greedy))
    greedy |= {"without_timestamps": not job.long, "condition_on_previous_text": False, "vad_filter": vad}
    return lambda samples: _joined(model.transcribe(samples, **greedy))


def _load_faster_whisper_vad(job: Job) -> Transcribe:
    return _load_faster_whisper(job, vad=True)


def _load_faster_whisper_batched(job: Job) -> Transcribe:
    return _load_faster_whisper(job, batched=True)


def _load_faster_whisper_defaults(job: Job) -> Transcribe:
    model = _faster_whisper_model(job)
    return lambda samples: _joined(model.transcribe(samples, language=job.language, vad_filter=job.long))


def _faster_whisper_model(job: Job) -> Any:
    from faster_whisper import WhisperModel

    return WhisperModel(str(job.weights / CT2), device="cpu", compute_type="int8", cpu_threads=job.n_threads)


def _joined(answer: tuple[Any, Any]) -> str:
    segments, _ = answer  # decoded while they are read
    return " ".join(segment.text.strip() for segment in segments)


def _load_transformers(job: Job) -> Transcribe:
    import torch
    from transformers import pipeline

    torch.set_num_threads(job.n_threads)
    long_form: dict[str, Any] = {"chunk_length_s": 30, "batch_size": 4} if job.long else {}
    recognise = pipeline(
        "automatic-speech-recognition",
        model=str(job.weights / TRANSFORMERS),
        dtype=torch.float32,
        device="cpu",
        **long_form,
    )
    generate = {"language": job.language, "task": "transcribe", "num_beams": 1}

    def transcribe(samples: Samples) -> str:
        given = {"raw": samples, "sampling_rate": SAMPLE_RATE}
        return str(recognise(given, generate_kwargs=generate)["text"])

    return transcribe


def _load_openai_whisper(job: Job) -> Transcribe:
    import torch
    import whisper

    torch.set_num_threads(job.n_threads)
    model = whisper.load_model(str(job.weights / OPENAI), device="cpu")

    def transcribe(samples: Samples) -> str:
        answer = model.transcribe(
            samples,
            language=job.language,
            fp16=False,
            temperature=0.0,
            without_timestamps=not job.long,
            condition_on_previous_text=False,
        )
        return str(answer["text"])

    return transcribe


def _load_whisper_cpp(job: Job) -> Transcribe:
    from pywhispercpp.model import Model

    model = Model(
        str(job.weights / GGML),
        n_threads=job.n_threads,
        language=job.language or "auto",
        print_progress=False,
        print_timestamps=False,
        no_timestamps=not job.long,
        temperature_inc=0.0,
        greedy={"best_of": 1},
    )
    return lambda samples: " ".join(segment.text for segment in model.transcribe(samples))


PEERS = {
    OURS: Peer(label="shrota", load=_load_ours),
    REFERENCE: Peer(label="shrota fp32, 30 s windows", load=_load_reference, slow=True),
    "faster-whisper": Peer(
        label="faster-whisper int8", load=_load_faster_whisper, distribution="faster-whisper"
    ),
    "faster-whisper-vad": Peer(
        label="faster-whisper int8, VAD", load=_load_faster_whisper_vad, distribution="faster-whisper"
    ),
    "faster-whisper-batched": Peer(
        label="faster-whisper int8, batched", load=_load_faster_whisper_batched, distribution="faster-whisper"
    ),
    "faster-whisper-beam5": Peer(
        label="faster-whisper int8, beam 5",
        load=_load_faster_whisper_defaults,
        distribution="faster-whisper",
        slow=True,
    ),
    "transformers": Peer(
        label="transformers fp32", load=_load_transformers, distribution="transformers", slow=True
    ),
    "openai-whisper": Peer(
        label="openai-whisper fp32", load=_load_openai_whisper, distribution="openai-whisper", slow=True
    ),
    "whisper.cpp": Peer(
        label="whisper.cpp q8_0", load=_load_whisper_cpp, distribution="pywhispercpp", slow=True
    ),
}
FASTER_WHISPER = [name for name in PEERS if name.startswith("faster-whisper") and name[-1] != "5"]
"""Peers that decode greedily; the fastest of them is the one to beat."""
