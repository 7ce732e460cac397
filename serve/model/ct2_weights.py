"""Convert a CTranslate2 Whisper-base file to a transformers checkpoint. Knows no network and no cache.

The file is little-endian: u32 version, string name, u32 revision, u32 count, then for each tensor: string
name, u8 rank, u32 dimensions, u8 dtype, u32 bytes, data. A string is u16 length, bytes, NUL.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

Float16 = npt.NDArray[np.float16]

_FORMAT_VERSION = 6
_DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
_N_TIMESTAMPS = 1501  # <|0.00|> ... <|30.00|> in steps of 0.02 s

_CONTROL_TOKENS = {
    "bos_token_id": 50257,
    "eos_token_id": 50257,
    "pad_token_id": 50257,
    "decoder_start_token_id": 50258,
}

_CONFIG = {
    "model_type": "whisper",
    "architectures": ["WhisperForConditionalGeneration"],
    "vocab_size": 51865,
    "num_mel_bins": 80,
    "d_model": 512,
    "encoder_layers": 6,
    "encoder_attention_heads": 8,
    "encoder_ffn_dim": 2048,
    "decoder_layers": 6,
    "decoder_attention_heads": 8,
    "decoder_ffn_dim": 2048,
    "max_source_positions": 1500,
    "max_target_positions": 448,
    "activation_function": "gelu",
    **_CONTROL_TOKENS,
    "dtype": "float16",
}

_PREPROCESSOR_CONFIG = {
    "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": 80,
    "sampling_rate": 16_000,
    "hop_length": 160,
    "n_fft": 400,
    "chunk_length": 30,
    "padding_value": 0.0,
    "return_attention_mask": False,
}
_TOKENIZER_CONFIG = {
    **dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "<|endoftext|>"),
    "tokenizer_class": "WhisperTokenizer",
    "model_max_length": 448,
}


class WeightsFormatError(ValueError):
    """The file does not have the CTranslate2 layout that this module reads."""


def read_tensors(data: bytes) -> dict[str, npt.NDArray[np.generic]]:
    """Return every tensor of a CTranslate2 model file by name.

    Raises:
        WeightsFormatError: The file ends early, or has another layout.
    """
    if (version := int.from_bytes(data[:4], "little")) != _FORMAT_VERSION:
        raise WeightsFormatError(f"version {version}, expected {_FORMAT_VERSION}")
    try:
        _, offset = _read_string(data, 4)
        _, count = struct.unpack_from("<II", data, offset)
        offset += 8
        tensors: dict[str, npt.NDArray[np.generic]] = {}
        for _ in range(count):
            name, offset = _read_string(data, offset)
            rank = data[offset]
            shape = struct.unpack_from(f"<{rank}I", data, offset + 1)
            dtype, size_bytes = struct.unpack_from("<BI", data, offset + 1 + 4 * rank)
            offset += 6 + 4 * rank
            values = np.frombuffer(data[offset : offset + size_bytes], dtype=_DTYPES[dtype])
            tensors[name] = values.reshape(shape)
            offset += size_bytes
    except (struct.error, IndexError, KeyError, ValueError) as error:
        raise WeightsFormatError("the file ends early or is damaged") from error
    return tensors


def build_checkpoint(weights: bytes, tokenizer_json: bytes, into: Path) -> None:
    """Write `into` as a transformers checkpoint of openai/whisper-base (fp16 safetensors).

    Raises:
        WeightsFormatError: The weights lack a tensor of that model.
    """
    tensors = read_tensors(weights)
    into.mkdir(parents=True)
    try:
        state = _to_transformers(tensors)
    except KeyError as error:
        raise WeightsFormatError(f"tensor {error} is missing") from error
    save_file(state, into / "model.safetensors", metadata={"format": "pt"})
    tokenizer = json.loads(tokenizer_json)
    special = tokenizer["added_tokens"]
    special += [_added_token(50364 + step, f"<|{step * 0.02:.2f}|>") for step in range(_N_TIMESTAMPS)]
    languages = {t["content"]: t["id"] for t in special if 50259 <= t["id"] <= 50357}
    files = {
        "config.json": _CONFIG,
        "generation_config.json": _generation_config(languages),
        "preprocessor_config.json": _PREPROCESSOR_CONFIG,
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": _TOKENIZER_CONFIG,
    }
    for name, content in files.items():
        (into / name).write_text(json.dumps(content, ensure_ascii=False))


def _read_string(data: bytes, offset: int) -> tuple[str, int]:
    """Return the string at `offset` and the offset after it."""
    n_bytes = struct.unpack_from("<H", data, offset)[0]
    return data[offset + 2 : offset + 1 + n_bytes].decode(), offset + 2 + n_bytes


def _added_token(token_id: int, content: str) -> dict[str, object]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    return {"id": token_id, "content": content, **plain}


def _to_transformers(tensors: dict[str, npt.NDArray[np.generic]]) -> dict[str, Float16]:
    """Map CTranslate2's names and stacked projections to those of `WhisperForConditionalGeneration`."""
    state: dict[str, Float16] = {}

    def put(name: str, value: npt.NDArray[np.generic]) -> None:
        state[name] = np.ascontiguousarray(value, dtype=np.float16)

    def linear(source: str, target: str) -> None:
        put(f"{target}.weight", tensors[f"{source}/weight"])
        put(f"{target}.bias", tensors[f"{source}/bias"])

    def norm(source: str, target: str) -> None:
        put(f"{target}.weight", tensors[f"{source}/gamma"])
        put(f"{target}.bias", tensors[f"{source}/beta"])

    def stacked(source: str, target: str, names: str) -> None:
        """Split rows stacked in the order of `names` ("qkv" or "kv"); k has no bias."""
        weights = np.split(tensors[f"{source}/weight"], len(names))
        biases = np.split(tensors[f"{source}/bias"], len(names))
        for name, weight, bias in zip(names, weights, biases, strict=True):
            put(f"{target}.{name}_proj.weight", weight)
            if name != "k":
                put(f"{target}.{name}_proj.bias", bias)

    for side in ("encoder", "decoder"):
        put(f"model.{side}.embed_positions.weight", tensors[f"{side}/position_encodings/encodings"])
        norm(f"{side}/layer_norm", f"model.{side}.layer_norm")
        for layer in range(int(_CONFIG[f"{side}_layers"])):  # type: ignore[call-overload]
            source, target = f"{side}/layer_{layer}", f"model.{side}.layers.{layer}"
            stacked(f"{source}/self_attention/linear_0", f"{target}.self_attn", "qkv")
            linear(f"{source}/self_attention/linear_1", f"{target}.self_attn.out_proj")
            norm(f"{source}/self_attention/layer_norm", f"{target}.self_attn_layer_norm")
            linear(f"{source}/ffn/linear_0", f"{target}.fc1")
            linear(f"{source}/ffn/linear_1", f"{target}.fc2")
            norm(f"{source}/ffn/layer_norm", f"{target}.final_layer_norm")
            if side == "decoder":
                linear(f"{source}/attention/linear_0", f"{target}.encoder_attn.q_proj")
                stacked(f"{source}/attention/linear_1", f"{target}.encoder_attn", "kv")
                linear(f"{source}/attention/linear_2", f"{target}.encoder_attn.out_proj")
                norm(f"{source}/attention/layer_norm", f"{target}.encoder_attn_layer_norm")
    linear("encoder/conv1", "model.encoder.conv1")
    linear("encoder/conv2", "model.encoder.conv2")
    put("model.decoder.embed_tokens.weight", tensors["decoder/embeddings/weight"])
    return state


