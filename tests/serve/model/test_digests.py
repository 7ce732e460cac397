"""Files are compared with their record, and files that nobody wrote to are not read again."""

import json
import os

import pytest

from serve.model import digests
from serve.model.digests import described, is_as_recorded


@pytest.fixture
def record(tmp_path):
    (tmp_path / "weights").write_bytes(b"weights of a model")
    (tmp_path / "vocabulary").write_bytes(b"words")
    content = described(tmp_path)
    path = tmp_path / "complete.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def read(monkeypatch):
    """Names of the files that are read, as by a process that has checked none."""
    names = []
    hash_of = digests._hash

    def noted(file):
        names.append(file.name)
        digests._checked.clear()
        return hash_of(file)

    monkeypatch.setattr(digests, "_hash", noted)
    return names


def test_unwritten_files_are_read_once_and_others_each_time(record, read):
    assert is_as_recorded(record) and len(read) == 2
    assert is_as_recorded(record) and len(read) == 4
    assert is_as_recorded(record, trust_unwritten=True) and len(read) == 6
    assert is_as_recorded(record, trust_unwritten=True) and len(read) == 6
    assert is_as_recorded(record) and len(read) == 8


@pytest.mark.parametrize("trust_unwritten", [False, True])
def test_a_file_that_was_written_to_is_found_even_if_its_size_and_time_are_those_of_before(
    record, trust_unwritten
):
    assert is_as_recorded(record, trust_unwritten=trust_unwritten)
    weights = record.with_name("weights")
    state = weights.stat()
    weights.write_bytes(b"weights of a devil")
    while weights.stat().st_ctime_ns == state.st_ctime_ns:  # clocks of file systems tick slowly
        os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert not is_as_recorded(record, trust_unwritten=trust_unwritten)
    assert not is_as_recorded(record, trust_unwritten=trust_unwritten)
