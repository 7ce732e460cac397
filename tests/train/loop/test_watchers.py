"""TensorBoard's event files as TensorBoard reads them, and MLflow where it is there and where it is not."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from serve.config.reader import Secret
from train.errors import TrainError
from train.loop.metrics import open_metrics
from train.loop.watchers import TensorBoardWatcher, open_watchers


def scalars(directory):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(directory)).Reload()
    return {tag: [(each.step, each.value) for each in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def log(directory, step, rows):
    watcher = TensorBoardWatcher(directory, step)
    for each in rows:
        watcher.log({"loss": float(each)}, each, None)
    watcher.close()


def test_a_resumed_run_hides_what_lay_behind_its_step_and_a_fresh_one_everything(tmp_path):
    log(tmp_path, 0, [1, 2, 3, 4])
    log(tmp_path, 2, [3])
    assert scalars(tmp_path) == {"loss": [(1, 1.0), (2, 2.0), (3, 3.0)]}
    log(tmp_path, 0, [1])
    assert scalars(tmp_path) == {"loss": [(1, 1.0)]}


def test_a_test_set_has_a_curve_of_its_own(tmp_path):
    watcher = TensorBoardWatcher(tmp_path, 0)
    watcher.log({"eval_wer": 21.5}, 9, "test-everyday")
    watcher.close()
    assert scalars(tmp_path) == {"eval_wer/test-everyday": [(9, 21.5)]}


def test_nothing_watches_where_nothing_is_asked_for(tiny_config):
    assert list(open_watchers(tiny_config(tensorboard=False), 0)) == []


def test_a_missing_mlflow_is_named_with_what_to_do(tiny_config, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)  # as if it were not installed
    config = tiny_config(tensorboard=False, mlflow_uri=Secret("sqlite:///runs.db"))
    with pytest.raises(TrainError, match=r"pip install 'shrota\[mlflow\]'"), open_metrics(config, 0):
        pass


@pytest.fixture
def mlflow(monkeypatch):
    """A stand-in for MLflow's few functions that are called, with what they were told."""
    fake, told = ModuleType("mlflow"), []
    for name in ("set_tracking_uri", "set_experiment", "log_params", "log_metrics", "end_run"):
        setattr(fake, name, lambda *args, name=name, **named: told.append((name, *args, *named.values())))
    fake.start_run = lambda run_id, run_name: (
        told.append(("start_run", run_id)) or SimpleNamespace(info=SimpleNamespace(run_id=run_id or "new"))
    )
    fake.told, errors = told, ModuleType("mlflow.exceptions")
    errors.MlflowException = type("MlflowException", (Exception,), {})
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.setitem(sys.modules, "mlflow.exceptions", errors)
    return fake


def test_mlflow_is_told_and_a_resumed_run_goes_on_in_the_same_one(tiny_config, mlflow, results):
    config = tiny_config(tensorboard=False, mlflow_uri=Secret("http://localhost:5000"))
    config.output_dir.mkdir()
    with open_metrics(config, 0) as metrics:
        metrics.log_evaluation(6, results)
    assert [each[0] for each in mlflow.told] == [
        *("set_tracking_uri", "set_experiment", "start_run", "log_params", "log_metrics", "end_run")
    ]
    named, step = mlflow.told[-2][1:]
    assert named.keys() == {"eval_wer/test-everyday", "eval_cer/test-everyday"} and step == 6
    mlflow.told.clear()
    with open_metrics(config, 6):
        pass
    assert ("start_run", "new") in mlflow.told and "log_params" not in [each[0] for each in mlflow.told]


def test_a_server_that_fails_later_is_mentioned_once(tiny_config, mlflow, results, capsys):
    config = tiny_config(tensorboard=False, mlflow_uri=Secret("http://localhost:5000"))
    config.output_dir.mkdir()

    def refuse(values, step):
        raise ConnectionError("gone")

    mlflow.log_metrics = refuse
    with open_metrics(config, 0) as metrics:
        metrics.log_evaluation(6, results)
        metrics.log_evaluation(7, results)
    assert capsys.readouterr().err.count("training goes on") == 1
