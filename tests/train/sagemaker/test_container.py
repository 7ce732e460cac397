"""The `train` verb as SageMaker starts it: a child process in a generated /opt/ml, signals, two hosts."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file

from serve.model.artifact import load_artifact
from serve.options import TranscriptionOptions
from serve.service.loading import load_pipeline
from serve.transcript.events import End
from train.loop.checkpoint import newest_checkpoint, read_checkpoint
from train.loop.metrics import METRICS, metric_definitions

ROOT = Path(__file__).parents[3]
HANG_S = 1_800  # a job takes seconds; what is not done after half an hour hangs
CHANNEL = {
    "TrainingInputMode": "FastFile",
    "S3DistributionType": "FullyReplicated",
    "RecordWrapperType": "None",
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training job on one machine: its /opt/ml and the process in it."""

    base_dir: Path
    process: subprocess.Popen[str]

    def finish(self, status: int = 0) -> str:
        """Wait for the end, and return all that was printed."""
        printed, _ = self.process.communicate(timeout=HANG_S)
        assert self.process.returncode == status, printed
        return printed

    @property
    def failure(self) -> str | None:
        file = self.base_dir / "output" / "failure"
        return file.read_text() if file.exists() else None

    @property
    def checkpoints(self) -> Path:
        return self.base_dir / "checkpoints"

    def losses(self) -> list[float]:
        file = self.base_dir / "output" / "data" / "metrics.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        rows = [json.loads(line) for line in lines if line.endswith("}\n")]
        return [row["loss"] for row in rows if "loss" in row]

    def wait_for_config(self) -> str:
        """Return the resolved configuration, which the trainer writes before it reads a clip."""
        file = self.base_dir / "output" / "data" / "config.yaml"
        deadline = time.monotonic() + HANG_S
        while not (file.exists() and (text := file.read_text())):
            assert self.process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        return text

    def wait_for_steps(self, n_steps: int) -> None:
        deadline = time.monotonic() + HANG_S
        while len(self.losses()) < n_steps:
            assert self.process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture(scope="module")
def channels(tiny_manifest, tmp_path_factory):
    """Three channels of one file each, with sentences of their own."""
    root = tmp_path_factory.mktemp("channels")
    rows = tiny_manifest.read_text("utf-8").splitlines()
    for name, part in {"train": rows[:8], "validation": rows[8:10], "test": rows[10:]}.items():
        shutil.copytree(tiny_manifest.parent, root / name)
        (root / name / "tones.jsonl").write_text("\n".join(part) + "\n", "utf-8")
    return root


@pytest.fixture
def hyperparameters(tiny_base_dir):
    """What makes of the committed smoke configuration a run of seconds; strings, JSON in some."""
    return {
        "config": "smoke",
        "base_model": str(tiny_base_dir),
        "quantization": '"none"',
        "lora_rank": "4",
        "lora-alpha": "8",
        "lora_targets": '["q_proj", "v_proj", "fc1"]',
        "max_window_s": "4",
        "batch_s": "8",
        "max_steps": "8",
        "learning_rate": "1e-2",
        "augment.volume": "0.5",
        "eval_every_steps": "4",
        "save_every_steps": "4",
        "n_threads": "1",
        "export_best": "false",
        "tensorboard": "false",
    }


