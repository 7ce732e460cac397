"""An engine in a real process: the same hypotheses, also after the process died, hung or swelled."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serve.audio.features import FeatureExtractor
from serve.engine import SERVED_ADAPTER, DecodingOptions, EngineInput
from serve.engine.loading import EngineSpec, load_engine
from serve.engine.scheduling.scheduler import Scheduler
from serve.errors import ArtifactError, EngineError, EngineLost, StartupError
from serve.model.artifact import load_artifact
from serve.service.worker.messages import Start
from serve.service.worker.process import Limits, WorkerProcess
from serve.service.worker.supervised import SupervisedEngine
from tests.waiting import wait_until

MARATHI = DecodingOptions(language="mr", adapter=SERVED_ADAPTER, max_new_tokens=12)
ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def log_mels(tiny_base_dir):
    features = FeatureExtractor(tiny_base_dir)
    rng = np.random.default_rng(0)
    return [features.log_mel(rng.normal(0, 0.1, 16_000).astype(np.float32), 2.0) for _ in range(3)]


@pytest.fixture(scope="module")
def spec(tiny_base_dir, tiny_artifact_dir, tmp_path_factory):
    artifact = load_artifact(tiny_artifact_dir)
    cache_dir = tmp_path_factory.mktemp("cache")
    return EngineSpec(
        base_dir=tiny_base_dir, artifact=artifact, quantization="none", cache_dir=cache_dir, dynamic=True
    )


@pytest.fixture
def supervise(spec):
    """Start an engine in a process: `supervise(**limits)`."""
    engines = []

    def supervise(**limits):
        engines.append(SupervisedEngine(spec, limits=Limits(**limits)))
        return engines[-1]

    yield supervise
    for engine in engines:
        engine.close()


def windows(log_mels, options=MARATHI):
    return [EngineInput(log_mel=log_mel, options=options) for log_mel in log_mels]


def kill(engine, number=signal.SIGKILL):
    """Send a signal to the engine's process, and return its id."""
    wait_until(lambda: engine.pid is not None)
    pid = engine.pid
    with suppress(ProcessLookupError):  # it has just ended by itself
        os.kill(pid, number)
    return pid


def wait_for_another(engine, pid):
    wait_until(lambda: engine.pid not in (None, pid))


@pytest.mark.parametrize("runtime", ["ctranslate2", "transformers"])
def test_a_process_answers_as_the_engine_itself_does(runtime, spec, log_mels):
    spec = replace(spec, engine=runtime)
    own, apart = load_engine(spec), SupervisedEngine(spec)
    try:
        for options in (MARATHI, replace(MARATHI, adapter=None), replace(MARATHI, temperature=0.5, seed=3)):
            assert apart.decode(windows(log_mels[:1], options)) == own.decode(windows(log_mels[:1], options))
        assert apart.decode(windows(log_mels)) == own.decode(windows(log_mels))
        assert apart.languages == own.languages and apart.has_adapter == own.has_adapter
        assert apart.n_workers == own.n_workers and apart.usual_batch == own.usual_batch
        for options in (MARATHI, replace(MARATHI, beam_size=2), replace(MARATHI, suppress=("absent",))):
            assert apart.unsupported(options) == own.unsupported(options)
        assert apart.adapter_bytes(spec.artifact) == own.adapter_bytes(spec.artifact)
        assert apart.base_bytes() == own.base_bytes()
    finally:
        apart.close()
        own.close()


def test_windows_of_one_kind_have_one_key_and_drawn_ones_none(supervise, log_mels):
    engine = supervise()
    first, second, third = windows(log_mels)
    assert engine.kind(first) == engine.kind(second)
    third.options = replace(MARATHI, beam_size=2)
    assert engine.kind(first) != engine.kind(third)
    first.options = second.options = replace(MARATHI, temperature=0.4)
    assert engine.kind(first) != engine.kind(second)


def test_an_encoder_output_is_kept_for_the_next_call_and_then_forgotten(supervise, log_mels):
    engine = supervise()
    (window,) = given = windows(log_mels[:1])
    engine.decode(given)
    kept = window.encoded
    window.options = replace(MARATHI, beam_size=2)
    engine.decode(given)
    assert window.encoded is kept
    process = kept.process
    del given, window, kept
    wait_until(lambda: len(process.forgotten) == 1)
    engine.base_bytes()
    assert not process.forgotten


def test_a_killed_process_is_replaced_with_the_adapters_that_it_held(
    supervise, log_mels, tmp_path, write_tiny_artifact
):
    engine = supervise()
    engine.load_adapter("other", load_artifact(write_tiny_artifact(tmp_path / "other", seed=5)))
    other = replace(MARATHI, adapter="other")
    before = [engine.decode(windows(log_mels, options)) for options in (MARATHI, other)]
    assert before[0] != before[1]
    wait_for_another(engine, kill(engine))
    assert [engine.decode(windows(log_mels, options)) for options in (MARATHI, other)] == before
    assert engine.health().n_restarts == 1 and engine.health().memory_bytes > 0


def test_a_call_in_hand_is_lost_and_the_same_window_is_decoded_by_the_next_process(supervise, log_mels):
    engine = supervise()
    given = windows(log_mels)
    expected = engine.decode(given)
    pid = kill(engine, signal.SIGSTOP)
    lost = []

    def decode():
        try:
            engine.decode(given)
        except EngineLost as error:
            lost.append(str(error))

    thread = threading.Thread(target=decode)
    thread.start()
    time.sleep(0.2)  # the call is on its way
    os.kill(pid, signal.SIGKILL)
    thread.join()
    assert lost == ["the engine ended while it worked on this recording; send it once more"]
    assert engine.pid != pid
    assert engine.decode(given) == expected


