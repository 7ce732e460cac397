"""A file, the environment and flags -> one frozen `TrainConfig`. All faults come together.

`SHROTA_TRAIN_<KEY>` is the variable of a key (`SHROTA_TRAIN_AUGMENT_NOISE` of a nested one), `--<key>` its
flag.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

import yaml

from serve.config.reader import Layer, Secret, keys_of, read_dataclass
from serve.config.sources import TRAINING_PREFIX, environment_layer, file_layer, plain_values, variable_of
from train.data.normalise import PROFILES
from train.data.specs import parse_spec
from train.errors import DataError, TrainConfigError

_STAND_INS = {"name": "", "output_dir": Path(), "train_data": ("-.jsonl",)}
"""Stand in for required keys that are missing, to have all others checked."""

ExportFormat = Literal["ct2-int8", "ct2-int8_float16", "ct2-float16", "transformers"]
"""A merged model for other engines: CTranslate2 weights so quantised, or a transformers checkpoint."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Probabilities, per clip, of each change to the training audio."""

    speed: float = 0.0
    """Resampled by up to 12 %: tempo, pitch and formants move together."""
    volume: float = 0.0
    """Gain of -12 to +6 dB."""
    noise: float = 0.0
    """White, pink, brown noise or other speakers, at a ratio from `snr_db`."""
    echo: float = 0.0
    """A synthetic room of 0.2 to 0.8 s reverberation, with up to eight distinct reflections."""
    telephone: float = 0.0
    """300-3,400 Hz at 8 kHz, half of them through mu-law."""
    codec: float = 0.0
    """Through a lossy codec and back: GSM at 8 kHz, Opus, MP3 or Vorbis."""
    spec_masks: float = 0.0
    """SpecAugment: one band and one stretch of the log-mel picture masked."""
    snr_db: tuple[float, float] = (8.0, 30.0)
    """Signal-to-noise ratio of added noise, drawn from this range, in dB."""


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
    """Sources of training clips: FILE.jsonl, shards:DIR, commonvoice:DIR, folder:DIR, hf:REPO, fleurs, ..."""
    valid_data: tuple[str, ...] = ()
    """Sources of clips for the loss curve; sentences not in training."""
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
    """Passes over the training clips; fractions are fine."""
    max_steps: int = 0
    """Stop after this many optimiser steps; 0 follows `epochs`."""
    batch_s: float = 64.0
    """Seconds of audio in a batch, padding included."""
    accumulate_batches: int = 1
    """Batches that each process sums into one optimiser step."""
    optimiser: Literal["adamw", "adamw_8bit"] = "adamw"
    """AdamW with its moments in float32, or in 8 bits through bitsandbytes: a quarter of their memory."""
    learning_rate: float = 1e-3
    """Highest rate of AdamW: reached after the warm-up, then falling to zero along a cosine."""
    warmup_fraction: float = 0.05
    """Share of the steps over which the rate rises from zero."""
    weight_decay: float = 0.0
    """AdamW's decay of the adapter's weights."""
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
    """Validation clips transcribed at each look, for their WER; 0 measures the loss alone."""
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
        rules = (
            (self.profile in PROFILES, f"profile is '{self.profile}'; it is one of {', '.join(PROFILES)}"),
            (0 < self.learning_rate < 1, f"learning_rate is {self.learning_rate}; it lies between 0 and 1"),
            (self.epochs > 0 or self.max_steps > 0, "epochs or max_steps must be positive"),
            (self.batch_s >= 1, f"batch_s is {self.batch_s}; it is at least one second"),
            (self.accumulate_batches >= 1, "accumulate_batches is at least 1"),
            (self.lora_rank >= 1, f"lora_rank is {self.lora_rank}; it is at least 1"),
            (bool(self.lora_targets), "lora_targets is empty: nothing would be trained"),
            (1 <= self.max_window_s <= 30, f"max_window_s is {self.max_window_s}; it lies between 1 and 30"),
            (
                0 <= self.window_margin_s[0] <= self.window_margin_s[1],
                "window_margin_s is a range (low, high)",
            ),
            (self.augment.snr_db[0] <= self.augment.snr_db[1], "augment.snr_db is a range (low, high)"),
            (
                self.quantization == "none" or self.precision == "float32",
                f"precision is {self.precision}, which is for quantization none; it is {self.quantization}",
            ),
            (
                "proj_out" not in self.lora_targets,
                "lora_targets names proj_out, which is tied to the embeddings",
            ),
            (
                "all-linear" not in self.lora_targets or len(self.lora_targets) == 1,
                "lora_targets names layers beside all-linear",
            ),
            (
                self.continue_from is None or self.lora_method != "adalora",
                "lora_method adalora cannot continue_from an adapter, whose ranks are fixed",
            ),
            (
                not (self.export_best or self.early_stopping_evals) or self._looks,
                "export_best and early_stopping_evals need valid_data and eval_every_steps",
            ),
            (self.best_by == "loss" or self.valid_clips > 0, "best_by wer needs valid_clips"),
            (0 <= self.warmup_fraction < 1, "warmup_fraction lies between 0 and 1"),
            (self.max_grad_norm > 0, "max_grad_norm must be positive"),
            (self.save_every_s > 0, "save_every_s must be positive"),
            *(
                (getattr(self, name) >= least, f"{name} is at least {least}")
                for name, least in {
                    **dict.fromkeys(("keep_checkpoints", "log_every_steps", "save_every_steps"), 1),
                    **dict.fromkeys(("eval_every_steps", "max_eval_clips", "max_steps"), 0),
                    **dict.fromkeys(("valid_clips", "early_stopping_evals"), 0),
                    **dict.fromkeys(("seed", "n_threads", "weight_decay"), 0),
                }.items()
            ),
            (bool(self.train_data), "train_data is empty: there is nothing to learn from"),
            *((False, fault) for fault in self._source_faults()),
            *(
                (0 <= value <= 1, f"{name} is {value}; a probability lies between 0 and 1")
                for name, value in {
                    "join_probability": self.join_probability,
                    "no_speech_probability": self.no_speech_probability,
                    "timestamp_probability": self.timestamp_probability,
                    "prompt_probability": self.prompt_probability,
                    "lora_dropout": self.lora_dropout,
                    **{
                        f"augment.{f.name}": getattr(self.augment, f.name)
                        for f in fields(self.augment)
                        if f.name != "snr_db"
                    },
                }.items()
            ),
        )
        faults = [message for holds, message in rules if not holds]
        if faults:
            raise TrainConfigError(faults)

    def _source_faults(self) -> list[str]:
        """Return what is wrong with the names of the sources."""
        faults: list[str] = []
        names: list[str] = []
        for key in ("train_data", "valid_data", "test_data"):
            for text in getattr(self, key):
                try:
                    spec = parse_spec(text)
                except DataError as error:
                    faults.append(f"{key}: {error}")
                    continue
                if key == "test_data":
                    names.append(spec.name)
        if len(set(names)) < len(names):
            faults.append("test_data must differ in their names: scores are listed by them")
        return faults

    @property
    def checkpoints(self) -> Path:
        """Directory of the run's checkpoints."""
        return self.checkpoint_dir or self.output_dir / "checkpoints"

    @property
    def _looks(self) -> bool:
        return bool(self.valid_data) and self.eval_every_steps > 0


def load_config(path: Path | None, *layers: Layer) -> TrainConfig:
    """Return the configuration of a YAML or TOML file, and of layers of values that win over it.

    Relative paths are relative to the working directory.

    Args:
        path: The file; None for none.
        layers: Of `serve.config.sources`, the strongest last.

    Raises:
        TrainConfigError: Lists every fault.
    """
    faults: list[str] = []
    merged = dict(file_layer(path, faults)) if path else {}
    for layer in layers:
        merged |= layer
    config = read_dataclass(TrainConfig, merged, faults, stand_ins=_STAND_INS)
    if config is None or faults:
        raise TrainConfigError(faults)
    return config


def environment_config(environ: Mapping[str, str]) -> tuple[str | None, Layer]:
    """Return the file and the values that `SHROTA_TRAIN_*` variables name."""
    path = environ.get(variable_of("config", TRAINING_PREFIX), "").strip() or None
    return path, environment_layer(environ, keys_of(TrainConfig), TRAINING_PREFIX)


def dump_config(config: TrainConfig) -> str:
    """Return the resolved configuration as YAML that `load_config` reads back; secrets are left out."""
    return yaml.safe_dump(plain_values(config), sort_keys=False, allow_unicode=True)
