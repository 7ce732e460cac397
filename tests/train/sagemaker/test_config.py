"""What a job asks for: its hyperparameters without the platform's own, and its files with marks and junk."""

from __future__ import annotations

import json

import pytest

from train.errors import TrainConfigError
from train.sagemaker.config import resolve_config
from train.sagemaker.environment import sagemaker_variables
from train.sagemaker.job import TrainingJob, read_job

OF_THE_PLATFORM = {
    "_tuning_objective_metric": "eval_wer",
    "_tuning_of_later": "1",
    "sagemaker_program": '"train.py"',
    "sagemaker_submit_directory": "s3://bucket/code",
    "sagemaker_region": '"ap-south-1"',
}


def job(tmp_path, **hyperparameters):
    return TrainingJob(base_dir=tmp_path, hyperparameters=hyperparameters)


def test_names_that_the_platform_adds_are_passed_over(tmp_path):
    tuning = job(tmp_path, **OF_THE_PLATFORM, config="smoke", epochs='"0.5"', lora_rank="8")
    config = resolve_config(tuning, {}, {}).train
    assert (config.epochs, config.lora_rank) == (0.5, 8)
    variables = sagemaker_variables(tuning, n_gpus=0, n_cpus=1)
    assert set(json.loads(variables["SM_HPS"])) == {"config", "epochs", "lora_rank"}
    assert not [name for name in variables if "TUNING" in name.upper()]


def test_ours_are_checked_all_the_same(tmp_path):
    with pytest.raises(TrainConfigError) as refused:
        resolve_config(job(tmp_path, **OF_THE_PLATFORM, config="smoke", lora_rang="8", tuning="1"), {}, {})
    text = str(refused.value)
    assert (
        "lora_rang is unknown" in text
        and "hyperparameter tuning is unknown" in text
        and "_tuning" not in text
        and "sagemaker_" not in text
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_the_files_of_a_job_may_have_a_byte_order_mark_and_channels_junk_beside_them(tmp_path, encoding):
    config_dir, data_dir = tmp_path / "input" / "config", tmp_path / "input" / "data"
    config_dir.mkdir(parents=True)
    (config_dir / "hyperparameters.json").write_text(json.dumps({"config": "smoke"}), encoding=encoding)
    for name in ("train", "__MACOSX", "._train"):
        (data_dir / name).mkdir(parents=True)
    (data_dir / ".DS_Store").touch()
    read = read_job(tmp_path)
    assert read.hyperparameters == {"config": "smoke"}
    assert read.channels == {"train": data_dir / "train"}
