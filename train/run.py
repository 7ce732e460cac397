"""Train, evaluate and export an adapter: `shrota train`, which `python train/run.py` is as well.

Everything that a run does stands in `run`, in the order in which it happens.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file: packages lie beside `train/`

from serve.config.command_line import Command, config_flag, exit_with, flags_of
from serve.config.reader import keys_of
from serve.config.sources import TRAINING_PREFIX, flag_layer, unknown_variables
from serve.errors import ShrotaError
from train.config import TrainConfig, dump_config, environment_config, load_config
from train.errors import UnreadBatch
from train.loop.allocator import bound_shape_caches
from train.sagemaker.failure import FAILURE_VARIABLE, write_failure

if TYPE_CHECKING:
    from peft import PeftModel
    from rich.console import Console

    from train.data.manifest import Clip
    from train.examples.collate import Collator
    from train.examples.corpus import Corpus, EvaluationSet
    from train.loop.distributed import Processes
    from train.loop.loop import Outcome


class _Data(NamedTuple):
    """The clips that steps see, as collators of batches."""

    train: Collator
    valid: Collator | None
    distill: Collator | None
    """Recordings on which the encoder is held near the base's, if any."""


def run(config: TrainConfig, processes: Processes) -> int:
    """Do the whole run and return the exit status; the leader alone writes and prints."""
    from serve.model.base_model import resolve_base_model
    from train.examples.corpus import sum_up_heard

    console = _begin(config, processes)
    base_dir = resolve_base_model(config.base_model)
    corpus, data = _read_clips(config, base_dir, processes)
    heard = sum_up_heard(corpus.train)
    if processes.leads:
        _report_clips(corpus, heard, config, console)
    # Imported only now: transformers and peft take seconds, and most faults are those of the data.
    from serve.engine.transformers.quiet import quiet_libraries

    quiet_libraries()  # before the libraries, some of which speak on being imported
    from train.loop.loop import train_adapter
    from train.loop.origin import origin_of, require_same_origin

    origin = origin_of(config, base_dir, corpus.train)
    require_same_origin(config, origin, processes)
    if processes.leads:
        (config.output_dir / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    n_left_out = len(corpus.log)
    model = _build_model(config, base_dir, data.train, processes, console)
    outcome = train_adapter(
        model, config, data.train, data.valid, processes.device, processes, data.distill, origin
    )
    if not processes.leads:
        return 0
    if len(corpus.log) > n_left_out:
        _report_left_out(corpus, config, console, "left out, those found while training among them")
    if not outcome.finished:
        at = f"stopped at step {outcome.step} of {outcome.total_steps}"
        console.print(f"{at}; the same command resumes from there")
        return 0
    texts = (clip.text for clip in corpus.train)
    artifact_dir = _export(model, base_dir, config, outcome, texts, heard, console)
    del model  # evaluation loads the artifact
    _evaluate(config, corpus.tests, artifact_dir, outcome, console)
    return 0


def _begin(config: TrainConfig, processes: Processes) -> Console:
    """Set threads and seed, make the run's directory, and return the console of the run."""
    import torch
    from rich.console import Console

    from train.export.directories import check_publishable

    if config.publish_to and processes.leads:
        check_publishable(config.publish_to)  # hours before anything is published
    torch.set_num_threads(config.n_threads or processes.n_threads)
    torch.manual_seed(config.seed)
    if processes.leads:
        config.output_dir.mkdir(parents=True, exist_ok=True)
    return Console(stderr=True, quiet=not processes.leads)


def _read_clips(config: TrainConfig, base_dir: Path, processes: Processes) -> tuple[Corpus, _Data]:
    """Return all clips of the run, and those that steps see as collators; what must be decoded is, once."""
    from serve.audio.features import FeatureExtractor
    from serve.engine.vocabulary import Vocabulary
    from train.examples.collate import Collator
    from train.examples.corpus import leave_out_long_texts, load_corpus

    vocabulary = Vocabulary.read(base_dir)
    with processes.first_alone():  # the first on each machine prepares what must be decoded
        corpus = leave_out_long_texts(load_corpus(config), vocabulary)
    features = FeatureExtractor(base_dir)

    def collator(clips: list[Clip], *, augmented: bool) -> Collator:
        return Collator(clips, config, features, vocabulary, augmented=augmented, log=corpus.log)

    return corpus, _Data(
        train=collator(corpus.train, augmented=True),
        valid=collator(corpus.valid, augmented=False) if corpus.valid else None,
        distill=collator(corpus.distill, augmented=True) if corpus.distill else None,
    )


def _report_clips(
    corpus: Corpus, heard: Sequence[Mapping[str, Any]], config: TrainConfig, console: Console
) -> None:
    """Print what there is to train on and what was left out."""
    from train.examples.corpus import describe_heard

    console.print(f"{len(corpus.train)} training clips, {len(corpus.log)} left out")
    console.print("\n".join(describe_heard(heard)))
    _report_left_out(corpus, config, console)


def _report_left_out(corpus: Corpus, config: TrainConfig, console: Console, title: str = "left out") -> None:
    """Print how much was left out and why, and write every row of it beside the run's data."""
    corpus.log.report(console, config.output_dir / "data" / "left-out.jsonl", title)


def _build_model(
    config: TrainConfig, base_dir: Path, train_data: Collator, processes: Processes, console: Console
) -> PeftModel:
    """Return the model to train, and print its size and the memory that training will need."""
    from serve.model.artifact import load_artifact
    from train.export.artifact import keep_start
    from train.loop.allocator import keep_freed_memory
    from train.loop.memory import estimate_memory, largest_batch
    from train.loop.origin import checkpoint_to_resume
    from train.model.adapter import continue_adapter
    from train.model.build import build_model

    device = processes.device
    model = build_model(base_dir, config, device)
    if processes.leads and checkpoint_to_resume(config, processes) is None:
        keep_start(config)  # at the moment when it is read
    if config.continue_from:
        continue_adapter(model, load_artifact(config.continue_from), base_dir, config)
    trainable, total = model.get_nb_trainable_parameters()
    console.print(
        f"{trainable:,} of {total:,} parameters are trained, base in {config.quantization} on {device}"
    )
    largest = largest_batch([clip.duration_s for clip in train_data.clips], config)
    with suppress(UnreadBatch):
        console.print(str(estimate_memory(model, config, train_data.collate(largest, (0, 0)), device)))
    if device.type == "cpu":
        keep_freed_memory()
    return model


def _export(
    model: PeftModel,
    base_dir: Path,
    config: TrainConfig,
    outcome: Outcome,
    texts: Iterable[str],
    heard: Sequence[Mapping[str, Any]],
    console: Console,
) -> Path:
    """Write the artifact of the trained adapter and return its directory."""
    from train.export.artifact import export_artifact
    from train.model.adalora import as_lora

    if outcome.best_step:
        console.print(f"the adapter of step {outcome.best_step} was the best; it is the one exported")
    if config.lora_method == "adalora":
        model = as_lora(model)
    return export_artifact(model, base_dir, config, outcome, texts, heard)


def _evaluate(
    config: TrainConfig,
    tests: Sequence[EvaluationSet],
    artifact_dir: Path,
    outcome: Outcome,
    console: Console,
) -> None:
    """Score the artifact, and write merged models, model card, report and published copy."""
    from train.evaluate.evaluation import evaluate_artifact
    from train.export.artifact import note_known_sound, publish_artifact, record_evaluation
    from train.export.merged import export_merged
    from train.export.model_card import write_model_card
    from train.loop.metrics import open_metrics
    from train.report.results import save_results, write_report

    scores = evaluate_artifact(artifact_dir, config, tests, console)
    record_evaluation(artifact_dir, scores)
    note_known_sound(artifact_dir, config)
    with open_metrics(config, outcome.step) as metrics:
        metrics.log_evaluation(outcome.step, scores)
    for kind in config.export_formats:
        console.print(f"merged: {export_merged(artifact_dir, kind)}")
    write_model_card(config, outcome, artifact_dir, scores)
    save_results(config.output_dir, scores)
    console.print(f"report: {write_report(config.output_dir)}")
    if config.publish_to:
        artifact_dir = publish_artifact(artifact_dir, config.publish_to)
    console.print(f"artifact: {artifact_dir}")


def read_config(flags: Mapping[str, Any]) -> TrainConfig:
    """Return the configuration that a file, the environment and flags come to.

    Raises:
        TrainConfigError: Lists every fault.
    """
    named, layer = environment_config(os.environ)
    path = flags.get("config") or named
    return load_config(Path(path) if path else None, layer, flag_layer(flags, own=["config"]))


def train(config: TrainConfig) -> int:
    """Do the whole run in one process or as one of several, and leave the reason where it fails."""
    for sentence in unknown_variables(
        os.environ, [*keys_of(TrainConfig), "config"], TRAINING_PREFIX, passed_over=[FAILURE_VARIABLE]
    ):
        print(f"warning: {sentence}", file=sys.stderr)
    bound_shape_caches()
    from train.loop.distributed import join_processes  # torch: not for a look at --help

    try:
        with join_processes(os.environ) as processes:
            return run(config, processes)
    except ShrotaError as error:
        _record_failure(str(error))
        raise
    except Exception as error:
        _record_failure(f"{type(error).__name__}: {error}")
        raise


def _record_failure(reason: str) -> None:
    """Write the reason to the file that the environment names, for the process that started this one."""
    if path := os.environ.get(FAILURE_VARIABLE):
        write_failure(Path(path), reason)


command = Command(
    "train",
    read=read_config,
    run=train,
    about="Train, evaluate and export an adapter.\n\nEvery key of the configuration is also a flag and a"
    " variable SHROTA_TRAIN_<KEY>. A flag overrides a variable, a variable overrides the file. The"
    " same command resumes a run that was stopped (SIGTERM, Ctrl-C, power) from its newest checkpoint.",
    examples="""\
shrota train --config train/configs/whisper-base-mr.yaml
shrota train --config train/configs/smoke.yaml --max-steps 10 --output-dir /tmp/run
shrota train --config train/configs/whisper-base-mr.yaml --augment.noise 0.3 --resume never
torchrun --nproc_per_node 4 train/run.py --config FILE       # one process a GPU
""",
    flags=[
        config_flag("File of the configuration, YAML or TOML. [SHROTA_TRAIN_CONFIG]"),
        *flags_of(TrainConfig),
    ],
    needs="train",
    on_faults=lambda faults: _record_failure("; ".join(faults)),
)


if __name__ == "__main__":
    exit_with(command)
