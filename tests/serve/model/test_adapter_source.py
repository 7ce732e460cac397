"""What may be loaded as an adapter, and what is refused before anything is touched."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from serve.errors import BadAdapter, UnknownPath
from serve.model.adapter_source import find_source, read_adapter
from serve.model.base_model import base_fingerprint


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def source(root, tiny_artifact_dir):
    return shutil.copytree(tiny_artifact_dir, root / "tiny")


@pytest.fixture(scope="module")
def read(tiny_base_dir):
    fingerprint = base_fingerprint(tiny_base_dir)
    return lambda path, root: read_adapter(path, [root], tiny_base_dir, fingerprint)


def test_an_artifact_below_a_root_is_read(source, root, read):
    path = find_source(f"file://{source}", [root])
    assert path == source.resolve()
    assert read(path, root).manifest.name == "tiny-mr"


@pytest.mark.parametrize("name", ["", " ", "missing", "../outside", "tiny/manifest.json", "link", "a\0b"])
def test_what_lies_elsewhere_is_refused_as_what_does_not_exist(source, root, name):
    outside = shutil.copytree(source, root.parent / "outside")
    (root / "link").symlink_to(outside)
    with pytest.raises(UnknownPath) as refused:
        find_source(f"{root}/{name}" if name.strip() else name, [root])
    with pytest.raises(UnknownPath) as missing:
        find_source(f"{root}/missing", [root])
    assert str(refused.value) == str(missing.value)


def test_a_link_within_the_roots_is_followed(source, root):
    (root / "link").symlink_to(source)
    assert find_source(f"{root}/link", [root]) == source.resolve()


@pytest.mark.parametrize(
    "name",
    [
        "manifest.json",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "merged-ct2-int8/model.bin",
    ],
)
def test_a_file_that_leads_out_of_the_roots_is_refused(source, root, read, name):
    (source / name).parent.mkdir(exist_ok=True)
    (source / name).touch()
    (source / name).rename(root.parent / "elsewhere")
    (source / name).symlink_to(root.parent / "elsewhere")
    with pytest.raises(BadAdapter, match="leads out"):
        read(source, root)


def test_a_linked_directory_is_looked_at_as_well(source, root, read):
    (source / "adapter").rename(root / "shared")
    (source / "adapter").symlink_to(root / "shared")
    (root / "shared" / "again").symlink_to(source)
    assert read(source, root).manifest.name == "tiny-mr"
    (root.parent / "elsewhere").write_bytes(b"")
    (root / "shared" / "model.bin").symlink_to(root.parent / "elsewhere")
    with pytest.raises(BadAdapter, match=r"model\.bin: leads out"):
        read(source, root)


def break_config(source, **changes):
    path = source / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def break_weights(source, change):
    path = source / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    path.unlink()
    save_file(change(tensors), path)


def renamed(tensors):
    return {name.replace("q_proj", "x_proj"): tensor for name, tensor in tensors.items()}


def widened(tensors):
    return {name: np.concatenate([tensor, tensor], axis=-1) for name, tensor in tensors.items()}


def of_another_base(source):
    path = source / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["base_model"]["fingerprint"] = "0" * 64
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda source: (source / "manifest.json").unlink(), "manifest.json"),
        (lambda source: (source / "manifest.json").write_text("{"), "manifest.json"),
        (of_another_base, "another base model"),
        (lambda source: (source / "adapter" / "adapter_model.safetensors").unlink(), "missing"),
        (lambda source: (source / "adapter" / "adapter_model.safetensors").write_bytes(b"\x80\x04"), "whole"),
        (lambda source: (source / "adapter" / "adapter_config.json").write_text("[]"), "JSON object"),
        (
            lambda source: (source / "adapter" / "adapter_config.json").write_bytes(b'{"r\xff": 1}'),
            "JSON object",
        ),
        (
            lambda source: (source / "adapter" / "adapter_config.json").write_text('{"r": ' + "[" * 20_000),
            "JSON object",
        ),
        (lambda source: (source / "manifest.json").write_bytes(b'{"name": "\xff"}'), "not JSON"),
        (lambda source: break_config(source, peft_type="PROMPT_TUNING"), "peft_type"),
        (lambda source: break_config(source, megatron_config={}, megatron_core="os"), "megatron"),
        (lambda source: break_weights(source, renamed), "no layer"),
        (lambda source: break_weights(source, widened), "does not fit"),
        (
            lambda source: break_weights(source, lambda _: {"x": np.zeros(1, np.float32)}),
            "no layer",
        ),
    ],
)
def test_a_bad_file_is_named_without_its_directory(source, root, read, damage, reason):
    damage(source)
    with pytest.raises(BadAdapter, match=reason) as refused:
        read(source, root)
    assert str(root) not in str(refused.value)
