"""Write and read resumable checkpoints: adapter weights, optimiser moments, position.

Safetensors and JSON only. A checkpoint is written under a temporary name and renamed when it is whole, so
that a killed run leaves only whole ones; the newest few are kept.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from train.errors import DataError

_STATE = "state.json"
_ADAPTER = "adapter.safetensors"
_OPTIMISER = "optimiser.safetensors"


@dataclass(kw_only=True)
class Position:
    """Where a run stands; saved with every checkpoint."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    """Number of the next batch within the epoch."""
    trained_s: float = 0.0
    """Wall-clock seconds spent in training, over all starts of the run."""
    samples: int = 0
    skipped_batches: int = 0


def save_checkpoint(
    directory: Path, model: PeftModel, optimiser: torch.optim.Optimizer, position: Position, keep: int
) -> Path:
    """Write `directory/step-NNNNNN` and remove all but the newest `keep`; return its path."""
    target = directory / f"step-{position.step:06d}"
    building = directory / f".{target.name}.part"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in get_peft_model_state_dict(model).items()}, building / _ADAPTER)
    moments = optimiser.state_dict()["state"]
    save_file(
        {f"{index}.{name}": value for index, entry in moments.items() for name, value in entry.items()},
        building / _OPTIMISER,
    )
    (building / _STATE).write_text(json.dumps(asdict(position)))
    if target.exists():
        shutil.rmtree(target)
    building.replace(target)
    for old in _whole_checkpoints(directory)[:-keep]:
        shutil.rmtree(old)
    return target


def newest_checkpoint(directory: Path) -> Path | None:
    """Return the newest whole checkpoint, or None."""
    found = _whole_checkpoints(directory)
    return found[-1] if found else None


def load_checkpoint(path: Path, model: PeftModel, optimiser: torch.optim.Optimizer) -> Position:
    """Restore model and optimiser in place and return the saved position.

    Raises:
        DataError: the checkpoint belongs to another model or adapter configuration.
    """
    weights = load_file(path / _ADAPTER)
    expected = get_peft_model_state_dict(model)
    if {k: v.shape for k, v in weights.items()} != {k: v.shape for k, v in expected.items()}:
        raise DataError(
            f"checkpoint {path} belongs to another model or adapter: start anew with --resume never"
        )
    set_peft_model_state_dict(model, weights)
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in load_file(path / _OPTIMISER).items():
        index, _, name = key.partition(".")
        moments.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})
    return Position(**json.loads((path / _STATE).read_text()))


def _whole_checkpoints(directory: Path) -> list[Path]:
    return [path for path in sorted(directory.glob("step-*")) if _is_whole(path)]


def _is_whole(checkpoint: Path) -> bool:
    """Tell whether all files were written to their end: a power cut may undo what was renamed."""
    try:
        for name in (_ADAPTER, _OPTIMISER):
            with safe_open(checkpoint / name, framework="pt"):
                pass  # opening compares the header with the file's size
        json.loads((checkpoint / _STATE).read_text())
    except (OSError, SafetensorError, ValueError):
        return False
    return True