_SUPPRESS_TOKENS = (
    "1 2 7 8 9 10 14 25 26 27 28 29 31 58 59 60 61 62 63 90 91 92 93 359 503 522 542 873 893 902 918 922"
    " 931 1350 1853 1982 2460 2627 3246 3253 3268 3536 3846 3961 4183 4667 6585 6647 7273 9061 9383 10428"
    " 10929 11938 12033 12331 12562 13793 14157 14635 15265 15618 16553 16604 18362 18956 20075 21675"
    " 22520 26130 26161 26435 28279 29464 31650 32302 32470 36865 42863 47425 49870 50254 50258 50358"
    " 50359 50360 50361 50362"
)
"""Symbols and control tokens that never belong to a transcript (the model's published list)."""


def _generation_config(languages: dict[str, int]) -> dict[str, object]:
    return {
        **_CONTROL_TOKENS,
        "is_multilingual": True,
        "lang_to_id": languages,
        "task_to_id": {"translate": 50358, "transcribe": 50359},
        "no_timestamps_token_id": 50363,
        "prev_sot_token_id": 50361,
        "max_initial_timestamp_index": 50,
        "max_length": 448,
        "suppress_tokens": [int(token) for token in _SUPPRESS_TOKENS.split()],
        "begin_suppress_tokens": [220, 50257],
        "alignment_heads": [[3, 1], [4, 2], [4, 3], [4, 7], [5, 1], [5, 2], [5, 4], [5, 6]],
    }
