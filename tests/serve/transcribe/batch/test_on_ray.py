"""Ray's workers on real clips: the same results as one process has, whatever is killed."""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

WORKER = "ray::MapWorker"
BETWEEN_KILLS_SHARDS = 3


def family(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def workers(pid: int) -> list[psutil.Process]:
    found = []
    for process in family(pid):
        with suppress(psutil.NoSuchProcess):
            if process.cmdline() and process.cmdline()[0].startswith(WORKER):
                found.append(process)
    return found


def wait_for_shards(output: Path, count: int, child) -> None:
    """Wait until so many shards are stored; the run may end before."""
    while child.poll() is None and len(list((output / "results").glob("*.jsonl"))) < count:
        time.sleep(0.05)


def test_two_workers_write_what_one_process_writes_and_listen_on_loopback_only(batch, corpus, tmp_path):
    child = batch.start("--input", corpus, "--output", tmp_path / "ray", "--workers", 2, "--shard-s", 10)
    addresses = set()
    said = ""
    while not said:
        for process in family(child.pid):
            with suppress(psutil.NoSuchProcess):
                for each in process.net_connections("inet"):
                    if each.status == psutil.CONN_LISTEN:
                        addresses.add(each.laddr.ip)
        with suppress(subprocess.TimeoutExpired):
            said = child.communicate(timeout=1)[1]
    assert child.returncode == 0 and "Traceback" not in said, said
    assert addresses and addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    batch.run(corpus, tmp_path / "local", "--local", "--shard-s", 10)
    assert len(list((tmp_path / "ray" / "results").iterdir())) > 2
    for shard in (tmp_path / "local").rglob("*.jsonl"):
        assert (tmp_path / "ray" / shard.relative_to(tmp_path / "local")).read_bytes() == shard.read_bytes()


def test_recordings_that_workers_die_of_are_quarantined_and_the_rest_completes(
    deadly, batch, corpus, tmp_path
):
    for name in ("clip-0002.flac", "more/clip-0010.flac"):
        (corpus / name).rename(corpus / f"deadly-{name[-6]}.flac")
    said = deadly.run(corpus, tmp_path / "out", "--workers", 2, "--shard-s", 10)
    assert "11 files have results, 4 are in quarantine, 0 have neither" in said
    found = deadly.quarantined(tmp_path / "out")
    assert {name: error for name, error in found.items() if name.startswith("deadly")} == {
        "deadly-0.flac": "worker_died",
        "deadly-2.flac": "worker_died",
    }
    deadly.assert_each_once(tmp_path / "out", sorted(corpus.rglob("c*.flac")))
    batch.run(corpus, tmp_path / "local", "--local")
    texts = batch.texts(tmp_path / "local")
    assert deadly.texts(tmp_path / "out").items() <= texts.items() and len(texts) == 13


@pytest.mark.slow
def test_killed_drivers_and_workers_leave_each_file_with_one_result(batch, tmp_path):
    clips = batch.write_clips(tmp_path / "corpus", 2_000)
    output = tmp_path / "out"
    arguments = ("--input", tmp_path / "corpus", "--output", output, "--workers", 2)
    n_driver_kills = n_worker_kills = 0
    while n_driver_kills < 3:
        child = batch.start(*arguments)
        n_done = len(list((output / "results").glob("*.jsonl")))
        wait_for_shards(output, n_done + BETWEEN_KILLS_SHARDS, child)
        for worker in workers(child.pid)[:1]:
            worker.kill()
            n_worker_kills += 1
        wait_for_shards(output, n_done + 3 * BETWEEN_KILLS_SHARDS, child)
        assert child.poll() is None  # it had work left
        child.kill()  # its workers may write for a while, beside those of the next run
        child.communicate()
        n_driver_kills += 1
    assert n_worker_kills == 3
    assert len(batch.rows(output)) < len(clips)
    said = batch.run(tmp_path / "corpus", output, *arguments[4:])
    assert f"{len(clips)} files have results, 0 are in quarantine, 0 have neither" in said
    batch.assert_each_once(output, clips)
    some = tmp_path / "some.jsonl"
    some.write_text("".join(json.dumps({"audio": str(clip)}) + "\n" for clip in clips[::10]))
    batch.run(some, tmp_path / "some", "--local")
    assert batch.texts(tmp_path / "some").items() <= batch.texts(output).items()


@pytest.mark.slow
def test_one_file_in_fifty_is_broken_and_the_others_are_complete(batch, tmp_path):
    clips = batch.write_clips(tmp_path / "corpus", 300)
    broken = clips[::50]
    for number, clip in enumerate(broken):
        clip.write_bytes(b"" if number % 2 else clip.read_bytes()[: clip.stat().st_size // 2])
    said = batch.run(tmp_path / "corpus", tmp_path / "out", "--workers", 2)
    assert "294 files have results, 6 are in quarantine, 0 have neither" in said
    expected = {clip.name: "empty_audio" if n % 2 else "undecodable_audio" for n, clip in enumerate(broken)}
    assert batch.quarantined(tmp_path / "out") == expected
    batch.assert_each_once(tmp_path / "out", [clip for clip in clips if clip not in broken])


@pytest.mark.slow
def test_ray_reads_and_writes_s3(batch, corpus, tmp_path, s3):
    s3.put(str(corpus), "bucket/calls", recursive=True)
    source, output = "s3://bucket/calls", "s3://bucket/out"
    batch.run(source, output, "--workers", 2, "--shard-s", 10)
    batch.run(corpus, tmp_path / "out", "--local")
    s3.get(f"{output}/", str(tmp_path / "s3"), recursive=True)
    here = {Path(path).name: text for path, text in batch.texts(tmp_path / "out").items()}
    there = {Path(path).name: text for path, text in batch.texts(tmp_path / "s3").items()}
    assert there == here and len(batch.rows(tmp_path / "s3")) == 13
    assert batch.quarantined(tmp_path / "s3") == batch.quarantined(tmp_path / "out")


def test_s3_is_read_and_written_and_a_stopped_run_goes_on_there(batch, corpus, tmp_path, s3):
    s3.put(str(corpus / "more"), "bucket/more", recursive=True)
    batch.run("s3://bucket/more", "s3://bucket/results", "--local", "--shard-s", 10)
    shards = s3.ls("bucket/results/results")
    assert len(shards) == 2
    s3.rm_file(shards[0])
    said = batch.run("s3://bucket/more", "s3://bucket/results", "--local")
    assert "files are done already" in said and "4 files have results" in said
    s3.get("s3://bucket/results/", str(tmp_path / "s3"), recursive=True)
    batch.assert_each_once(tmp_path / "s3", [f"s3://{path}" for path in s3.find("bucket/more")])


def test_a_bucket_that_is_not_there_is_named(batch, s3):
    refused = batch.refusal("s3://nowhere/calls", "s3://bucket/out", "--local")
    assert "error: s3://nowhere/calls" in refused