@pytest.fixture
def job(tmp_path, channels, hyperparameters):
    """Return a function that makes an /opt/ml and starts the entry point in it; a second call starts anew."""
    started = []

    def start(name="ml", *arguments, hosts=("algo-1",), current_host=None, env=None, files=None, **changes):
        base_dir = tmp_path / name
        config_dir = base_dir / "input" / "config"
        config_dir.mkdir(parents=True, exist_ok=True)
        if not (base_dir / "input" / "data").exists():
            shutil.copytree(channels, base_dir / "input" / "data")
        contents = {
            "hyperparameters": {**hyperparameters, **changes},
            "resourceconfig": {
                "hosts": list(hosts),
                "current_host": current_host or hosts[0],
                "network_interface_name": "lo",
                "current_instance_type": "ml.m5.large",
            },
            "inputdataconfig": dict.fromkeys(("train", "validation", "test"), CHANNEL),
            "checkpointconfig": {"LocalPath": str(base_dir / "checkpoints")},
            **(files or {}),
        }
        for file, content in contents.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (config_dir / f"{file}.json").write_text(text)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SM_", "SAGEMAKER_", "TRAIN_"))}
        process = subprocess.Popen(
            [ROOT / "docker" / "entrypoint.sh", "train", *arguments],
            cwd=ROOT,
            env={
                **inherited,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "SAGEMAKER_BASE_DIR": str(base_dir),
                **(env or {}),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return Job(base_dir=base_dir, process=process)

    yield start
    for process in started:
        for pid in descendants(process.pid):  # who loses its parent would go on, and keep the pipe open
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.kill()
        process.communicate()


def files_below(directory: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in directory.rglob("*")}


def test_a_job_completes_its_artifact_serves_and_its_log_feeds_every_metric(job, speech):
    run = job(valid_clips="2", include_base="true")
    before = files_below(run.base_dir / "input" / "data")  # FastFile: a read-only mount
    log = run.finish()
    assert run.failure is None
    assert files_below(run.base_dir / "input" / "data") == before

    model_dir = run.base_dir / "model"
    assert load_artifact(model_dir).manifest.training["steps"] == 8
    assert (model_dir / "base" / "config.json").is_file()
    *_, end = load_pipeline(model_dir, quantization="none").transcribe(speech, TranscriptionOptions())
    assert isinstance(end, End)

    results = {path.name for path in (run.base_dir / "output" / "data").iterdir()}
    assert {"config.yaml", "metrics.jsonl", "report"} <= results and "artifact" not in results
    for definition in metric_definitions():
        values = re.findall(definition["Regex"], log)
        assert values or definition["Name"] == "distill_loss", definition  # nothing is distilled here
        assert all(float(value) >= 0 for value in values), definition
    assert {definition["Name"] for definition in metric_definitions()} == set(METRICS)
    assert read_checkpoint(newest_checkpoint(run.checkpoints)).position.step == 8


def broken_and_resumed(job):
    """Stop a job of 40 steps by SIGTERM in mid-epoch, and finish it on the next machine; return that job."""
    broken = job("broken", max_steps="40", eval_every_steps="0", save_every_steps="1000")
    broken.wait_for_steps(5)
    broken.process.send_signal(signal.SIGTERM)
    broken.finish()
    assert broken.failure is None
    stopped_at = read_checkpoint(newest_checkpoint(broken.checkpoints)).position.step
    assert 5 <= stopped_at < 40 and not (broken.base_dir / "model").exists()

    shutil.rmtree(broken.base_dir / "output")  # a spot job's next machine has the checkpoints alone
    resumed = job("broken", max_steps="40", eval_every_steps="0", save_every_steps="1000")
    resumed.finish()
    return resumed


def test_sigterm_in_mid_epoch_ends_with_status_0_and_a_checkpoint_from_which_the_next_machine_goes_on(job):
    resumed = broken_and_resumed(job)
    assert len(resumed.losses()) == 40
    assert load_artifact(resumed.base_dir / "model").manifest.training["steps"] == 40


@pytest.mark.slow
def test_a_job_that_went_on_elsewhere_has_the_losses_and_weights_of_an_unbroken_one(job):
    unbroken = job("unbroken", max_steps="40", eval_every_steps="0", save_every_steps="1000")
    unbroken.finish()
    resumed = broken_and_resumed(job)
    assert resumed.losses() == pytest.approx(unbroken.losses(), rel=1e-6)
    ours, theirs = (
        load_file(each.base_dir / "model" / "adapter" / "adapter_model.safetensors")
        for each in (resumed, unbroken)
    )
    assert ours.keys() == theirs.keys()
    for name, weights in theirs.items():
        assert (ours[name] - weights).abs().max() <= 1e-6, name


def test_sigterm_before_the_first_step_ends_with_status_0_too(job):
    run = job(max_steps="100000")
    run.wait_for_config()
    run.process.send_signal(signal.SIGTERM)
    run.finish()
    assert run.failure is None and not (run.base_dir / "model").exists()


def test_all_faults_of_the_hyperparameters_come_together_in_one_sentence(job):
    run = job(epochs="many", learning_rate="7", colour="red", output_dir="/tmp/x", include_base="maybe")
    run.finish(1)
    assert run.failure is not None
    for word in ("epochs", "learning_rate", "colour", "output_dir", "include_base"):
        assert word in run.failure
    assert "Traceback" not in run.failure and "\n" not in run.failure and len(run.failure) <= 1024


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"hyperparameters": "{not json"}, "hyperparameters.json cannot be read"),
        (
            {"resourceconfig": {"hosts": ["algo-1"], "current_host": "algo-7"}},
            "'algo-7' is not one of the hosts",
        ),
        ({"inputdataconfig": {"train": {"TrainingInputMode": "Pipe"}}}, "'train' is in Pipe mode"),
        ({"hyperparameters": {"config": "nonesuch"}}, "config 'nonesuch' is neither a file nor one of smoke"),
    ],
)
def test_a_tree_that_cannot_be_used_is_refused_before_anything_is_loaded(job, files, said):
    run = job(files=files)
    run.finish(1)
    assert run.failure is not None and said in run.failure


