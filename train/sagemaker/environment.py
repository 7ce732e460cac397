"""The `SM_*` variables that users' SageMaker scripts expect, which the container must set."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any

from train.sagemaker.config import PLATFORM_PREFIXES
from train.sagemaker.job import TrainingJob, decode_hyperparameter


def sagemaker_variables(job: TrainingJob, n_gpus: int, n_cpus: int) -> dict[str, str]:
    """Return the variables for a machine with `n_gpus` GPUs and `n_cpus` cores."""
    values = {
        name: decode_hyperparameter(text)
        for name, text in job.hyperparameters.items()
        if not name.startswith(PLATFORM_PREFIXES)
    }
    groups = job.resources.get("instance_groups", [])
    return {
        "SM_MODEL_DIR": str(job.model_dir),
        "SM_INPUT_DIR": str(job.base_dir / "input"),
        "SM_INPUT_CONFIG_DIR": str(job.config_dir),
        "SM_OUTPUT_DIR": str(job.base_dir / "output"),
        "SM_OUTPUT_DATA_DIR": str(job.run_dir),
        "SM_CHECKPOINT_DIR": str(job.checkpoint_dir or ""),
        "SM_CHANNELS": json.dumps(list(job.channels)),
        **{f"SM_CHANNEL_{_word(name)}": str(path) for name, path in job.channels.items()},
        "SM_HPS": json.dumps(values),
        **{f"SM_HP_{_word(name)}": _text(value) for name, value in values.items()},
        "SM_USER_ARGS": json.dumps(
            [part for name, value in values.items() for part in (f"--{name}", _text(value))]
        ),
        "SM_HOSTS": json.dumps(list(job.hosts)),
        "SM_CURRENT_HOST": job.current_host,
        "SM_NETWORK_INTERFACE_NAME": job.network_interface or "",
        "SM_CURRENT_INSTANCE_TYPE": str(job.resources.get("current_instance_type", "")),
        "SM_CURRENT_INSTANCE_GROUP": str(job.resources.get("current_group_name", "")),
        "SM_INSTANCE_GROUPS": json.dumps([group.get("instance_group_name") for group in groups]),
        "SM_RESOURCE_CONFIG": json.dumps(job.resources),
        "SM_INPUT_DATA_CONFIG": json.dumps(job.inputs),
        "SM_NUM_GPUS": str(n_gpus),
        "SM_NUM_CPUS": str(n_cpus),
    }


def count_gpus() -> int:
    """Return the number of GPUs that nvidia-smi lists; importing torch would cost seconds and memory."""
    if not shutil.which("nvidia-smi"):
        return 0
    answer = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in answer.stdout.splitlines())


def _word(name: str) -> str:
    return re.sub(r"\W", "_", name).upper()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
