"""Measure the shipped adapter through its HTTP service: accuracy, streaming, bad input.

Writes bench/serve.json.

    python bench/serve.py                           # the test sets of `make data`
    python bench/serve.py --manifest FILE.jsonl     # other recordings

The service is a child process on a port of this machine, started as `make serve` starts it. Clips are posted
one at a time, as files; what is scored is the text of the JSON answers.
"""

from __future__ import annotations

import io
import json
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import httpx  # noqa: E402
import numpy as np  # noqa: E402
import soundfile  # noqa: E402
import torch  # noqa: E402
import typer  # noqa: E402
from rich.console import Console  # noqa: E402

from serve.features import SAMPLE_RATE, Samples  # noqa: E402
from serve.progress import progress_bar  # noqa: E402
from train.data.manifest import Clip, load_samples, read_audio, read_manifest  # noqa: E402
from train.evaluation import REPORTED_PROFILES  # noqa: E402
from train.scoring import score  # noqa: E402
from train.tables import score_table  # noqa: E402

TEST_SETS = [
    ROOT / "data" / "mr" / f"test-{name}.jsonl"
    for name in ("catalogue", "everyday", "everyday-telephone", "everyday-room")
]
LONG_RECORDING_S = 300.0


@contextmanager
def service(model_dir: Path, quantization: str) -> Iterator[httpx.Client]:
    """Run the service as a child process and yield a client, once it answers that it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "serve", "--model-dir", str(model_dir), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--quantization", quantization]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=1200) as client:
            wait_until_ready(client, child)
            yield client
    finally:
        child.terminate()
        child.wait(30)


def wait_until_ready(client: httpx.Client, child: subprocess.Popen[bytes]) -> None:
    """Return once `/ping` answers 200."""
    for _ in range(600):
        if child.poll() is not None:
            raise SystemExit(f"the service ended with status {child.returncode}")
        try:
            if client.get("/ping").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise SystemExit("the service was not ready within five minutes")


def measure_accuracy(
    client: httpx.Client, manifest: Path, adapter: str | None, max_clips: int
) -> dict[str, Any]:
    """Post every clip of a manifest and score the answers."""
    clips = read_manifest(manifest)[: max_clips or None]
    parameters = {} if adapter is None else {"adapter": adapter}
    texts: list[str] = []
    latencies_s: list[float] = []
    with progress_bar(f"{manifest.stem}, {adapter or 'tuned'}", len(clips), "clips") as advance:
        for clip in clips:
            started = time.perf_counter()
            answer = client.post("/invocations", content=read_audio(clip), params=parameters)
            latencies_s.append(time.perf_counter() - started)
            texts.append(answer.raise_for_status().json()["text"])
            advance()
    references = [clip.text for clip in clips]
    audio_s = sum(clip.duration_s for clip in clips)
    return {
        "manifest": manifest.name,
        "audio_s": round(audio_s, 1),
        "times_real_time": round(audio_s / sum(latencies_s), 2),
        "latency_s": {f"p{p}": round(float(np.percentile(latencies_s, p)), 3) for p in (50, 95, 99)},
        "scores": {profile: score(references, texts, profile).as_dict() for profile in REPORTED_PROFILES},
    }


def long_recording(clips: list[Clip], duration_s: float) -> tuple[Samples, str]:
    """Join clips with pauses of 0.4 to 1.2 s until they last `duration_s`; return samples and words."""
    rng = np.random.default_rng(0)
    pieces: list[Samples] = []
    words: list[str] = []
    while sum(map(len, pieces)) < duration_s * SAMPLE_RATE:
        clip = clips[len(words) % len(clips)]
        pieces += [load_samples(clip), np.zeros(round(rng.uniform(0.4, 1.2) * SAMPLE_RATE), np.float32)]
        words.append(clip.text)
    return np.concatenate(pieces), " ".join(words)


def measure_streaming(client: httpx.Client, manifest: Path) -> dict[str, Any]:
    """Post five minutes of speech for NDJSON, and note when each line comes."""
    samples, reference = long_recording(read_manifest(manifest), LONG_RECORDING_S)
    body = io.BytesIO()
    soundfile.write(body, samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    seen_s: dict[str, list[float]] = {}
    text: list[str] = []
    started = time.perf_counter()
    headers = {"accept": "application/x-ndjson", "content-type": "audio/wav"}
    with client.stream("POST", "/invocations", content=body.getvalue(), headers=headers) as answer:
        for line in answer.iter_lines():
            event = json.loads(line)
            seen_s.setdefault(event["type"], []).append(time.perf_counter() - started)
            if event["type"] == "segment":
                text.append(event["text"])
    whole_s = time.perf_counter() - started
    first_s = seen_s["segment"][0]
    return {
        "audio_s": round(len(samples) / SAMPLE_RATE, 1),
        "segments": len(text),
        "first_segment_s": round(first_s, 2),
        "whole_answer_s": round(whole_s, 2),
        "first_segment_share": round(first_s / whole_s, 4),
        "times_real_time": round(len(samples) / SAMPLE_RATE / whole_s, 2),
        "scores": {
            profile: score([reference], [" ".join(text)], profile).as_dict() for profile in REPORTED_PROFILES
        },
    }


def measure_bad_input(client: httpx.Client, clip: Clip) -> dict[str, Any]:
    """Post what is not a recording; after each, the next good request must succeed."""
    samples = load_samples(clip)
    mp3, empty_wav = io.BytesIO(), io.BytesIO()
    soundfile.write(mp3, samples, SAMPLE_RATE, format="MP3")
    soundfile.write(empty_wav, np.zeros(0, np.float32), SAMPLE_RATE, format="WAV")
    bodies = {
        "text file": ("audio/wav", b"This is not audio.\n" * 50),
        "empty body": ("audio/wav", b""),
        "truncated MP3": ("audio/mpeg", mp3.getvalue()[: len(mp3.getvalue()) // 2 + 7]),
        "WAV without samples": ("audio/wav", empty_wav.getvalue()),
    }
    results: dict[str, Any] = {}
    for name, (content_type, body) in bodies.items():
        bad = client.post("/invocations", content=body, headers={"content-type": content_type})
        good = client.post("/invocations", content=read_audio(clip))
        results[name] = {"status": bad.status_code, **bad.json()["error"], "next_request": good.status_code}
    return results


def main(
    manifest: Annotated[
        list[Path] | None, typer.Option(help="Manifests to score; the built test sets if none.")
    ] = None,
    model_dir: Annotated[Path, typer.Option(help="Artifact to serve.")] = ROOT
    / "model_artifacts"
    / "whisper-base-mr",
    quantization: Annotated[
        str, typer.Option(help="int8 (the default of the service), int4 or none.")
    ] = "int8",
    max_clips: Annotated[
        int, typer.Option(help="Post at most this many clips of each manifest; 0: all.")
    ] = 0,
    base_clips: Annotated[int, typer.Option(help="Post this many of each to the base model alone.")] = 40,
    output: Annotated[Path, typer.Option(help="Where the figures go.")] = ROOT / "bench" / "serve.json",
) -> None:
    """Measure the service: accuracy on manifests, streaming of five minutes, bad input."""
    manifests = manifest or TEST_SETS
    if missing := [str(path) for path in manifests if not path.is_file()]:
        raise SystemExit(f"{missing[0]} does not exist: `make data` builds the test sets")
    accuracy: dict[str, dict[str, Any]] = {}
    with service(model_dir, quantization) as client:
        for path in manifests:
            accuracy[path.stem] = {"tuned": measure_accuracy(client, path, None, max_clips)}
            if base_clips:
                accuracy[path.stem]["base"] = measure_accuracy(client, path, "none", base_clips)
        streaming = measure_streaming(client, manifests[-1] if manifest else TEST_SETS[1])
        bad_input = measure_bad_input(client, read_manifest(manifests[0])[0])
    record = {
        "command": " ".join(["python", "bench/serve.py", *sys.argv[1:]]),
        "machine": {
            "cpu": _cpu_name(),
            "cores": os.cpu_count(),
            "torch": torch.__version__,
            "platform": platform.platform(),
        },
        "quantization": quantization,
        "headline": {
            **{
                f"wer_{name}": models["tuned"]["scores"]["marathi"]["wer"]
                for name, models in accuracy.items()
            },
            **{
                f"cer_{name}": models["tuned"]["scores"]["marathi"]["cer"]
                for name, models in accuracy.items()
            },
            "first_segment_share": streaming["first_segment_share"],
        },
        "accuracy": accuracy,
        "streaming": streaming,
        "bad_input": bad_input,
    }
    output.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    console = Console(width=150)
    console.print(score_table(accuracy))
    console.print({"streaming": {key: value for key, value in streaming.items() if key != "scores"}})
    console.print(bad_input)
    console.print(f"written to {output}")


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


if __name__ == "__main__":
    typer.run(main)
