"""What the rounds of a self-training are made of, and whether a start goes on with them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve.errors import ConfigError
from serve.model.durable_write import write_whole
from train.config import TrainConfig, dump_config
from train.loop.origin import adapter_sha256

if TYPE_CHECKING:
    from train.pseudo_labels.rounds import Wanted

_FILE = "origin.json"


def require_same_rounds(wanted: Wanted, config: TrainConfig, recordings: Sequence[Path]) -> None:
    """Write down what the rounds are made of, or compare it with what they began with.

    What lies in `output_dir` is not done again. So with other recordings or criteria, an earlier adapter
    would be scored as if it had heard them.

    Raises:
        ConfigError: Names the flags that differ.
        ArtifactError: There is no adapter at `model_dir`.
    """
    path = wanted.output_dir / _FILE
    origin = _origin_of(wanted, config, recordings)
    if not path.is_file():
        write_whole(path, json.dumps(origin, ensure_ascii=False, indent=1).encode())
        return
    then = json.loads(path.read_text(encoding="utf-8"))
    if changed := [name for name, value in origin.items() if value != then.get(name)]:
        raise ConfigError(
            [
                f"{', '.join(changed)}: not as when the rounds in {wanted.output_dir} began, which this"
                " command would go on with: name another --output-dir"
            ]
        )


def _origin_of(wanted: Wanted, config: TrainConfig, recordings: Sequence[Path]) -> dict[str, Any]:
    # The number of rounds may grow, and a file may have moved, as may the machine.
    threads_aside = replace(config, n_threads=0)
    return {
        "recordings": sorted([each.name, each.stat().st_size] for each in recordings),
        "--model-dir": adapter_sha256(wanted.model_dir),
        "--config, --people or --also": dump_config(threads_aside),
        "--language": wanted.language or config.language,
        "--weight": wanted.weight,
        "--noise-db": wanted.noise_db,
        "--keep": asdict(wanted.keep),
    }
