"""Write and read resumable checkpoints: adapter weights, optimiser moments, position.

Files are safetensors and JSON. A checkpoint is written under a temporary name and renamed once complete, so a
killed run leaves only complete ones. The newest few are kept, and the adapter with the best validation.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from serve.model.durable_write import put_in_place
from train.errors import DataError
from train.model.adalora import rank_tensors, restore_ranks

_STATE = "state.json"
_ADAPTER = "adapter.safetensors"
_OPTIMISER = "optimiser.safetensors"
_BEST = "best.safetensors"
_RANKS = "ranks."
_OURS = re.compile(r"\.?step-\d+(\.part|\.old)?|\.?best\.safetensors(\.part)?")
"""Names of what this module writes into the directory of checkpoints."""


@dataclass(kw_only=True)
class Position:
    """Where a run stands; stored in every checkpoint."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    """Number of the next batch within the epoch."""
    trained_s: float = 0.0
    """Wall-clock seconds of training, over all starts of the run."""
    samples: int = 0
    skipped_batches: int = 0
    n_processes: int = 1
    """Most processes that the run has had; each step has so many times `accumulate_batches`."""
    best: float | None = None
    """WER or loss of the best validation."""
    best_step: int = 0
    looks_since_best: int = 0
    measure: str = ""
    """What `best` is: loss or WER, of which clips."""
    agents: list[str] = field(default_factory=list)
    """The torchruns that take part; see `Processes.agents`."""
    origin: dict[str, Any] = field(default_factory=dict)
    """What the steps are made of; see `train.loop.origin`."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    path: Path
    adapter: dict[str, torch.Tensor]
    optimiser: dict[str, torch.Tensor]
    position: Position


def save_checkpoint(
    directory: Path,
    model: PeftModel,
    optimiser: torch.optim.Optimizer,
    position: Position,
    keep: int,
    log: Path | None = None,
) -> Path:
    """Write `directory/step-NNNNNN` and remove all but the newest `keep`; return its path.

    A copy of `log`, the metrics so far, is stored in the checkpoint for a run that resumes elsewhere.
    """
    target = directory / f"step-{position.step:06d}"
    building = directory / f".{target.name}.part"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    save_file(_adapter(model), building / _ADAPTER)
    ranks = {f"{_RANKS}{name}": value for name, value in rank_tensors(model).items()}
    save_file({**_moments(optimiser), **ranks}, building / _OPTIMISER)
    if log and log.is_file():
        shutil.copyfile(log, building / log.name)
    (building / _STATE).write_text(json.dumps(asdict(position)))
    put_in_place(building, target)
    for old in _whole_checkpoints(directory)[:-keep]:
        shutil.rmtree(old)
    return target


def clear_checkpoints(directory: Path) -> None:
    """Delete all checkpoints and the best adapter, and nothing that others have put beside them."""
    for path in directory.iterdir() if directory.is_dir() else ():
        if _OURS.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def newest_checkpoint(directory: Path) -> Path | None:
    """Return the newest whole checkpoint, or None."""
    found = _whole_checkpoints(directory)
    return found[-1] if found else None


def read_checkpoint(path: Path) -> Checkpoint:
    return Checkpoint(
        path=path,
        adapter=load_file(path / _ADAPTER),
        optimiser=load_file(path / _OPTIMISER),
        position=read_position(path),
    )


def read_position(path: Path) -> Position:
    """Return the position alone of a checkpoint."""
    return Position(**json.loads((path / _STATE).read_text()))


def restore_checkpoint(saved: Checkpoint, model: PeftModel, optimiser: torch.optim.Optimizer) -> Position:
    """Restore model and optimiser in place and return the saved position.

    Raises:
        DataError: The checkpoint belongs to another model or adapter configuration.
    """
    _restore_adapter(model, saved.adapter, saved.path)
    moments: dict[int, dict[str, torch.Tensor | int]] = {}
    ranks: dict[str, torch.Tensor] = {}
    for key, value in saved.optimiser.items():
        if key.startswith(_RANKS):
            ranks[key.removeprefix(_RANKS)] = value
            continue
        index, _, name = key.partition(".")
        counts = value.dtype == torch.int64  # bitsandbytes counts its steps in a plain int
        moments.setdefault(int(index), {})[name] = int(value) if counts else value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})
    restore_ranks(model, ranks)
    return saved.position


def has_best(directory: Path) -> bool:
    """Tell whether a best adapter has been saved."""
    return (directory / _BEST).is_file()


def save_best(directory: Path, model: PeftModel) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    building = directory / f".{_BEST}.part"
    save_file(_adapter(model), building)
    put_in_place(building, directory / _BEST)


def restore_best(directory: Path, model: PeftModel) -> None:
    """Put the best adapter into the model.

    Raises:
        DataError: The best adapter cannot be read, or belongs to another adapter configuration.
    """
    path = directory / _BEST
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"the best adapter {path} cannot be read: {error}") from error
    _restore_adapter(model, weights, path)


def _adapter(model: PeftModel) -> dict[str, torch.Tensor]:
    return {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}


def _restore_adapter(model: PeftModel, weights: dict[str, torch.Tensor], path: Path) -> None:
    expected = _adapter(model)
    if {name: w.shape for name, w in weights.items()} != {name: w.shape for name, w in expected.items()}:
        raise DataError(f"{path} belongs to another model or adapter: start afresh with --resume never")
    with torch.no_grad():
        for name, parameter in expected.items():
            parameter.copy_(weights[name])


def _moments(optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return a copy of the optimiser's state of each parameter, as `NUMBER.NAME`, on the CPU.

    The copies are apart: bitsandbytes' states share the tables of their 8 bits, which safetensors refuses.
    """
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    return {
        f"{index}.{name}": torch.as_tensor(value).to("cpu", copy=True)
        for index, parameter in enumerate(parameters)
        for name, value in optimiser.state.get(parameter, {}).items()
    }


def _whole_checkpoints(directory: Path) -> list[Path]:
    return [path for path in sorted(directory.glob("step-*")) if _is_whole(path)]


def _is_whole(checkpoint: Path) -> bool:
    """Tell whether all files are complete; a checkpoint copied from elsewhere may not be."""
    try:
        for name in (_ADAPTER, _OPTIMISER):
            with safe_open(checkpoint / name, framework="pt"):
                pass  # opening compares the header with the file's size
        json.loads((checkpoint / _STATE).read_text())
    except (OSError, SafetensorError, ValueError):
        return False
    return True
