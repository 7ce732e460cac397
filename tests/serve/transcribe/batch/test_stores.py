"""Which store a name means."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve.transcribe.batch.stores import LocalStore, UrlStore, store_of


@pytest.mark.parametrize(
    ("where", "directory"),
    [
        ("{here}/out", "{here}/out"),
        ("out", "{here}/out"),
        ("file://{here}/out/", "{here}/out"),
        ("local://{here}/out", "{here}/out"),
        ("file://{here}/100%25 मराठी", "{here}/100%25 मराठी"),  # fsspec has no escapes in names of files
        ("file://out/texts", "{here}/out/texts"),
        ("file://./out", "{here}/out"),
        ("file://~/out", "{here}/home/out"),
    ],
)
def test_a_folder_of_this_machine_is_local_however_it_is_named(tmp_path, monkeypatch, where, directory):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    store = store_of(where.format(here=tmp_path))
    assert isinstance(store, LocalStore)
    assert store.directory == Path(directory.format(here=tmp_path))
    store.write("results/a.jsonl", b"{}")
    assert store.names("results") == ["a.jsonl"] and store.read("results/a.jsonl") == b"{}"


def test_other_storages_are_used_by_url():
    store = store_of("memory://texts/")
    assert isinstance(store, UrlStore) and store.url == "memory://texts"
    store.write("results/a.jsonl", b"{}")
    assert store.names("results") == ["a.jsonl"] and store.read("results/a.jsonl") == b"{}"