def test_a_batch_that_takes_too_long_ends_the_process(supervise, log_mels):
    engine = supervise(call_s=1.0)
    pid = kill(engine, signal.SIGSTOP)
    with pytest.raises(EngineLost):
        engine.decode(windows(log_mels))
    wait_for_another(engine, pid)
    assert engine.decode(windows(log_mels))


def test_a_request_outlives_the_process_and_one_that_kills_it_fails_alone(supervise, log_mels, monkeypatch):
    engine = supervise()
    with Scheduler(engine, frees_engine=False) as scheduler, scheduler.admit() as ticket:
        expected = [each.text for each in ticket.decode(windows(log_mels))]
    deadly = replace(MARATHI, max_new_tokens=11)  # by this mark alone the test knows the window
    decode = engine.decode

    def dies_of(given):
        if any(window.options.max_new_tokens == 11 for window in given):
            kill(engine)
        return decode(given)

    monkeypatch.setattr(engine, "decode", dies_of)
    with Scheduler(engine, frees_engine=False) as scheduler:
        with scheduler.admit() as good, scheduler.admit() as bad:
            waiting = bad.decode(windows(log_mels[:1], deadly))
            thread_texts = []
            thread = threading.Thread(
                target=lambda: thread_texts.extend(each.text for each in good.decode(windows(log_mels)))
            )
            thread.start()
            with pytest.raises(EngineLost, match="send it once more"):
                next(waiting)
            thread.join()
        assert thread_texts == expected
        with scheduler.admit() as next_one:
            assert [each.text for each in next_one.decode(windows(log_mels))] == expected
        assert engine.health().n_restarts == 2


def test_an_adapter_that_ends_the_process_is_lost_and_the_others_come_back(
    supervise, log_mels, tmp_path, write_tiny_artifact
):
    engine = supervise()
    before = engine.decode(windows(log_mels))
    engine.load_adapter("other", load_artifact(write_tiny_artifact(tmp_path / "other", seed=5)))
    kept = engine.decode(windows(log_mels, replace(MARATHI, adapter="other")))
    pid = kill(engine, signal.SIGSTOP)
    failed = []

    def load():
        try:
            engine.load_adapter("deadly", load_artifact(tmp_path / "other"))
        except EngineLost as error:
            failed.append(error)

    thread = threading.Thread(target=load)
    thread.start()
    time.sleep(0.2)  # the call is on its way
    os.kill(pid, signal.SIGKILL)
    thread.join()
    assert len(failed) == 1
    wait_for_another(engine, pid)
    assert engine.decode(windows(log_mels)) == before
    assert engine.decode(windows(log_mels, replace(MARATHI, adapter="other"))) == kept
    assert [key for key in ("other", "deadly") if engine.has_lost(key)] == ["deadly"]
    with pytest.raises(EngineError):
        engine.decode(windows(log_mels, replace(MARATHI, adapter="deadly")))


def test_options_are_judged_without_the_process_once_they_were(supervise):
    engine = supervise()
    pid = kill(engine, signal.SIGSTOP)
    assert engine.unsupported(replace(MARATHI, prompt="words that nobody has sent before", seed=7)) is None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not engine.is_ready or engine.pid != pid)
    assert engine.unsupported(MARATHI) is None


def test_a_process_over_its_memory_is_ended_and_a_start_says_so(spec):
    process = WorkerProcess(Start(runtime=spec.engine, n_threads=1), Limits(memory_bytes=1 << 20))
    assert process.is_over.wait(60)
    with pytest.raises(StartupError, match="memory over its limit"):
        SupervisedEngine(spec, process=process)


def test_a_model_that_cannot_be_loaded_is_named(spec, tmp_path):
    without_weights = tmp_path / "base"
    shutil.copytree(spec.base_dir, without_weights, ignore=shutil.ignore_patterns("*.safetensors"))
    spec = replace(spec, base_dir=without_weights, cache_dir=tmp_path)
    with pytest.raises(StartupError) as own:
        load_engine(spec)
    with pytest.raises(StartupError) as apart:
        SupervisedEngine(spec)
    assert str(apart.value) == str(own.value)


def test_an_adapter_that_does_not_fit_leaves_the_process_as_it_was(
    supervise, spec, log_mels, tmp_path, write_tiny_artifact
):
    engine = supervise()
    before = engine.decode(windows(log_mels))
    broken = load_artifact(write_tiny_artifact(tmp_path / "broken", seed=6))
    (broken.adapter_dir / "adapter_model.safetensors").write_bytes(b"no tensors")
    with pytest.raises((StartupError, ArtifactError)):
        engine.load_adapter("broken", broken)
    assert engine.decode(windows(log_mels)) == before
    wait_for_another(engine, kill(engine))
    assert engine.decode(windows(log_mels)) == before


def test_the_process_ends_with_the_one_that_started_it(spec, tmp_path):
    program = (
        "import pickle, sys, time\n"
        "from serve.service.worker.supervised import SupervisedEngine\n"
        "engine = SupervisedEngine(pickle.load(sys.stdin.buffer))\n"
        "print(engine.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as parent:
        parent.stdin.write(pickle.dumps(spec))
        parent.stdin.close()
        pid = int(parent.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        parent.kill()
    wait_until(lambda: not is_running(pid))


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_closing_ends_the_process_and_replaces_it_no_more(spec):
    engine = SupervisedEngine(spec)
    pid = engine.pid
    engine.close()
    wait_until(lambda: not is_running(pid))
    with pytest.raises(EngineLost):
        engine.bytes_to_load(MARATHI)
