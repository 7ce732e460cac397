"""`shrota capacity` as a program: its table, JSON, pictures and faults; the plan and the fit behind it."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from serve.config.command_line import run_command
from serve.errors import ConfigError
from serve.remote.capacity.command import command
from serve.remote.capacity.fitting import (
    Alone,
    Arrivals,
    Clients,
    clients_s,
    fit_concurrency,
    fit_prices,
    mean_latency_s,
)
from serve.remote.capacity.options import CapacityOptions
from serve.remote.capacity.plan import CELL, Planner
from serve.remote.capacity.service_time import ServiceTime, Shape, read_measurement
from serve.remote.capacity.traffic import DAY_S, DailyCurve, Durations, Recording

ROOT = Path(__file__).parents[4]
FEW = {"LOADS": (0.3, 0.8), "LEAST_REQUESTS": 200}


@pytest.fixture(autouse=True)
def short_samples(monkeypatch):
    """Simulate little: these tests ask for the rules, not for percentiles."""
    for name, value in FEW.items():
        monkeypatch.setattr(f"serve.remote.capacity.plan.{name}", value)


def options(**changed):
    return CapacityOptions(**{"sample_s": 30.0, "mean_s": 8.0, **changed})


def test_the_table_has_a_line_for_each_volume(capsys):
    words = ["--hours", "1,1e6", "--price", "0.5", "--sample-s", "30", "--mean-s", "8"]
    assert run_command(command, words) == 0
    shown = capsys.readouterr().out
    assert "refused" in shown
    assert "…" not in shown
    (first,) = [line.split() for line in shown.splitlines() if line.split()[:1] == ["1"]]
    assert first[2:4] == ["1", "1.0"]
    assert first[-2:] == ["12.00", "12.0000"]  # one instance for a day, and for an hour


def test_json_and_pictures_hold_the_plan(capsys, tmp_path):
    words = ["--hours", "1,500", "--price", "0.5", "--sample-s", "30", "--mean-s", "8", "--json"]
    assert run_command(command, [*words, "--picture", str(tmp_path / "pictures")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["hours"] for each in found["plans"]] == [1, 500]
    assert found["plans"][0]["peak_instances"] == 1
    assert found["plans"][0]["cost_per_hour"] == pytest.approx(24 * 0.5)
    assert [each["load"] for each in found["loads"]] == list(FEW["LOADS"])
    names = ["capacity-latency.png", "capacity-volumes.png"]
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == names


def test_all_faults_are_named_at_once(capsys):
    assert run_command(command, ["--hours", "0", "--peak-factor", "0.5", "--cores", "none?"]) == 1
    told = capsys.readouterr().err
    assert "--cores: 'none?' is not a number" in told
    assert "--hours must be above 0" in told
    assert "--peak-factor must be at least 1" in told


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"duration_s": 2}\n{"text": "x"}', "line 2: there is no duration_s above 0"),
        ('{"duration_s": NaN}', "line 1: there is no duration_s above 0"),
        ("[]", "line 1: there is no duration_s above 0"),
        ("\n", "names no recording"),
    ],
)
def test_a_bad_manifest_is_named_with_its_line(tmp_path, capsys, text, fault):
    path = tmp_path / "calls.jsonl"
    path.write_text(text)
    assert run_command(command, ["--manifest", str(path)]) == 1
    assert fault in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "is no measurement"),
        ('{"service_time": 1, "shape": {}}', "is no measurement"),
        ('{"service_time": {"shared": 2}, "shape": {}}', "shared is above 1"),
        ('{"service_time": {}, "shape": {"n_workers": "x"}}', "n_workers in"),
    ],
)
def test_a_bad_measurement_is_named(tmp_path, capsys, text, fault):
    path = tmp_path / "measured.json"
    path.write_text(text)
    assert run_command(command, ["--measured", str(path)]) == 1
    assert fault in capsys.readouterr().err


def test_a_measurement_is_read_back(tmp_path):
    time, shape = ServiceTime(batch_s=0.5), Shape(cores=1.5)
    path = tmp_path / "measured.json"
    path.write_text(json.dumps({"service_time": vars(time), "shape": vars(shape), "machine": {}}))
    assert read_measurement(path) == (time, shape)


def test_pictures_that_cannot_be_written_are_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    words = ["--hours", "1", "--sample-s", "30", "--picture", str(tmp_path / "file" / "below")]
    assert run_command(command, words) == 1
    assert "--picture" in capsys.readouterr().err


@pytest.mark.parametrize("factor", [1.0, 1.5, 3.0, 8.0])
def test_the_daily_curve_keeps_the_days_mean_and_has_the_peak_that_was_asked_for(factor):
    curve = DailyCurve(factor)
    day = [curve.factor(DAY_S * n / 10_000) for n in range(10_000)]
    assert np.mean(day) == pytest.approx(1.0, rel=1e-4)
    assert max(day) == pytest.approx(factor, rel=1e-4)


def test_lognormal_lengths_have_the_mean_that_was_asked_for():
    draw = Durations(np.random.default_rng(0), None, 30.0, 1.0)
    assert np.mean([draw().audio_s for _ in range(50_000)]) == pytest.approx(30.0, rel=0.03)


def test_ten_times_the_hours_need_about_ten_times_the_instances_and_the_same_seed_gives_the_same():
    planner = Planner(options())
    rate_per_s = 20 * CELL * planner.sustained_per_s
    instances = [planner.settled_instances(rate_per_s * times) for times in (1, 10)]
    assert instances[0] >= 20 * CELL
    assert instances[1] == pytest.approx(10 * instances[0], rel=0.01)
    assert Planner(options()).plan(300) == Planner(options()).plan(300)


def test_the_most_and_fewest_instances_are_kept():
    assert Planner(options(max_instances=2)).plan(1e5).peak_instances == 2
    assert Planner(options(min_instances=3)).plan(1).peak_instances == 3


def test_an_endpoint_that_may_not_grow_refuses():
    assert Planner(options(max_instances=1)).plan(5_000).peak.refused > 0.5


def test_a_fit_finds_the_prices_that_made_the_times():
    truth = ServiceTime(
        request_s=0.02,
        prepare_s_per_audio_s=0.01,
        batch_s=0.03,
        s_per_window_s=0.02,
        s_per_token=0.004,
        speech_share=1.0,
    )
    alone = []
    for audio_s, n_tokens in ((2.2, 18), (3.7, 40), (5.1, 38), (6.6, 71), (7.9, 60), (9.2, 95)):
        window_s = truth.window_s(audio_s)
        busy_s = truth.batch_work_s([window_s], [n_tokens])
        latency_s = busy_s + truth.request_s + truth.prepare_s_per_audio_s * audio_s
        alone.append(
            Alone(
                audio_s=audio_s,
                latency_s=latency_s,
                busy_s=busy_s,
                window_s=window_s,
                n_tokens=n_tokens,
                n_batches=1,
            )
        )
    found = fit_prices(alone, dynamic=True, margin_s=0.9)
    for name in ("request_s", "prepare_s_per_audio_s", "batch_s", "s_per_window_s", "s_per_token"):
        assert getattr(found, name) == pytest.approx(getattr(truth, name), rel=1e-3), name
    assert found.speech_share == 1.0


def test_a_fit_finds_the_throughput_of_clients_that_it_was_fitted_to():
    rng = np.random.default_rng(0)
    clips = [Recording(float(rng.choice([3.0, 5.0])), int(rng.integers(20, 60))) for _ in range(24)]
    truth = dataclasses.replace(ServiceTime(), shared=0.8), Shape(n_workers=2, cores=1.4)
    measured = [
        Clients(n_clients=n, clips=clips, measured_s=clients_s(*truth, clips, n))
        for n in (2, 8)
        for _ in "ab"
    ]
    came = [(0.2 * n, clip) for n, clip in enumerate(clips)]
    arrivals = [Arrivals(rate_per_s=5.0, arrivals=came, measured_s=mean_latency_s(*truth, came))]
    fitted = fit_concurrency(ServiceTime(), Shape(n_workers=2, cores=2.0), measured, arrivals)
    assert fitted[1].cores == pytest.approx(1.4, abs=0.1)
    for each in measured:
        assert clients_s(*fitted, clips, each.n_clients) == pytest.approx(each.measured_s, rel=0.03)
    assert mean_latency_s(*fitted, came) == pytest.approx(arrivals[0].measured_s, rel=0.03)


def test_what_arrivals_take_decides_where_clients_do_not():
    """Two clients never share a batch, so that only arrivals in bursts show what a batch saves."""
    clips = [Recording(3.0, 40) for _ in range(24)]
    truth = dataclasses.replace(ServiceTime(), shared=0.8), Shape(n_workers=2, cores=1.4)
    clients = [Clients(n_clients=2, clips=clips, measured_s=clients_s(*truth, clips, 2))]
    bursts = [(n // 6 * 1.5, clip) for n, clip in enumerate(clips)]
    arrivals = [Arrivals(rate_per_s=4.0, arrivals=bursts, measured_s=mean_latency_s(*truth, bursts))]
    fitted = fit_concurrency(ServiceTime(), Shape(n_workers=2, cores=2.0), clients, arrivals)
    assert fitted[0].shared == pytest.approx(0.8, abs=0.1)


def test_a_long_recording_is_cut_into_windows_and_a_model_of_fixed_windows_pads_each():
    without_pauses = ServiceTime(speech_share=1.0)
    assert len(without_pauses.speech_pieces_s(9.0)) == 1
    assert without_pauses.speech_pieces_s(80.0) == [8.0] * 10
    assert ServiceTime(dynamic=False).window_s(3.0) == 30.0
    assert math.isclose(sum(ServiceTime(speech_share=0.5).speech_pieces_s(100.0)), 50.0)


def test_settings_refuse_a_measurement_that_is_missing(tmp_path):
    with pytest.raises(ConfigError, match="is no measurement"):
        options(measured=tmp_path / "none.json").instance()


def test_the_usual_instance_is_the_measured_one():
    measured = read_measurement(ROOT / "bench" / "capacity.json")
    for usual, found in zip((ServiceTime(), Shape()), measured, strict=True):
        assert dataclasses.asdict(usual) == pytest.approx(dataclasses.asdict(found), rel=0.005)
