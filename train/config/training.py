"""All that a training run may be told, with what each key means."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from serve.config.reader import Secret
from train.config.rules import faults_of
from train.config.sections import BLOCKS, AugmentConfig, Block, BlockConfig, BlockName
from train.errors import TrainConfigError

ExportFormat = Literal["ct2-int8", "ct2-int8_float16", "ct2-float16", "transformers"]
"""A merged model for other engines: CTranslate2 weights so quantised, or a transformers checkpoint."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run, from data to artifact. Keys of the YAML file are these field names."""

    name: str
    """Name of the adapter and of its artifact."""
    output_dir: Path
    """Run directory: resolved config, metrics, checkpoints, artifact, report."""
    publish_to: Path | None = None
    """Where the finished artifact is copied to, for serving; null leaves it in `output_dir/artifact`."""
    checkpoint_dir: Path | None = None
    """Where checkpoints are kept; null keeps them in `output_dir/checkpoints`."""
    base_model: str = "openai/whisper-large-v2"
    """Directory or name of the base model."""
    quantization: Literal["int8", "int4", "none"] = "int8"
    """How the frozen base is held: 8 or 4 bits through bitsandbytes, or as it is."""
    precision: Literal["float32", "mixed", "bfloat16"] = "float32"
    """Numbers of an unquantised base: `mixed` holds it in float32 and multiplies in bfloat16 where the
    processor has instructions for that, several times faster; `bfloat16` also holds it so. Adapters stay
    float32, and a GPU multiplies in bfloat16 either way."""
    language: str = "mr"
    """Whisper's language code."""
    task: Literal["transcribe", "translate"] = "transcribe"
    """What the adapter writes: the language itself, or English."""

    train_data: tuple[str, ...]
    """Sources of training clips: FILE.jsonl, shards:DIR, commonvoice:DIR, folder:DIR, hf:REPO, fleurs, ...
    `?weight=3` lets each clip of a source be heard three times in an epoch, `?weight=0.2` in every fifth."""
    valid_data: tuple[str, ...] = ()
    """Sources of clips for the loss curve; sentences not in training. Loss and WER are measured for each
    source, and their mean over the sources chooses the best adapter: a few people count as much as many
    machines. Sources with the same `?label=people` count as one."""
    distill_data: tuple[str, ...] = ()
    """Recordings on which the adapted encoder is held near the base model's: real people above all, in any
    language. Their transcripts are not read, and may be empty."""
    test_data: tuple[str, ...] = ()
    """Sources scored after training, base against tuned. A bad row ends the run before it begins, unless the
    source is named with `?strict=false`."""
    strict: bool = False
    """End at the first bad row of the training and validation data instead of leaving it out."""
    held_out: Literal["sentences and voices", "sentences", "nothing"] = "sentences and voices"
    """What of the test data is left out of training; sentences of the validation data always go with it."""
    max_eval_clips: int = 0
    """Score at most this many clips of each test source; 0 scores all."""
    evaluate_base: bool = True
    """Score the base model alone beside the tuned one."""
    profile: str = "marathi"
    """Normaliser profile of the headline score."""
    export_formats: tuple[ExportFormat, ...] = ()
    """Merged models written into the artifact: ct2-int8, ct2-int8_float16, ct2-float16, transformers. With
    ct2-int8 (on a GPU, ct2-int8_float16) the service starts without merging anything."""

    continue_from: Path | None = None
    """Artifact whose adapter is trained further, on new data or for longer; null starts a fresh one."""
    continue_blocks: tuple[BlockName, ...] = BLOCKS
    """Blocks whose adapter is taken from `continue_from`; what it has of the other is dropped, and that block
    begins anew, or stays as in the base model."""
    lora_method: Literal["lora", "rslora", "dora", "adalora"] = "lora"
    """`rslora` scales by alpha / sqrt(rank); `dora` also trains the length of each weight vector; `adalora`
    moves rank to the layers that need it, halves it on the way, and is exported as plain LoRA."""
    lora_rank: int = 32
    """Rows of the two narrow matrices of an adapted layer."""
    lora_alpha: int = 64
    """Weight of the adapter's product: alpha / rank."""
    lora_dropout: float = 0.05
    """Share of the adapter's inputs left out at random; 0 allows the fused product, which is faster."""
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")
    """Linear layers that get an adapter, by name; `all-linear` takes all but the output layer."""
    encoder: BlockConfig = field(default_factory=BlockConfig)
    decoder: BlockConfig = field(default_factory=BlockConfig)

    encoder_context: Literal["fixed", "dynamic"] = "dynamic"
    """`dynamic`: windows of the clips' own length; `fixed`: 30 s, as Whisper was trained."""
    window_margin_s: tuple[float, float] = (0.3, 1.5)
    """Silence behind the longest clip of a dynamic batch, drawn from this range, in seconds."""
    join_probability: float = 0.0
    """Share of examples made of several clips joined with pauses, up to `max_window_s`."""
    no_speech_probability: float = 0.0
    """Share of examples that hold no speech and an empty transcript."""
    timestamp_probability: float = 0.0
    """Share of examples whose text is written with the times of its sentences."""
    prompt_probability: float = 0.0
    """Share of examples that come with the manifest line before them as earlier text."""
    max_window_s: float = 30.0
    """Longest stretch of speech in one example, in seconds."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    epochs: float = 3.0
    """Passes over the training clips, each as often as its weight says; fractions are fine."""
    max_steps: int = 0
    """Stop after this many optimiser steps; 0 follows `epochs`."""
    batch_s: float = 64.0
    """Seconds of audio in a batch, padding included."""
    sampled_tokens: int = 0
    """Tokens outside the training texts that a batch's softmax runs over, drawn at random; 0 takes the whole
    vocabulary. On a CPU, 2,048 take a quarter off a step of whisper-base."""
    accumulate_batches: int = 1
    """Batches that each process sums into one optimiser step."""
    optimiser: Literal["adamw", "adamw_8bit"] = "adamw"
    """AdamW with its moments in float32, or in 8 bits through bitsandbytes: a quarter of their memory."""
    learning_rate: float = 1e-3
    """Highest rate of AdamW: reached after the warm-up, then falling to zero along a cosine."""
    warmup_fraction: float = 0.05
    """Share of the steps over which the rate rises from zero."""
    weight_decay: float = 0.0
    """AdamW's decay of the adapter's weights: what pulls the model towards its base, where they are zero."""
    distill_weight: float = 0.0
    """How much the encoder's distance from the base on `distill_data` counts beside the loss a token: the
    squared change of its output, as a share of the output's square."""
    distill_every_steps: int = 4
    """Steps between two that measure that distance, which costs about half a step; it counts so much more."""
    max_grad_norm: float = 1.0
    """Longer gradients are scaled down to this norm."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, a third more time."""
    compile: bool = False
    """Compile the layers with torch.compile: some minutes at the start, for faster steps on a GPU. It needs a
    C compiler, which the image does not have."""
    seed: int = 0
    """Fixes the order of clips, their changes, and the fresh adapter."""
    n_threads: int = 0
    """CPU threads; 0 takes all cores."""

    log_every_steps: int = 10
    """Steps between two lines of `metrics.jsonl`."""
    tensorboard: bool = True
    """Write event files for TensorBoard to `output_dir/tensorboard`."""
    mlflow_uri: Secret | None = None
    """MLflow server (or `sqlite:///FILE`) that is told of the run as well; needs the extra `mlflow`. It may
    hold a password and is never shown."""
    eval_every_steps: int = 200
    """Steps between two looks at the validation clips; 0 never looks."""
    valid_clips: int = 0
    """Validation clips of each source transcribed at each look, for their WER; 0 measures the loss alone."""
    best_by: Literal["wer", "loss"] = "loss"
    """What makes one look better than another."""
    early_stopping_evals: int = 0
    """Stop after this many looks in a row that were no better than the best; 0 never stops early."""
    export_best: bool = False
    """Export the adapter of the best look instead of the last one."""
    save_every_steps: int = 100
    """Steps between two checkpoints."""
    save_every_s: float = 600.0
    """Seconds after which a checkpoint is due, whatever the step."""
    keep_checkpoints: int = 2
    """Checkpoints kept; older ones are removed."""
    resume: Literal["auto", "never"] = "auto"
    """`auto` goes on from the newest whole checkpoint of the run."""

    def __post_init__(self) -> None:
        """Refuse values that contradict each other, all at once."""
        if faults := faults_of(self):
            raise TrainConfigError(faults)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """What is done with each block of the model, in the order of `BLOCKS`."""
        blocks = []
        for name in BLOCKS:
            own: BlockConfig = getattr(self, name)
            rank = self.lora_rank if own.rank is None else own.rank
            block = Block(
                name=name,
                rank=rank,
                alpha=own.alpha or max(1, round(self.lora_alpha * rank / self.lora_rank)),
                learning_rate=own.learning_rate or self.learning_rate,
                targets=own.targets or self.lora_targets,
                layers=None if own.layers is None else tuple(sorted(set(own.layers))),
            )
            blocks.append(block)
        return tuple(blocks)

    @property
    def checkpoints(self) -> Path:
        """Directory of the run's checkpoints."""
        return self.checkpoint_dir or self.output_dir / "checkpoints"
