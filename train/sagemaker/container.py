"""The `train` verb of the image: run a SageMaker training job from the files in /opt/ml.

    docker run IMAGE train                          # by hyperparameters and channels
    docker run IMAGE train --max-steps 10           # flags override hyperparameters
    docker run IMAGE train -- python my_script.py   # a script of your own, with SM_* set for it

Exit status: 0 when training finished, or stopped on SIGTERM with a complete checkpoint; 1 with the reason,
one sentence, in `output/failure`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve.config.command_line import Command, config_flag, flags_of, run_command
from serve.config.reader import keys_of
from serve.config.sources import TRAINING_PREFIX, variable_of
from serve.errors import ShrotaError
from train.config import TrainConfig, dump_config
from train.errors import TrainError
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
    """Train on this machine's GPUs, and prepare the model for SageMaker on the first machine.

    Raises:
        TrainError: There is no model; the message says why.
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
            {
                **environ,
                **network_variables(job),
                **_secrets(config),
                FAILURE_VARIABLE: str(job.failure_file),
            },
            wait_for=job.hosts[:1] if len(job.hosts) > 1 else (),
        )
        _check(ending, job)
        finished = ending.status == 0 and (job.run_dir / ARTIFACT).is_dir()
        if finished:
            lay_out_model(job, config, held_by_image=held_by_image)
    finally:
        tidy_outputs(job.run_dir)


def _secrets(config: ContainerConfig) -> dict[str, str]:
    """Return variables for the secrets, which the configuration's file does not hold."""
    given = {name: getattr(config.train, name) for name, key in keys_of(TrainConfig).items() if key.is_secret}
    return {variable_of(name, TRAINING_PREFIX): value.reveal() for name, value in given.items() if value}


def _check(ending: Ending, job: TrainingJob) -> None:
    """Raise unless the processes ended well, or because they were stopped."""
    if job.failure_file.exists():
        raise TrainError(job.failure_file.read_text(encoding="utf-8"))
    killed = ending.status == -signal.SIGKILL
    if ending.status == 0 or (ending.stopped and not killed):
        return  # stopped before or after the loop, with nothing to save
    if ending.status < 0:
        name = signal.Signals(-ending.status).name
        why = "it may have run out of memory" if killed else "the log says more"
        why = f"it was still running {GRACE_S:.0f} s after it was told to stop" if ending.stopped else why
        raise TrainError(f"the training process was ended by {name}; {why}")
    raise TrainError(f"training ended with exit status {ending.status}; the log says more")


@dataclass(frozen=True, kw_only=True)
class Work:
    job: TrainingJob
    config: ContainerConfig


def read_work(flags: Mapping[str, Any]) -> Work:
    """Read the files below /opt/ml, flags and environment.

    Raises:
        TrainConfigError: Lists every fault.
    """
    job = read_job(_base_dir())
    return Work(job=job, config=resolve_config(job, flags, os.environ))


def run_job(work: Work) -> int:
    """Train, and return the exit status; a failure is recorded for the platform."""
    try:
        n_gpus = count_gpus()
        train(work.job, work.config, _job_environment(work.job, n_gpus), n_gpus)
    except (ShrotaError, OSError) as error:
        return _fail(str(error))
    return 0


def run_script(words: Sequence[str]) -> int:
    """Run a user's script with the variables that it expects, and return the exit status."""
    try:
        job = read_job(_base_dir())
        _check(supervise(words, _job_environment(job, count_gpus())), job)
    except (ShrotaError, OSError) as error:
        return _fail(str(error))
    return 0


def main(arguments: Sequence[str]) -> int:
    _failure_file().unlink(missing_ok=True)
    return run_script(arguments[1:]) if arguments[:1] == ["--"] else run_command(command, arguments)


def _base_dir() -> Path:
    return Path(os.environ.get(BASE_DIR_VARIABLE) or DEFAULT_BASE_DIR)


def _failure_file() -> Path:
    return _base_dir() / "output" / "failure"


def _job_environment(job: TrainingJob, n_gpus: int) -> dict[str, str]:
    """Return the environment of the job's processes, without variables that are already resolved."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(TRAINING_PREFIX)}
    return {**kept, **sagemaker_variables(job, n_gpus, os.cpu_count() or 1)}


def _fail(reason: str) -> int:
    print(f"error: {shorten(reason)}", file=sys.stderr)
    write_failure(_failure_file(), reason)
    return 1


command = Command(
    "train",
    read=read_work,
    run=run_job,
    about="Run the SageMaker training job whose files lie below /opt/ml.\n\nFlags override hyperparameters,"
    " which override channels, variables SHROTA_TRAIN_<KEY> and the configuration.",
    examples="""\
train                                # what hyperparameters and channels say
train --max-steps 10
train -- python my_script.py         # a script of your own, with SM_* set for it
""",
    flags=[
        config_flag("Committed configuration, or file of one."),
        *flags_of(TrainConfig),
        *flags_of(ContainerConfig, ("include_base",)),
    ],
    on_faults=lambda faults: write_failure(_failure_file(), "; ".join(faults)),
)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
