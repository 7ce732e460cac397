"""Names on a command line, and where transcripts go."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve.transcribe.files import FoundFile, Job, find_files, plan_jobs


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    """A folder of recordings, and of things that are none; it is the working directory."""
    for name in ("a.wav", "day/b.MP3", "day/night/c.m4a", "notes.txt", "day/._b.mp3", "x.wav/d.flac"):
        path = tmp_path / "calls" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(files: list[FoundFile]) -> list[str]:
    return [file.path.as_posix() for file in files]


ALL = ["calls/a.wav", "calls/day/b.MP3", "calls/day/night/c.m4a", "calls/x.wav/d.flac"]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("calls", ALL),
        ("calls/**/*", ALL),
        ("calls/*.wav", ["calls/a.wav"]),
        ("calls/*/[bc].*", ["calls/day/b.MP3"]),
        ("calls/notes.txt", ["calls/notes.txt"]),
    ],
)
def test_a_name_stands_for_a_file_a_folder_or_a_pattern(tree, given, found):
    files, problems = find_files([given])
    assert (sorted(names(files)), problems) == (found, [])


def test_a_pattern_may_be_absolute(tree):
    files, _ = find_files([f"{tree}/calls/day/**/*"])
    assert {file.root for file in files} == {tree / "calls" / "day"}
    assert len(files) == 2


def test_a_file_that_is_named_twice_is_found_once(tree):
    files, _ = find_files(["calls/a.wav", "calls", "calls/day/../a.wav"])
    assert sorted(names(files)) == ALL


@pytest.mark.parametrize("name", ["nowhere.wav", "nowhere/*.wav", "calls/day/night/*.wav", "calls/a**", ""])
def test_a_name_that_stands_for_nothing_is_told_and_the_others_are_found(tree, name):
    (tree / "empty").mkdir()
    name = name or "empty"
    files, (problem,) = find_files([name, "calls/a.wav"])
    assert names(files) == ["calls/a.wav"]
    assert problem.name == name and len(problem.sentence) > 10


def test_transcripts_lie_beside_their_recordings_or_in_folders_like_theirs(tree):
    files, _ = find_files(["calls"])
    beside, _ = plan_jobs(files, ".txt", None)
    below, _ = plan_jobs(files, ".srt", Path("out"))
    assert Job(Path("calls/day/b.MP3"), Path("calls/day/b.txt")) in beside
    assert Job(Path("calls/day/night/c.m4a"), Path("out/day/night/c.srt")) in below


def test_recordings_that_differ_in_their_extension_alone_keep_it():
    files = [FoundFile(Path(name), Path()) for name in ("a.wav", "a.mp3", "b.wav")]
    jobs, problems = plan_jobs(files, ".txt", None)
    assert [str(job.target) for job in jobs] == ["a.wav.txt", "a.mp3.txt", "b.txt"]
    assert problems == []


def test_no_transcript_is_written_over_a_recording():
    (job,), _ = plan_jobs([FoundFile(Path("a.txt"), Path())], ".txt", None)
    assert job.target == Path("a.txt.txt")


def test_of_two_recordings_for_one_transcript_the_second_is_a_problem():
    files = [FoundFile(Path("x/a.wav"), Path("x")), FoundFile(Path("y/a.wav"), Path("y"))]
    jobs, (problem,) = plan_jobs(files, ".txt", Path("out"))
    assert [str(job.source) for job in jobs] == ["x/a.wav"]
    assert problem.name == "y/a.wav" and "x/a.wav" in problem.sentence
