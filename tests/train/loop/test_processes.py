"""Real child processes of the training command: killed, asked to stop, and several at once."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from train.config import dump_config

ROOT = Path(__file__).parents[3]
ALONE = [sys.executable]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
PAIR = [*TORCHRUN, "--standalone", "--nproc_per_node", "2"]


@pytest.fixture
def config(tiny_config):
    """Ten steps with everything random that training knows."""
    return tiny_config(
        name="tiny", max_steps=10, n_threads=1, save_every_steps=3, lora_dropout=0.1, join_probability=0.3
    )


@pytest.fixture
def command(tmp_path):
    """Return a function that starts the training command in a child process."""
    children = []

    def start(config, interpreter=ALONE):
        file = tmp_path / f"{config.output_dir.name}.yaml"
        file.write_text(dump_config(config), encoding="utf-8")
        child = subprocess.Popen(
            [*interpreter, str(ROOT / "train" / "run.py"), "--config", str(file)],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


def finish(child, status=0):
    _, printed = child.communicate(timeout=400)
    assert child.returncode == status, printed
    return printed


def losses(config):
    file = config.output_dir / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line)["loss"] for line in lines if line.endswith("}\n")]


def wait_for_steps(config, n_steps):
    deadline = time.monotonic() + 300
    while len(losses(config)) < n_steps:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def weights(config, step):
    return load_file(config.output_dir / "checkpoints" / f"step-{step:06d}" / "adapter.safetensors")


def assert_same_run(config, other, n_steps, tolerance, weight_tolerance=None):
    assert losses(config) == pytest.approx(losses(other), rel=tolerance)
    assert_same_weights(config, other, n_steps, weight_tolerance or tolerance)


def assert_same_weights(config, other, n_steps, tolerance):
    ours, theirs = weights(config, n_steps), weights(other, n_steps)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=tolerance, rtol=tolerance, msg=name)


@pytest.mark.parametrize("quantization", ["none", pytest.param("int8", marks=pytest.mark.slow)])
def test_killed_and_then_stopped_a_run_ends_with_the_losses_and_weights_of_an_unbroken_one(
    config, command, train, quantization
):
    whole = dataclasses.replace(config, quantization=quantization)
    broken = dataclasses.replace(whole, output_dir=whole.output_dir.with_name("broken"))
    child = command(broken)
    wait_for_steps(broken, 4)
    child.send_signal(signal.SIGKILL)
    finish(child, -signal.SIGKILL)
    child = command(broken)
    wait_for_steps(broken, 7)
    child.send_signal(signal.SIGTERM)  # arrives while a step is being made
    printed = finish(child)
    assert "the same command resumes from there" in printed or "artifact" in printed
    assert "memory: about" in finish(command(broken))
    train(whole)
    assert_same_run(broken, whole, 10, 1e-6)


def test_two_processes_make_the_steps_of_one_with_twice_the_batches(config, command, train):
    alone = dataclasses.replace(config, accumulate_batches=2)
    pair = dataclasses.replace(config, output_dir=config.output_dir.with_name("pair"))
    assert finish(command(pair, PAIR)).count("parameters are trained") == 1  # the leader alone speaks
    train(alone)
    # AdamW divides gradients by their size, so that the rounding of the very smallest moves a weight visibly.
    assert_same_run(pair, alone, 10, 1e-5, weight_tolerance=2e-4)
    assert (pair.output_dir / "artifact" / "manifest.json").is_file()


@pytest.fixture
def copied(config, tiny_manifest, tmp_path):
    """The configuration for a copy of the corpus, in batches of one or two clips."""
    directory = shutil.copytree(tiny_manifest.parent, tmp_path / "copied")
    return dataclasses.replace(config, train_data=(str(directory / tiny_manifest.name),), batch_s=3.0)


def test_two_processes_stay_in_step_where_one_cannot_read_its_share(copied, command):
    for number in (2, 5, 6, 9):
        (Path(copied.train_data[0]).parent / f"{number}.wav").write_bytes(b"RIFF")
    alone = dataclasses.replace(copied, accumulate_batches=2)
    pair = dataclasses.replace(copied, output_dir=copied.output_dir.with_name("pair"))
    finish(command(pair, PAIR))
    finish(command(alone))
    assert [loss is None for loss in losses(pair)] == [loss is None for loss in losses(alone)]
    assert_same_weights(pair, alone, 10, 2e-4)
    last = json.loads((pair.output_dir / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["skipped_batches"] > 0


def test_two_processes_whose_recordings_vanish_end_together_and_export_nothing(copied, command):
    config = dataclasses.replace(copied, max_steps=100_000)
    child = command(config, PAIR)
    wait_for_steps(config, 3)
    shutil.rmtree(Path(config.train_data[0]).parent)
    assert "train_data: in 10 batches in a row" in finish(child, 1)
    assert not (config.output_dir / "artifact").exists()


@pytest.mark.slow
def test_a_signal_to_any_process_stops_all_of_them_after_the_same_step(config, command):
    config = dataclasses.replace(config, max_steps=100_000, save_every_steps=100_000)
    child = command(config, PAIR)
    wait_for_steps(config, 3)
    os.kill(follower_of(child), signal.SIGTERM)
    printed = finish(child)
    n_steps = len(losses(config))
    assert f"stopped at step {n_steps} of 100000" in printed
    (checkpoint,) = (config.output_dir / "checkpoints").iterdir()
    assert checkpoint.name == f"step-{n_steps:06d}"


@pytest.mark.slow
@pytest.mark.parametrize("local_rank", [0, 1])
def test_a_killed_process_of_two_is_replaced_and_the_run_ends_like_an_unbroken_one(
    config, command, train, local_rank
):
    whole = dataclasses.replace(config, accumulate_batches=2)
    broken = dataclasses.replace(config, output_dir=config.output_dir.with_name("broken"), resume="never")
    child = command(broken, [*PAIR, "--max-restarts", "1"])
    wait_for_steps(broken, 4)
    os.kill(process_of(child, local_rank), signal.SIGKILL)
    finish(child)
    assert steps(broken) == list(range(1, 11))
    train(whole)
    assert_same_run(broken, whole, 10, 1e-5, weight_tolerance=2e-4)
    assert (broken.output_dir / "artifact" / "manifest.json").is_file()


@pytest.mark.slow
def test_when_one_of_two_machines_leaves_the_other_makes_the_same_steps_alone(config, command, train):
    whole = dataclasses.replace(config, accumulate_batches=2)
    broken = dataclasses.replace(config, output_dir=config.output_dir.with_name("broken"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{probe.getsockname()[1]}"
    machine = [*TORCHRUN, "--nnodes", "1:2", "--nproc_per_node", "1", "--max-restarts", "3"]
    machine += ["--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint, "--rdzv-id", "pair"]
    machine += ["--local-addr", "127.0.0.1"]
    stays = command(broken, [*machine, "--rdzv-conf", "is_host=true,last_call_timeout=20"])
    leaves = command(broken, [*machine, "--rdzv-conf", "is_host=false,last_call_timeout=20"])
    wait_for_steps(broken, 4)
    trainer = process_of(leaves, 0)
    assert environment_of(trainer)["WORLD_SIZE"] == "2"
    leaves.kill()
    os.kill(trainer, signal.SIGKILL)
    finish(stays)
    assert steps(broken) == list(range(1, 11))
    train(whole)
    assert_same_run(broken, whole, 10, 1e-5, weight_tolerance=2e-4)


def steps(config):
    lines = (config.output_dir / "metrics.jsonl").read_text().splitlines()
    return [row["step"] for row in map(json.loads, lines) if "loss" in row]


def follower_of(torchrun):
    """Return the process id of the second process that torchrun started."""
    return process_of(torchrun, 1)


def process_of(torchrun, local_rank):
    """Return the id of the process that torchrun started with this number."""
    for task in Path(f"/proc/{torchrun.pid}/task").iterdir():
        for pid in map(int, (task / "children").read_text().split()):
            if environment_of(pid).get("LOCAL_RANK") == str(local_rank):
                return pid
    raise AssertionError(f"torchrun has no process {local_rank}")


def environment_of(pid):
    pairs = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)
