"""The usual notebook recipe of LoRA on Whisper, to compare `train/run.py` with.

Base in 8 bits by bitsandbytes, LoRA of rank 32 on `q_proj` and `v_proj`, every clip padded to 30 s, batches
of four, AdamW. A plain loop of transformers and peft; nothing of `train` is used but the manifest reader.

    python bench/reference_recipe.py --manifest FILE.jsonl --steps 3 --json OUT
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import click  # noqa: E402
import torch  # noqa: E402
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training  # noqa: E402
from transformers import (  # noqa: E402
    BitsAndBytesConfig,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)

from serve.audio.samples import SAMPLE_RATE  # noqa: E402
from serve.config.progress import progress_bar  # noqa: E402
from serve.model.base_model import resolve_base_model  # noqa: E402
from train.data.manifest import Clip, load_samples, read_manifest  # noqa: E402

FILE = click.Path(path_type=Path)
BATCH_CLIPS = 4
LEARNING_RATE = 1e-3
IGNORED = -100


def load(base: Path) -> tuple[PeftModel, WhisperProcessor]:
    """Return the 8-bit base with fresh adapters, and the processor."""
    model = WhisperForConditionalGeneration.from_pretrained(
        base,
        quantization_config=BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["proj_out"]),
        device_map={"": "cpu"},
    )
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    lora = LoraConfig(r=32, lora_alpha=64, target_modules=["q_proj", "v_proj"], lora_dropout=0.05)
    return get_peft_model(model, lora), WhisperProcessor.from_pretrained(
        base, language="mr", task="transcribe"
    )


def collate(clips: list[Clip], processor: WhisperProcessor) -> dict[str, torch.Tensor]:
    """Return input_features (batch, 80, 3000) and labels (batch, n_tokens) without the start token."""
    features = processor.feature_extractor(
        [load_samples(clip) for clip in clips], sampling_rate=SAMPLE_RATE, return_tensors="pt"
    )
    labels = processor.tokenizer([clip.text for clip in clips], padding=True, return_tensors="pt")
    masked = labels.input_ids.masked_fill(labels.attention_mask == 0, IGNORED)[:, 1:]
    return {"input_features": features.input_features, "labels": masked}


def transcribe(model: PeftModel, processor: WhisperProcessor, clips: list[Clip]) -> list[str]:
    """Return the greedy text of each clip, from 30 s windows."""
    model.eval()
    texts: list[str] = []
    with progress_bar("reference, transcribing", len(clips), "clips") as advance, torch.inference_mode():
        for start in range(0, len(clips), BATCH_CLIPS):
            chosen = clips[start : start + BATCH_CLIPS]
            tokens = model.generate(
                input_features=collate(chosen, processor)["input_features"],
                language="mr",
                task="transcribe",
                max_new_tokens=200,
                num_beams=1,
            )
            texts += processor.batch_decode(tokens, skip_special_tokens=True)
            advance(len(chosen))
    return [text.strip() for text in texts]


@click.command(context_settings={"show_default": True})
@click.option("--manifest", type=FILE, required=True, help="JSONL of training clips, taken in order.")
@click.option("--json", "json_path", type=FILE, required=True, help="File of the figures.")
@click.option("--steps", default=3, help="Steps of four clips; the first is not timed.")
@click.option("--test-manifest", type=FILE, help="Clips to transcribe afterwards.")
@click.option("--base-model", default="openai/whisper-base", help="Base model.")
def main(manifest: Path, json_path: Path, steps: int, test_manifest: Path | None, base_model: str) -> None:
    """Train by the usual recipe and write step times, and texts where asked."""
    torch.manual_seed(0)
    model, processor = load(resolve_base_model(base_model))
    clips = read_manifest(manifest)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE)
    model.train()
    steps_s: list[float] = []
    with progress_bar("reference recipe", steps, "steps") as advance:
        for step in range(steps):
            started = time.perf_counter()
            first = step * BATCH_CLIPS % len(clips)
            batch = collate(clips[first : first + BATCH_CLIPS], processor)
            loss = model(**batch).loss
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            for group in optimiser.param_groups:
                group["lr"] = LEARNING_RATE * (1 - (step + 1) / steps)
            steps_s.append(time.perf_counter() - started)
            advance(1, note=f"loss {loss.item():.3f}")
    record: dict[str, object] = {"steps_s": steps_s, "batch_clips": BATCH_CLIPS}
    if test_manifest:
        record["texts"] = transcribe(model, processor, read_manifest(test_manifest))
    json_path.write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
