"""Train, evaluate and export an adapter: the one command of an ML engineer.

    python train/run.py --config train/configs/whisper-base-mr.yaml
    python train/run.py --config train/configs/smoke.yaml --max-steps 10 --output-dir /tmp/run
    python train/run.py --config CONFIG --augment.noise 0.3 --resume never

Every key of the configuration is also an option. A run that is stopped (SIGTERM, Ctrl-C, power) goes on where
it was when the same command is given again.
"""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file: packages lie beside `train/`

from train.config import TrainConfig, describe_keys, dump_config, load_config
from train.errors import TrainConfigError

USAGE = "usage: python train/run.py --config FILE [--key value ...]"


def run(config: TrainConfig) -> int:
    """Do the whole run and return the exit status."""
    import torch
    from rich.console import Console
    from transformers import WhisperTokenizer

    from serve.artifact import load_artifact
    from serve.base_model import resolve_base_model
    from serve.features import FeatureExtractor
    from train.collate import Collator
    from train.data.manifest import drop_long_clips, read_manifest
    from train.evaluation import evaluate_artifact
    from train.export import export_artifact, publish_artifact, record_evaluation
    from train.loop import train_adapter
    from train.merged import export_merged
    from train.metrics import open_metrics
    from train.model import build_model, continue_adapter
    from train.model_card import write_model_card
    from train.report import save_results, write_report

    console = Console(stderr=True)
    torch.set_num_threads(config.n_threads or os.cpu_count() or 1)
    torch.manual_seed(config.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config.output_dir.mkdir(parents=True, exist_ok=True)
    (config.output_dir / "config.yaml").write_text(dump_config(config), encoding="utf-8")

    train_clips, n_dropped = drop_long_clips(read_manifest(config.train_manifest), config.max_window_s)
    console.print(
        f"{len(train_clips)} training clips, {n_dropped} longer than {config.max_window_s:g} s left out"
    )
    base_dir = resolve_base_model(config.base_model)
    features = FeatureExtractor(base_dir)
    tokenizer = WhisperTokenizer.from_pretrained(str(base_dir))
    train_data = Collator(train_clips, config, features, tokenizer, augmented=True)
    valid_data = None
    if config.valid_manifest:
        valid_clips, _ = drop_long_clips(read_manifest(config.valid_manifest), config.max_window_s)
        valid_data = Collator(valid_clips, config, features, tokenizer, augmented=False)

    model = build_model(base_dir, config, device)
    if config.continue_from:
        continue_adapter(model, load_artifact(config.continue_from), base_dir)
    trainable, total = model.get_nb_trainable_parameters()
    console.print(
        f"{trainable:,} of {total:,} parameters are trained, base in {config.quantization} on {device}"
    )
    outcome = train_adapter(model, config, train_data, valid_data, device)
    if not outcome.finished:
        console.print(
            f"stopped at step {outcome.step} of {outcome.total_steps}; the same command goes on from there"
        )
        return 0

    artifact_dir = export_artifact(model, base_dir, config, outcome)
    del model
    scores = evaluate_artifact(artifact_dir, config, console)
    record_evaluation(artifact_dir, scores)
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
    return 0


def main(arguments: list[str]) -> int:
    """Parse the command line, run, and turn known errors into one sentence and exit status 1."""
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(f"{__doc__}\n{USAGE}\n")
        for option, default, explanation in describe_keys():
            print(f"  {option} [{default}]")
            print(textwrap.fill(explanation, 100, initial_indent=" " * 6, subsequent_indent=" " * 6))
        return 0 if arguments else 2
    if arguments[0].startswith("--config="):
        arguments = ["--config", arguments[0].partition("=")[2], *arguments[1:]]
    if arguments[0] != "--config" or len(arguments) < 2:
        print(USAGE, file=sys.stderr)
        return 2
    from serve.errors import ShrotaError

    try:
        return run(load_config(Path(arguments[1]), arguments[2:]))
    except TrainConfigError as error:
        print(error, file=sys.stderr)
        return 1
    except ShrotaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
