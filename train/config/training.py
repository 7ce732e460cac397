"""The configuration of a training run, with the meaning of each key."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from serve.config.reader import Secret
from train.config.rules import faults_of
from train.config.sections import BLOCKS, AugmentConfig, Block, BlockConfig, BlockName
from train.errors import TrainConfigError

ExportFormat = Literal["ct2-int8", "ct2-int8_float16", "ct2-float16", "transformers"]
"""Merged model for other engines: quantised CTranslate2 weights, or a transformers checkpoint."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run, from data to artifact. The keys of the YAML file are these field names."""

    name: str
    """Name of the adapter and of its artifact."""
    output_dir: Path
    """Run directory: resolved config, metrics, checkpoints, artifact, report."""
    publish_to: Path | None = None
    """Directory to copy the finished artifact to, for serving; null leaves it in `output_dir/artifact`."""
    checkpoint_dir: Path | None = None
    """Directory for checkpoints; null takes `output_dir/checkpoints`."""
    base_model: str = "openai/whisper-large-v2"
    """Directory or name of the base model."""
    quantization: Literal["int8", "int4", "none"] = "int8"
    """Storage of the frozen base: 8 or 4 bits through bitsandbytes, or unquantised."""
    precision: Literal["float32", "mixed", "bfloat16"] = "float32"
    """Number format of an unquantised base: `mixed` stores it in float32 and multiplies in bfloat16 where the
    processor supports that, several times faster; `bfloat16` also stores it so. Adapters stay float32, and a
    GPU always multiplies in bfloat16."""
    language: str = "mr"
    """Whisper's language code."""
    task: Literal["transcribe", "translate"] = "transcribe"
    """What the adapter writes: the spoken language, or English."""

    train_data: tuple[str, ...]
    """Sources of training clips: FILE.jsonl, shards:DIR, commonvoice:DIR, folder:DIR, hf:REPO, fleurs, ...
    With `?weight=3` each clip of a source is heard three times in an epoch, with `?weight=0.2` in every
    fifth. With `?augment=0.5` every second one is augmented, the others are heard as they are."""
    valid_data: tuple[str, ...] = ()
    """Sources of validation clips, whose sentences are kept out of training. Loss and WER are measured for
    each source, and their mean over the sources selects the best adapter, so a few people count as much as
    many synthetic voices. Sources with the same `?label=people` count as one."""
    distill_data: tuple[str, ...] = ()
    """Recordings on which the adapted encoder is kept close to the base model's: real people above all, in
    any language. Their transcripts are not used, and may be empty."""
    test_data: tuple[str, ...] = ()
    """Sources to score after training, base against tuned. A bad row ends the run before it starts, unless
    the source is named with `?strict=false`."""
    strict: bool = False
    """Stop at the first bad row of the training and validation data instead of dropping it."""
    held_out: Literal["sentences and voices", "sentences", "nothing"] = "sentences and voices"
    """What of the test data is kept out of training; sentences of the validation data always are. Unless this
    is `nothing`, sentences of the test data are kept out of the validation data as well."""
    max_eval_clips: int = 0
    """Score at most this many clips of each test source; 0 scores all."""
    evaluate_base: bool = True
    """Also score the base model alone."""
    profile: str = "marathi"
    """Normalisation profile of the headline score."""
    export_formats: tuple[ExportFormat, ...] = ()
    """Merged models to write into the artifact: ct2-int8, ct2-int8_float16, ct2-float16, transformers. With
    ct2-int8 (on a GPU, ct2-int8_float16) the service need not merge anything at its start."""

    continue_from: Path | None = None
    """Artifact whose adapter is trained further; null starts a fresh adapter."""
    continue_blocks: tuple[BlockName, ...] = BLOCKS
    """Blocks whose adapter is taken from `continue_from`; the other block starts afresh, or stays as in the
    base model."""
    average_with_start: float = 0.0
    """Share of `continue_from`'s weights in the exported adapter: 0.5 exports their mean with the trained
    ones, which may hear unseen people better than either."""
    lora_method: Literal["lora", "rslora", "dora", "adalora"] = "lora"
    """`rslora` scales by alpha / sqrt(rank); `dora` also trains the norm of each weight vector; `adalora`
    moves rank to the layers that need it, halves it on the way, and is exported as plain LoRA."""
    lora_rank: int = 32
    """Rank of the adapter."""
    lora_alpha: int = 64
    """Scale of the adapter: alpha / rank."""
    lora_dropout: float = 0.05
    """Dropout of the adapter's inputs; 0 allows the faster fused product."""
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")
    """Names of the linear layers to adapt; `all-linear` takes all but the output layer."""
    encoder: BlockConfig = field(default_factory=BlockConfig)
    decoder: BlockConfig = field(default_factory=BlockConfig)

    encoder_context: Literal["fixed", "dynamic"] = "dynamic"
    """`dynamic`: windows of the clips' own length; `fixed`: 30 s, as Whisper was trained."""
    window_margin_s: tuple[float, float] = (0.3, 1.5)
    """Range of the silence after the longest clip of a dynamic batch, in seconds."""
    join_probability: float = 0.0
    """Share of examples that join several clips with pauses, up to `max_window_s`."""
    no_speech_probability: float = 0.0
    """Share of examples without speech, with an empty transcript."""
    timestamp_probability: float = 0.0
    """Share of examples with timestamps of their sentences."""
    prompt_probability: float = 0.0
    """Share of examples prompted with the preceding manifest line."""
    max_window_s: float = 30.0
    """Longest span of speech in one example, in seconds."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    epochs: float = 3.0
    """Passes over the training clips, each counted by its weight; may be a fraction."""
    max_steps: int = 0
    """Stop after this many optimiser steps; 0 follows `epochs`."""
    batch_s: float = 64.0
    """Seconds of audio in a batch, padding included."""
    sampled_tokens: int = 0
    """Tokens outside the training texts that a batch's softmax runs over, drawn at random; 0 takes the whole
    vocabulary. On a CPU, 2,048 take a quarter off a step of whisper-base."""
    accumulate_batches: int = 1
    """Batches that each process accumulates per optimiser step."""
    optimiser: Literal["adamw", "adamw_8bit"] = "adamw"
    """AdamW with moments in float32, or through bitsandbytes in 8 bits, a quarter of the memory."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW, reached after the warm-up; a cosine then lowers it to zero."""
    warmup_fraction: float = 0.05
    """Share of the steps in which the learning rate rises from zero."""
    weight_decay: float = 0.0
    """AdamW's decay of the adapter's weights, which pulls the model towards its base."""
    distill_weight: float = 0.0
    """Weight, beside the loss per token, of the encoder's distance from the base on `distill_data`: the
    squared change of its output relative to the output's square."""
    distill_every_steps: int = 4
    """Steps between two that measure that distance, which costs about half a step; its weight grows
    likewise."""
    max_grad_norm: float = 1.0
    """Gradient norm above which gradients are scaled down."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""
    compile: bool = False
    """Compile layers with torch.compile: minutes at the start, faster steps on a GPU. Needs a C compiler,
    which the image does not have."""
    seed: int = 0
    """Seed of the order of clips, their augmentation, and the fresh adapter."""
    n_threads: int = 0
    """CPU threads; 0 takes all cores."""

    log_every_steps: int = 10
    """Steps between two lines of `metrics.jsonl`."""
    tensorboard: bool = True
    """Write event files for TensorBoard to `output_dir/tensorboard`."""
    mlflow_uri: Secret | None = None
    """MLflow server (or `sqlite:///FILE`) that also receives the metrics; needs the extra `mlflow`. May hold
    a password, and is never shown."""
    eval_every_steps: int = 200
    """Steps between two validations; 0 never validates."""
    valid_clips: int = 0
    """Validation clips of each source to transcribe for WER at each validation; 0 measures the loss alone."""
    best_by: Literal["wer", "loss"] = "loss"
    """Measure by which validations are compared."""
    early_stopping_evals: int = 0
    """Stop after this many validations in a row without a new best; 0 never stops early."""
    export_best: bool = False
    """Export the adapter of the best validation instead of the last one."""
    save_every_steps: int = 100
    """Steps between two checkpoints."""
    save_every_s: float = 600.0
    """Longest time between two checkpoints, in seconds."""
    keep_checkpoints: int = 2
    """Number of checkpoints kept; older ones are deleted."""
    resume: Literal["auto", "never"] = "auto"
    """`auto` resumes from the newest complete checkpoint of the run."""

    def __post_init__(self) -> None:
        """Refuse contradictions and impossible values, all at once."""
        if faults := faults_of(self):
            raise TrainConfigError(faults)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The resolved settings of each block, in the order of `BLOCKS`."""
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
