"""The estimate of memory against what a process really takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import WhisperConfig, WhisperForConditionalGeneration

from train.loop.memory import MemoryEstimate, largest_batch

ROOT = Path(__file__).parents[3]

STEP = """
import sys, torch
from pathlib import Path
from train.loop.checkpoint import Position
from train.examples.collate import Batch
from train.config import TrainConfig
from train.loop.memory import estimate_memory
from train.loop.metrics import Window
from train.model.build import build_model
from train.loop.optimiser import AdapterOptimiser, NumberedBatch

directory, checkpointing, device = Path(sys.argv[1]), sys.argv[2] == "True", torch.device("cpu")
torch.set_num_threads(1)
config = TrainConfig(
    name="x", output_dir=directory, train_data=(str(directory / "none.jsonl"),), quantization="none",
    lora_dropout=0.0,
    lora_targets=("q_proj", "v_proj", "fc1"), gradient_checkpointing=checkpointing, max_steps=1,
)

def peak():
    # Not ru_maxrss: a child process inherits that of the process that started it.
    return 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

def step(model, n_clips):
    tokens = torch.randint(0, 9000, (n_clips, 60))
    log_mel = torch.randn(n_clips, 80, 1000 + 1000 * checkpointing)
    batch = Batch(log_mel=log_mel, decoder_input_ids=tokens, labels=tokens, audio_s=1.0)
    numbered = NumberedBatch(epoch=0, number=0, batch=batch, next_epoch=0, next_number=1)
    AdapterOptimiser(model, config, device).step(iter([numbered]), Position(), Window(), 1e-3)
    return estimate_memory(model, config, batch, device).total_bytes

before = peak()
print(step(build_model(directory, config, device).train(), 4), peak() - before)
"""


@pytest.fixture(scope="module")
def small_base_dir(tmp_path_factory):
    """A random Whisper of four layers as wide as whisper-tiny's."""
    directory = tmp_path_factory.mktemp("small-base")
    config = WhisperConfig(
        vocab_size=10_000,
        d_model=384,
        encoder_layers=4,
        decoder_layers=4,
        encoder_attention_heads=6,
        decoder_attention_heads=6,
        encoder_ffn_dim=1536,
        decoder_ffn_dim=1536,
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0),
        decoder_start_token_id=1,
    )
    WhisperForConditionalGeneration(config).save_pretrained(directory)
    return directory


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_estimate_is_right_within_a_factor_of_two(small_base_dir, checkpointing):
    run = subprocess.run(
        [sys.executable, "-c", STEP, str(small_base_dir), str(checkpointing)],
        cwd=ROOT,
        # Count what is in use: glibc would keep freed blocks of up to 32 MiB for itself.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    estimated, measured = map(int, run.stdout.split())
    # Libraries keep scratch of their own, differently on every CPU.
    assert 1 / 2 < estimated / measured < 2, (estimated, measured)


def test_it_is_told_in_gib_by_use():
    estimate = MemoryEstimate(
        base_bytes=3 << 30, adapter_bytes=1 << 29, optimiser_bytes=1 << 29, activation_bytes=2 << 30
    )
    assert str(estimate) == (
        "memory: about 6.00 GiB (base 3.00, adapter 0.50, optimiser 0.50, activations 2.00)"
    )


def test_the_largest_batch_is_the_one_with_the_most_audio_margins_included(tiny_config):
    durations_s = [0.5] * 20 + [3.9]
    dynamic = largest_batch(durations_s, tiny_config(batch_s=8.0))
    assert [example.duration_s for example in dynamic] == [0.5] * 5  # 5 x 2.0 s, against 5.4 s
    assert len(largest_batch(durations_s, tiny_config(batch_s=90.0, encoder_context="fixed"))) == 3
