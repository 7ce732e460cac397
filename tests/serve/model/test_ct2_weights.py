"""The layout of CTranslate2 files: read as written, refused when cut or changed."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from serve.model.ct2_weights import WeightsFormatError, build_checkpoint, read_tensors

TENSORS = {
    "encoder/conv1/weight": np.arange(12, dtype=np.float16).reshape(2, 3, 2),
    "encoder/conv1/bias": np.array([0.5, -1.5], np.float32),
    "scale": np.array(7, np.int32),
    "quantised": np.array([-128, 127], np.int8),
}
CODES = {"float32": 0, "int8": 1, "int32": 3, "float16": 4}


def string(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def written(tensors: dict[str, np.ndarray], version: int = 6) -> bytes:
    data = struct.pack("<I", version) + string("WhisperSpec") + struct.pack("<II", 3, len(tensors))
    for name, value in tensors.items():
        data += string(name) + struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        data += struct.pack("<BI", CODES[value.dtype.name], value.nbytes) + value.tobytes()
    return data


def test_tensors_are_read_with_their_names_shapes_and_types():
    read = read_tensors(written(TENSORS))
    assert list(read) == list(TENSORS)
    for name, value in TENSORS.items():
        assert read[name].dtype == value.dtype
        np.testing.assert_array_equal(read[name], value)


def test_a_file_cut_anywhere_is_refused():
    data = written(TENSORS)
    for length in range(len(data)):
        with pytest.raises(WeightsFormatError):
            read_tensors(data[:length])


def test_another_version_is_refused_by_number():
    with pytest.raises(WeightsFormatError, match="version 7, expected 6"):
        read_tensors(written(TENSORS, version=7))


def test_a_model_that_lacks_a_layer_is_refused_by_name(tmp_path):
    with pytest.raises(WeightsFormatError, match="encoder/position_encodings/encodings"):
        build_checkpoint(written(TENSORS), b"{}", tmp_path / "checkpoint")
