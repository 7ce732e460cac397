"""Write and read resumable checkpoints: adapter weights, optimiser moments, position. Safetensors and JSON only.

A checkpoint is written under a temporary name and renamed when it is whole, so that a killed run leaves only
whole ones; the newest few are kept.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from train.errors import DataError

_STATE = "state.json"
_ADAPTER = "adapter.safetensors"
_OPTIMISER = "optimiser.safetensors"


def save_checkpoint(
    directory: Path, model: PeftModel, optimiser: torch.optim.Optimizer, state: dict[str, Any], keep: int
) -> Path:
    """Write `directory/step-NNNNNN` and remove all but the newest `keep`; return its path."""
    target = directory / f"step-{state['step']:06d}"
    building = directory / f".{target.name}.part"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in get_peft_model_state_dict(model).items()}, building / _ADAPTER)
    moments = optimiser.state_dict()["state"]
    save_file(
        {f"{index}.{name}": value for index, entry in moments.items() for name, value in entry.items()},
        building / _OPTIMISER,
    )
    (building / _STATE).write_text(json.dumps(state))
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


def load_checkpoint(path: Path, model: PeftModel, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Restore model and optimiser in place and return the saved state.

    Raises:
        DataError: the checkpoint belongs to another model or adapter configuration.
    """
    try:
        loaded = set_peft_model_state_dict(model, load_file(path / _ADAPTER))
    except RuntimeError as error:
        raise DataError(
            f"checkpoint {path} does not fit this model: start anew with --resume never"
        ) from error
    if loaded.unexpected_keys:
        raise DataError(f"checkpoint {path} belongs to another adapter: start anew with --resume never")
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in load_file(path / _OPTIMISER).items():
        index, _, name = key.partition(".")
        moments.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})
    state: dict[str, Any] = json.loads((path / _STATE).read_text())
    return state


def _whole_checkpoints(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("step-*") if (path / _STATE).is_file())
