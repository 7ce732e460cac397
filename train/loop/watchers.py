"""Send a run's metrics to TensorBoard and optionally MLflow while it trains. Knows no model.

A watcher that cannot be opened ends the run at its start. One that fails later is reported once and ignored,
because hours of training must not depend on a tracking server.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from serve.config.reader import MASK
from train.errors import TrainError

if TYPE_CHECKING:
    from train.config import TrainConfig


class Watcher(Protocol):
    """Takes the metrics of one step at a time."""

    def log(self, values: Mapping[str, float], step: int, test_set: str | None) -> None:
        """Send the metrics of a step; `test_set` names the test set of evaluation metrics."""

    def close(self) -> None:
        """Send buffered metrics and end."""


def open_watchers(config: TrainConfig, step: int) -> Iterator[Watcher]:
    """Yield the watchers of a configuration, for a run that resumes from `step`.

    Raises:
        TrainError: A watcher cannot be opened.
    """
    if config.tensorboard:
        yield TensorBoardWatcher(config.output_dir / "tensorboard", step)
    if config.mlflow_uri:
        yield MlflowWatcher(config.mlflow_uri.reveal(), config, step)


class TensorBoardWatcher:
    """Event files for `tensorboard --logdir RUN_DIR`."""

    def __init__(self, directory: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if step == 0:
            shutil.rmtree(directory, ignore_errors=True)  # left by an older run
        # TensorBoard hides points after the step that a resumed run starts from.
        self._writer = SummaryWriter(str(directory), purge_step=step + 1 if step else None)

    def log(self, values: Mapping[str, float], step: int, test_set: str | None) -> None:
        for name, value in values.items():
            tag = f"{name}/{test_set}" if test_set else name
            self._writer.add_scalar(tag, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class MlflowWatcher:
    """A run on an MLflow server or in a local store; a resumed training continues the same MLflow run."""

    def __init__(self, uri: str, config: TrainConfig, step: int) -> None:
        try:
            import mlflow
            from mlflow.exceptions import MlflowException
        except ImportError as error:
            raise TrainError(
                "mlflow_uri is set, but the package mlflow is missing: pip install 'shrota[mlflow]', or leave"
                " mlflow_uri out"
            ) from error
        self._mlflow, self._refusal = mlflow, MlflowException
        self._failed = False
        known = config.output_dir / "mlflow-run-id"
        run_id = known.read_text().strip() if step and known.is_file() else None
        try:
            mlflow.set_tracking_uri(uri)
            mlflow.set_experiment(config.name)
            run = mlflow.start_run(run_id=run_id, run_name=config.output_dir.name)
            if run_id is None:
                mlflow.log_params(_flat(dataclasses.asdict(config)))
        except (MlflowException, OSError) as error:
            told = str(error).replace(uri, MASK)  # the URI may hold a password
            raise TrainError(f"the server of mlflow_uri cannot be used: {told}") from error
        known.write_text(run.info.run_id)

    def log(self, values: Mapping[str, float], step: int, test_set: str | None) -> None:
        named = {f"{name}/{test_set}" if test_set else name: value for name, value in values.items()}
        try:
            self._mlflow.log_metrics(named, step=step)
        except (self._refusal, OSError) as error:
            if not self._failed:
                print(f"warning: MLflow takes no metrics, training goes on: {error}", file=sys.stderr)
            self._failed = True

    def close(self) -> None:
        self._mlflow.end_run()


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested keys, joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": str(value)}
    return flat
