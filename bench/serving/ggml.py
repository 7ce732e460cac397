"""Write whisper.cpp's model file, with weights of 8 bits in blocks of 32 (q8_0).

Layout (https://github.com/ggml-org/whisper.cpp/blob/master/models/README.md), little-endian, 32 bits an
integer: magic; eleven dimensions; mel filters (n_mels, n_fft, floats); number of tokens, each as length and
bytes; then each tensor as number of dimensions, length of the name, type, dimensions (fastest first), name
and data.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

MAGIC = 0x67676D6C
F32, F16, Q8_0 = 0, 1, 8  # types of tensors
FILE_Q8_0 = 2 * 1000 + 7  # version 2 of the quantisation, mostly q8_0
BLOCK = 32
_DIMENSIONS = (
    *("vocab", "audio_ctx", "audio_state", "audio_head", "audio_layer"),
    *("text_ctx", "text_state", "text_head", "text_layer"),
)


def write_ggml(checkpoint: dict[str, Any], tokenizer_dir: Path, path: Path) -> None:
    """Write a model file of OpenAI's checkpoint.

    Args:
        checkpoint: `dims` and `model_state_dict`, as `whisper.load_model` reads them.
        tokenizer_dir: Directory of the transformers checkpoint, for tokenizer and mel filters.
        path: Path of the new file.
    """
    dims = checkpoint["dims"]
    with path.open("wb") as file:
        sizes = [dims[f"n_{name}"] for name in _DIMENSIONS]
        file.write(struct.pack("<12i", MAGIC, *sizes, dims["n_mels"], FILE_Q8_0))
        _write_mel_filters(file, tokenizer_dir)
        tokens = _tokens()
        file.write(struct.pack("<i", len(tokens)))
        for token in tokens:
            file.write(struct.pack("<i", len(token)) + token)
        for name, tensor in checkpoint["model_state_dict"].items():
            _write_tensor(file, name, tensor.float().numpy())


def quantize_q8_0(weights: npt.NDArray[np.float32]) -> bytes:
    """Return blocks of 32 weights, each an fp16 scale and 32 signed bytes."""
    blocks = weights.reshape(-1, BLOCK)
    scales = np.abs(blocks).max(axis=1, keepdims=True) / 127
    levels = np.divide(blocks, scales, out=np.zeros_like(blocks), where=scales > 0)
    packed = np.empty(len(blocks), dtype=[("scale", "<f2"), ("levels", "i1", BLOCK)])
    packed["scale"], packed["levels"] = scales[:, 0], np.rint(levels)
    return packed.tobytes()


def _write_mel_filters(file: BinaryIO, tokenizer_dir: Path) -> None:
    from transformers import WhisperFeatureExtractor

    filters = WhisperFeatureExtractor.from_pretrained(tokenizer_dir).mel_filters.T  # (n_mels, n_fft / 2 + 1)
    file.write(struct.pack("<2i", *filters.shape) + np.ascontiguousarray(filters, "<f4").tobytes())


def _tokens() -> list[bytes]:
    """Return the text tokens; whisper.cpp names the special ones itself."""
    from whisper.tokenizer import get_tokenizer

    encoding = get_tokenizer(multilingual=True).encoding
    return [encoding.decode_single_token_bytes(token) for token in range(encoding.eot_token)]


def _write_tensor(file: BinaryIO, name: str, weights: npt.NDArray[np.float32]) -> None:
    if name in ("encoder.conv1.bias", "encoder.conv2.bias"):
        weights = weights[:, np.newaxis]  # added to (n_channels, n_frames)
        kind, data = F32, weights.tobytes()
    elif weights.ndim == 1 or name.endswith("positional_embedding"):
        kind, data = F32, weights.tobytes()
    elif weights.ndim == 2:
        kind, data = Q8_0, quantize_q8_0(weights)
    else:
        kind, data = F16, weights.astype("<f2").tobytes()  # convolutions
    encoded = name.encode()
    file.write(struct.pack("<3i", weights.ndim, len(encoded), kind))
    file.write(struct.pack(f"<{weights.ndim}i", *reversed(weights.shape)) + encoded + data)
