"""What the steps of a run are made of, and whether a start goes on with an earlier one's checkpoint.

A checkpoint holds the origin of its run. A start that went on from it with other clips, or from another
adapter, would be neither run; if the run is finished, it would export the older adapter as if that had heard
the new clips. What later steps may do otherwise (rates, augmentation, when to stop, what is scored) is not
compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serve.model.artifact import ADAPTER_WEIGHTS, load_artifact
from serve.model.base_model import base_fingerprint
from train.config import TrainConfig
from train.data.manifest import Clip
from train.errors import TrainConfigError
from train.loop.checkpoint import newest_checkpoint, read_position
from train.loop.distributed import Processes
from train.model.adapter import LINEAR_LAYERS


def checkpoint_to_resume(config: TrainConfig, processes: Processes) -> Path | None:
    """Return the checkpoint that this start goes on from; None if the run begins.

    With `resume: never` a run begins once, when it is launched. torchrun starts the processes again when one
    of them dies or a machine joins, and at least one torchrun is then the same as before.
    """
    newest = newest_checkpoint(config.checkpoints)
    if newest is None or config.resume == "auto" or processes.restarted:
        return newest
    return newest if processes.agents.intersection(read_position(newest).agents) else None


def origin_of(config: TrainConfig, base_dir: Path, clips: Sequence[Clip]) -> dict[str, Any]:
    """Return what the steps of a run are made of, by key, as JSON holds it.

    Args:
        config: The run's configuration.
        base_dir: Directory of its base model.
        clips: The training clips, in their order: steps refer to them by number.

    Raises:
        ArtifactError: There is no adapter at `continue_from`.
    """
    origin: dict[str, Any] = {
        "base_model": base_fingerprint(base_dir),
        "task": config.task,
        "seed": config.seed,
        "lora_method": config.lora_method,
        "continue_from": _start(config),
        "continue_blocks": list(config.continue_blocks),
        "train_data": _data(config, clips),
    }
    for block in config.blocks:
        origin[f"{block.name}.rank"] = block.rank
        if block.is_trained:
            names = LINEAR_LAYERS if block.targets == ("all-linear",) else block.targets
            origin[f"{block.name}.alpha"] = block.alpha
            origin[f"{block.name}.targets"] = sorted(set(names))
            origin[f"{block.name}.layers"] = None if block.layers is None else list(block.layers)
    return origin


def require_same_origin(config: TrainConfig, origin: Mapping[str, Any], processes: Processes) -> None:
    """Refuse to go on from a checkpoint whose steps were made of something else.

    Raises:
        TrainConfigError: Names the keys that differ. It is raised in every process.
    """
    newest = checkpoint_to_resume(config, processes) if processes.leads else None
    began = read_position(newest).origin if newest else {}
    changed = [
        f"{key}{_told(key, then, origin[key])}"
        for key, then in began.items()
        if key in origin and not _is_same(key, then, origin[key])
    ]
    if changed := processes.from_leader(changed):
        directory = "checkpoint_dir" if config.checkpoint_dir else "output_dir"
        raise TrainConfigError(
            [
                f"{', '.join(changed)}: not as when the run in {config.checkpoints} began, which this one"
                f" would go on with: name another --{directory}, or start afresh with --resume never"
            ]
        )


def adapter_sha256(artifact_dir: Path) -> str:
    """Return the hash of an artifact's adapter.

    Raises:
        ArtifactError: There is no adapter.
    """
    weights = load_artifact(artifact_dir).adapter_dir / ADAPTER_WEIGHTS
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def _start(config: TrainConfig) -> dict[str, str] | None:
    if config.continue_from is None:
        return None
    return {"path": str(config.continue_from.resolve()), "sha256": adapter_sha256(config.continue_from)}


def _data(config: TrainConfig, clips: Sequence[Clip]) -> dict[str, Any]:
    digest = hashlib.sha256()
    for clip in clips:
        row = (clip.text, clip.language or config.language, round(clip.duration_s, 3), clip.weight)
        digest.update(json.dumps(row).encode())
    return {
        "sources": list(config.train_data),
        "max_window_s": config.max_window_s,
        "clips": len(clips),
        "sha256": digest.hexdigest(),
    }


def _is_same(key: str, then: Any, now: Any) -> bool:
    if then is None or now is None or key not in ("train_data", "continue_from"):
        return bool(then == now)
    if key == "train_data" and then["max_window_s"] != now["max_window_s"]:
        # Lowered for lack of memory, as the error about that advises: longer clips are left out.
        return bool(then["sources"] == now["sources"])
    # A run may be published over the adapter that it continued, which then has another hash.
    return bool(then["sha256"] == now["sha256"] or (key == "continue_from" and then["path"] == now["path"]))


def _told(key: str, then: Any, now: Any) -> str:
    """Return how a value differs, in brackets."""
    if key == "train_data":
        n_then, n_now = then["clips"], now["clips"]
        return f" ({n_then:,} clips then, {n_now if n_now != n_then else 'as many others'} now)"
    if key == "continue_from":
        then, now = (each and each["path"] for each in (then, now))
    return "" if key == "base_model" else f" ({then} then, {now} now)"
