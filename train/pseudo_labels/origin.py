"""What the rounds of a self-training are made of, and whether a start goes on with them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve.errors import ConfigError
from serve.model.durable_write import write_whole
from train.config import TrainConfig, dump_config
from train.loop.origin import adapter_sha256
from train.report.results import EVALUATION

if TYPE_CHECKING:
    from train.examples.corpus import EvaluationSet
    from train.pseudo_labels.rounds import Wanted

_FILE = "origin.json"


def require_same_rounds(
    wanted: Wanted, config: TrainConfig, recordings: Sequence[Path], tests: Sequence[EvaluationSet]
) -> None:
    """Write down what the rounds are made of, or compare it with what they began with.

    What lies in `output_dir` is not done again. So with other recordings or criteria, an earlier adapter
    would be scored as if it had heard them. Criteria and training may change until a round is finished:
    then nothing that follows from them is kept, and training itself refuses other clips.

    Raises:
        ConfigError: Names the flags that differ.
        ArtifactError: There is no adapter at `model_dir`.
    """
    path = wanted.output_dir / _FILE
    heard, trained = _origin_of(wanted, config, recordings, tests)
    then = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    is_finished = any(wanted.output_dir.glob(f"round-*/train/{EVALUATION}"))
    compared = heard | trained if is_finished else heard
    if changed := [name for name, value in compared.items() if then and value != then.get(name)]:
        raise ConfigError(
            [
                f"{', '.join(changed)}: not as when the rounds in {wanted.output_dir} began, which this"
                " command would go on with: name another --output-dir"
            ]
        )
    write_whole(path, json.dumps(heard | trained, ensure_ascii=False, indent=1).encode())


def _origin_of(
    wanted: Wanted, config: TrainConfig, recordings: Sequence[Path], tests: Sequence[EvaluationSet]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what transcripts and first scores depend on, and what adapters depend on besides."""
    scored = hashlib.sha256()
    for test in tests:
        rows = [(clip.text, clip.language, round(clip.duration_s, 3)) for clip in test.clips]
        scored.update(json.dumps([test.name, rows]).encode())
    heard = {
        "recordings": sorted([each.name, each.stat().st_size] for each in recordings),  # both may have moved
        "--model-dir": adapter_sha256(wanted.model_dir),
        "--people or --also": scored.hexdigest(),
        "--language": wanted.language or config.language,
        "--noise-db": wanted.noise_db,
    }
    # A machine with less memory or other cores may go on.
    usual = TrainConfig(name="", output_dir=Path(), train_data=config.train_data)
    same = ("batch_s", "max_window_s", "gradient_checkpointing", "n_threads", "log_every_steps")
    trained = {
        "--config": dump_config(replace(config, **{name: getattr(usual, name) for name in same})),
        "--weight": wanted.weight,
        "--keep": asdict(wanted.keep),
    }
    return heard, trained