def test_a_failure_of_training_itself_is_told_in_its_own_words(job):
    run = job(
        files={"inputdataconfig": {"train": CHANNEL, "test": CHANNEL, "nothing": CHANNEL}},
        test_data="channel:no",
    )
    run.finish(1)
    assert run.failure is not None and "no channel is named 'no'" in run.failure


def test_a_trainer_that_is_killed_leaves_a_reason(job):
    run = job(max_steps="100000")
    run.wait_for_config()
    (trainer,) = children(run.process.pid)
    os.kill(trainer, signal.SIGKILL)
    run.finish(1)
    assert run.failure is not None and "SIGKILL; it may have run out of memory" in run.failure


def test_flags_of_the_verb_win_over_hyperparameters(job):
    config = job("ml", "--max-steps", "2", "--eval_every_steps=0").wait_for_config()
    assert "\nmax_steps: 2\n" in config and "\neval_every_steps: 0\n" in config


def test_a_script_of_the_users_own_finds_the_variables_it_expects(job):
    script = "import json, os; print(json.dumps({k: v for k, v in os.environ.items() if k[:3] == 'SM_'}))"
    run = job("ml", "--", "python", "-c", script, hosts=("algo-1", "algo-2"), current_host="algo-2")
    said = json.loads(run.finish())
    assert said["SM_CHANNEL_TRAIN"] == str(run.base_dir / "input" / "data" / "train")
    assert said["SM_MODEL_DIR"] == str(run.base_dir / "model")
    assert json.loads(said["SM_HOSTS"]) == ["algo-1", "algo-2"] and said["SM_CURRENT_HOST"] == "algo-2"
    assert json.loads(said["SM_HPS"])["learning_rate"] == 0.01 and said["SM_HP_LORA_ALPHA"] == "8"
    assert json.loads(said["SM_CHANNELS"]) == ["test", "train", "validation"]
    assert said["SM_CURRENT_INSTANCE_TYPE"] == "ml.m5.large" and int(said["SM_NUM_CPUS"]) > 0


@pytest.mark.slow
def test_two_hosts_train_one_adapter_and_the_first_alone_delivers(job):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    hosts = ("127.0.0.1", "127.0.0.2")  # two names for this machine, as its algo-1 and algo-2
    pair = [
        job(f"host-{n}", hosts=hosts, current_host=host, env={"MASTER_PORT": port}, eval_every_steps="0")
        for n, host in enumerate(hosts)
    ]
    for each in pair:
        each.finish()
    first, second = pair
    alone = job("alone", eval_every_steps="0", accumulate_batches="2")  # the same steps by one process
    alone.finish()
    assert first.losses() == pytest.approx(alone.losses(), rel=1e-4)
    assert load_artifact(first.base_dir / "model").manifest.training["steps"] == 8
    assert not (second.base_dir / "model").exists() and newest_checkpoint(second.checkpoints) is None


@pytest.mark.slow
def test_sigterm_to_both_of_two_hosts_leaves_one_whole_checkpoint(job):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    hosts = ("127.0.0.1", "127.0.0.2")
    changes = {"eval_every_steps": "0", "max_steps": "100000", "save_every_steps": "100000"}
    pair = [
        job(f"host-{n}", hosts=hosts, current_host=host, env={"MASTER_PORT": port}, **changes)
        for n, host in enumerate(hosts)
    ]
    pair[0].wait_for_steps(3)
    for each in pair:
        each.process.send_signal(signal.SIGTERM)
    for each in pair:
        each.finish()
        assert each.failure is None
    newest = newest_checkpoint(pair[0].checkpoints)
    assert newest is not None and read_checkpoint(newest).position.step == len(pair[0].losses())


def children(pid: int) -> list[int]:
    """Return the process ids of a process's children; none once it has ended."""
    found = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(child) for child in tasks.read_text().split()]
    return found


def descendants(pid: int) -> list[int]:
    """Return the process ids of all that a process started, and that those started."""
    return [each for child in children(pid) for each in (child, *descendants(child))]
