"""The `train` verb of the image: a SageMaker training job from /opt/ml, start to end.

    python -m train.sagemaker.container                          # what hyperparameters and channels say
    python -m train.sagemaker.container --max-steps 10           # flags win over hyperparameters
    python -m train.sagemaker.container -- python my_script.py   # a script of your own, with SM_* set for it

Exit status: 0 when training finished, or stopped on SIGTERM with its checkpoint whole; 1 with the reason, one
sentence, in `output/failure`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from serve.errors import ShrotaError
from train.config import dump_config
from train.errors import TrainConfigError, TrainError
from train.sagemaker.config import ContainerConfig, resolve_config
from train.sagemaker.environment import count_gpus, sagemaker_variables
from train.sagemaker.failure import FAILURE_VARIABLE, shorten, write_failure
from train.sagemaker.job import TrainingJob, read_job
from train.sagemaker.model import ARTIFACT, image_holds, lay_out_model, tidy_outputs
from train.sagemaker.processes import GRACE_S, Ending, network_variables, supervise, training_command

BASE_DIR_VARIABLE = "SAGEMAKER_BASE_DIR"
DEFAULT_BASE_DIR = "/opt/ml"
_PROGRAM = Path(__file__).parents[1] / "run.py"


def train(job: TrainingJob, config: ContainerConfig, environ: Mapping[str, str], n_gpus: int) -> None:
    """Train as the configuration says, on this machine's GPUs, and on the first machine lay the model out.

    Raises:
        TrainError: with the reason why there is no model.
    """
    held_by_image = image_holds(config.train.base_model, job)
    job.run_dir.mkdir(parents=True, exist_ok=True)
    if job.checkpoint_dir:
        job.checkpoint_dir.mkdir(parents=True, exist_ok=True)
    resolved = job.run_dir / "config.yaml"
    resolved.write_text(dump_config(config.train), encoding="utf-8")
    command = training_command(job, [str(_PROGRAM), "--config", str(resolved)], max(1, n_gpus), environ)
    try:
        ending = supervise(
            command,
            {**environ, **network_variables(job), FAILURE_VARIABLE: str(job.failure_file)},
            wait_for=job.hosts[:1] if len(job.hosts) > 1 else (),
        )
        _check(ending, job)
        finished = ending.status == 0 and (job.run_dir / ARTIFACT).is_dir()
        if finished:
            lay_out_model(job, config, held_by_image=held_by_image)
    finally:
        tidy_outputs(job.run_dir)


def _check(ending: Ending, job: TrainingJob) -> None:
    """Raise unless the processes ended well, or because they were asked to."""
    if job.failure_file.exists():
        raise TrainError(job.failure_file.read_text(encoding="utf-8"))
    killed = ending.status == -signal.SIGKILL
    if ending.status == 0 or (ending.stopped and not killed):
        return  # stopped before or after the loop, where there is nothing to save
    if ending.status < 0:
        name = signal.Signals(-ending.status).name
        why = "it may have run out of memory" if killed else "the log says more"
        why = f"it was still at work {GRACE_S:.0f} s after it was told to stop" if ending.stopped else why
        raise TrainError(f"the training process was ended by {name}; {why}")
    raise TrainError(f"training ended with exit status {ending.status}; the log says more")


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the job and return the exit status."""
    base_dir = Path(environ.get(BASE_DIR_VARIABLE) or DEFAULT_BASE_DIR)
    failure_file = base_dir / "output" / "failure"
    failure_file.unlink(missing_ok=True)
    try:
        job = read_job(base_dir)
        n_gpus = count_gpus()
        environ = {**environ, **sagemaker_variables(job, n_gpus, os.cpu_count() or 1)}
        if arguments[:1] == ["--"]:
            _check(supervise(arguments[1:], environ), job)
        else:
            train(job, resolve_config(job, arguments, environ), environ, n_gpus)
    except TrainConfigError as error:
        return _fail(failure_file, "; ".join(error.faults))
    except (ShrotaError, OSError) as error:
        return _fail(failure_file, str(error))
    return 0


def _fail(failure_file: Path, reason: str) -> int:
    print(f"error: {shorten(reason)}", file=sys.stderr)
    write_failure(failure_file, reason)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
