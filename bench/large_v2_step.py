"""Measure memory and time of one training step and an export on a model of whisper-large-v2's shape.

    python bench/large_v2_step.py                   # two cores and 12 GiB of memory are enough

The weights are random, so that no hub is needed; shape, 8-bit base, adapter, loss, optimiser
and export are those of `train/configs/whisper-large-v2-mr.yaml`. Writes bench/large-v2.json.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from peft import PeftModel  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import WhisperConfig, WhisperForConditionalGeneration  # noqa: E402

from bench.serving.machine import begin_record, write_record  # noqa: E402
from train.config import TrainConfig  # noqa: E402
from train.examples.collate import IGNORED, Batch  # noqa: E402
from train.export.artifact import export_artifact  # noqa: E402
from train.loop.checkpoint import Position  # noqa: E402
from train.loop.loop import Outcome  # noqa: E402
from train.loop.memory import estimate_memory  # noqa: E402
from train.loop.metrics import Window  # noqa: E402
from train.loop.optimiser import AdapterOptimiser, NumberedBatch  # noqa: E402
from train.model.adapter import continue_adapter  # noqa: E402
from train.model.build import build_model  # noqa: E402

CPU = torch.device("cpu")
GIB = 1 << 30
N_TRAINABLE, N_PARAMETERS = 15_728_640, 1_559_033_600
MAX_GIB = 12.0
N_CLIPS, WINDOW_S, N_TOKENS = 2, 4.0, 40


def write_random_checkpoint(directory: Path) -> None:
    """Write a checkpoint of large-v2's shape in fp16, one file a layer: it is never whole in memory."""
    config = WhisperConfig(
        vocab_size=51_865,
        num_mel_bins=80,
        d_model=1280,
        encoder_layers=32,
        decoder_layers=32,
        encoder_attention_heads=20,
        decoder_attention_heads=20,
        encoder_ffn_dim=5120,
        decoder_ffn_dim=5120,
        architectures=["WhisperForConditionalGeneration"],
    )
    config.save_pretrained(directory)
    with torch.device("meta"):
        shapes = {
            name: parameter.shape
            for name, parameter in WhisperForConditionalGeneration(config).named_parameters()
        }
    by_file: dict[str, list[str]] = {}
    for name in shapes:
        by_file.setdefault(".".join(name.split(".")[1:4]), []).append(name)
    torch.manual_seed(0)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(by_file.values(), 1):
        file = f"model-{number:05d}-of-{len(by_file):05d}.safetensors"
        save_file(
            {name: random_weights(name, shapes[name]) for name in names}, directory / file, {"format": "pt"}
        )
        weight_map.update(dict.fromkeys(names, file))
    n_bytes = 2 * sum(shape.numel() for shape in shapes.values())
    index = {"metadata": {"total_size": n_bytes}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def random_weights(name: str, shape: torch.Size) -> torch.Tensor:
    """Return weights like a newly initialised Whisper's: narrow, with layer norms of one."""
    if "layer_norm" in name:
        return (
            torch.ones(shape, dtype=torch.float16) if name.endswith("weight") else torch.zeros(shape).half()
        )
    return (0.02 * torch.randn(shape)).half()


def random_batch() -> Batch:
    """Return clips of noise with random text."""
    tokens = torch.randint(0, 50_000, (N_CLIPS, N_TOKENS + 1))
    labels = tokens[:, 1:].clone()
    labels[:, :3] = IGNORED  # the prompt
    return Batch(
        log_mel=torch.randn(N_CLIPS, 80, round(100 * WINDOW_S)),
        decoder_input_ids=tokens[:, :-1],
        labels=labels,
        audio_s=N_CLIPS * WINDOW_S,
    )


def peak_gib() -> float:
    """Return the peak memory of the process since the last `forget_peak`, in GiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / GIB


def forget_peak() -> None:
    """Reset the peak memory of the process (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def measure(directory: Path) -> dict[str, object]:
    """Build, step, export and reload in a scratch directory; return the figures."""
    base_dir = directory / "base"
    base_dir.mkdir()
    write_random_checkpoint(base_dir)
    config = TrainConfig(
        name="large-v2-step",
        output_dir=directory / "run",
        base_model=str(base_dir),
        train_data=(str(directory / "none.jsonl"),),
        quantization="int8",
        lora_rank=32,
        lora_alpha=64,
        lora_dropout=0.05,
        lora_targets=("q_proj", "v_proj"),
        gradient_checkpointing=True,
    )
    config.output_dir.mkdir()
    started = time.monotonic()
    model = build_model(base_dir, config, CPU)
    load_s = time.monotonic() - started
    load_peak = peak_gib()
    assert model.get_nb_trainable_parameters() == (N_TRAINABLE, N_PARAMETERS)

    batch, window = random_batch(), Window()
    estimate = estimate_memory(model, config, batch, CPU)
    optimiser = AdapterOptimiser(model.train(), config, CPU)
    numbered = NumberedBatch(epoch=0, number=0, batch=batch, next_epoch=0, next_number=1)
    forget_peak()
    started = time.monotonic()
    optimiser.step(iter([numbered]), Position(), window, config.learning_rate)
    step_s = time.monotonic() - started
    peak = peak_gib()
    assert max(load_peak, peak) < MAX_GIB, f"loading took {load_peak:.1f} GiB, the step {peak:.1f} GiB"

    outcome = Outcome(
        step=1, total_steps=1, trained_s=step_s, samples=N_CLIPS, skipped_batches=0, finished=True
    )
    artifact_dir = export_artifact(model, base_dir, config, outcome, ["नमस्कार"])
    check_reload(model, artifact_dir, base_dir, config)
    adapter = artifact_dir / "adapter" / "adapter_model.safetensors"
    return {
        "trainable_parameters": N_TRAINABLE,
        "parameters": N_PARAMETERS,
        "clips": N_CLIPS,
        "window_s": WINDOW_S,
        "loss_nats_a_token": round(window.loss, 3),
        "load_s": round(load_s, 1),
        "step_s": round(step_s, 1),
        "load_peak_memory_gib": round(load_peak, 2),
        "step_peak_memory_gib": round(peak, 2),
        "estimated_memory_gib": round(estimate.total_bytes / GIB, 2),
        "adapter_bytes": adapter.stat().st_size,
    }


def check_reload(model: PeftModel, artifact_dir: Path, base_dir: Path, config: TrainConfig) -> None:
    """Load the exported adapter back into the model, where it must be what was trained, to fp16."""
    from serve.model.artifact import load_artifact

    written = load_file(artifact_dir / "adapter" / "adapter_model.safetensors")
    assert len(written) == 2 * 2 * 96  # A and B of q_proj and v_proj in 32 + 2 x 32 attentions
    trained = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    assert any(p.abs().max() > 0 for name, p in trained.items() if "lora_B" in name)
    for parameter in (p for p in model.parameters() if p.requires_grad):
        torch.nn.init.zeros_(parameter)
    continue_adapter(model, load_artifact(artifact_dir), base_dir, config)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter, trained[name].half().float(), msg=name)


def main() -> None:
    """Measure, print, and write the figures."""
    record = begin_record(torch.get_num_threads())
    with tempfile.TemporaryDirectory() as scratch:
        record |= measure(Path(scratch))
    print(json.dumps(record, indent=1))
    write_record(record, ROOT / "bench" / "large-v2.json")


if __name__ == "__main__":
    main()
