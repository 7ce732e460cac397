"""Adapters whose tensors are not what configuration and base model say: understood, or refused by name."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from serve.errors import ArtifactError
from serve.model.adapter_tensors import PEFT_PREFIX, check_adapter, stored_names
from serve.service.loading import find_served

FIRST = "model.decoder.layers.0.encoder_attn.q_proj.lora_A.weight"

KNOWN_PREFIXES = {
    "torch.compile of all": lambda name: f"_orig_mod.{name}",
    "torch.compile of the base": lambda name: name.replace(PEFT_PREFIX, f"{PEFT_PREFIX}_orig_mod.", 1),
    "torch.compile of layers": lambda name: name.replace(".0.", ".0._orig_mod."),
    "DDP": lambda name: f"module.{name}",
    "DDP of the base": lambda name: name.replace(PEFT_PREFIX, f"{PEFT_PREFIX}module.", 1),
    "DDP of a compiled model": lambda name: f"module._orig_mod.{name}",
    "a compiled DDP model": lambda name: f"_orig_mod.module.{name}",
    "peft's twice": lambda name: PEFT_PREFIX + name,
    "peft's three times": lambda name: 2 * PEFT_PREFIX + name,
    "none": lambda name: name.removeprefix(PEFT_PREFIX),
}


@pytest.fixture
def artifact(tiny_artifact_dir, tmp_path):
    return shutil.copytree(tiny_artifact_dir, tmp_path / "artifact")


def change_weights(artifact, change):
    path = artifact / "adapter" / "adapter_model.safetensors"
    tensors = change(load_file(path))
    path.unlink()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def change_config(artifact, **values):
    path = artifact / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def renamed(rename):
    return lambda tensors: {rename(name): tensor for name, tensor in tensors.items()}


def without(part):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if part not in name}


def with_value(value, dtype):
    def change(tensors):
        tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
        tensors[PEFT_PREFIX + FIRST][0, 3] = value
        return tensors

    return change


@pytest.mark.parametrize("rename", KNOWN_PREFIXES.values(), ids=KNOWN_PREFIXES)
def test_names_with_a_known_prefix_are_the_names_without(artifact, tiny_base_dir, rename):
    weights = artifact / "adapter" / "adapter_model.safetensors"
    before = stored_names(weights)
    change_weights(artifact, renamed(rename))
    check_adapter(artifact / "adapter", tiny_base_dir)
    assert stored_names(weights) == {name: rename(name) for name in before}


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (renamed(lambda name: f"student.{name}"), r"'student\.base_model.*belongs to no layer"),
        (renamed(lambda name: name.replace("model.model.model", "model.model.model.model")), "no layer"),
        (renamed(lambda name: name.replace(".weight", ".default.weight")), "lora_A.default.weight'"),
        (renamed(lambda name: name.replace("layers.1", "layers.7")), r"layers\.7.*belongs to no layer"),
        (without("lora_B"), r"lacks 'model.*lora_B\.weight', and in all 16 of the 32"),
        (without("decoder"), r"lacks 'model\.decoder.*, and in all 20 of the 32"),
        (without("layers.1."), r"lacks 'model.*layers\.1\..*, and in all 16 of the 32"),
        (without("_proj"), r"lacks '.*, and in all 24 of the 32"),
        (lambda tensors: {**tensors, "x": torch.zeros(1)}, "'x' belongs to no layer"),
        (
            lambda tensors: {**tensors, PEFT_PREFIX + "model.encoder.conv1.weight": torch.ones(64, 80, 3)},
            "conv1",
        ),
        (
            lambda tensors: {name: t[:2] if "lora_A" in name else t[:, :2] for name, t in tensors.items()},
            "shape",
        ),
        (lambda tensors: {name: t.T for name, t in tensors.items()}, r"shape \(64, 4\).*should be \(4, 64\)"),
        (lambda tensors: {name: t[None] for name, t in tensors.items()}, r"shape \(1, 4, 64\)"),
        (lambda tensors: {name: t.to(torch.int8) for name, t in tensors.items()}, "is kept as I8"),
        *(
            (with_value(value, dtype), rf"'base_model\.model\.{FIRST}' holds values that are not finite")
            for value in (np.nan, np.inf, -np.inf)
            for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64)
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_the_first_of_them(artifact, tiny_base_dir, change, refusal):
    change_weights(artifact, change)
    with pytest.raises(ArtifactError, match=refusal):
        check_adapter(artifact / "adapter", tiny_base_dir)
    with pytest.raises(ArtifactError, match=refusal):  # and so at the start of a service
        find_served(artifact, None)


def test_two_tensors_that_wrappers_make_one_are_refused(artifact, tiny_base_dir):
    change_weights(artifact, lambda tensors: tensors | {f"module.{n}": t.clone() for n, t in tensors.items()})
    with pytest.raises(ArtifactError, match="are the same tensor"):
        check_adapter(artifact / "adapter", tiny_base_dir)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_kind_of_number_is_read(artifact, tiny_base_dir, dtype):
    change_weights(artifact, with_value(1.0, dtype))
    check_adapter(artifact / "adapter", tiny_base_dir)


@pytest.mark.parametrize(
    ("values", "refusal"),
    [
        (
            {"target_modules": ["q_proj", "fc1"]},
            r"v_proj.*of a layer that adapter_config\.json does not name",
        ),
        (
            {"target_modules": ["q_proj", "v_proj", "fc1", "fc2"]},
            r"lacks '.*fc2.lora_A.weight', and in all 8",
        ),
        ({"target_modules": r".*encoder.*\.(q_proj|v_proj|fc1)"}, r"decoder.*does not name"),
        ({"target_modules": ["no_proj"]}, "names no layer"),
        ({"target_modules": []}, "names no layer"),
        (
            {"target_modules": ["q_proj", "v_proj", "fc1", "proj_out"]},
            "'proj_out', which is not a linear layer",
        ),
        ({"target_modules": ["q_proj", "v_proj", "fc1", "layer_norm"]}, "layer_norm', which is not a linear"),
        ({"exclude_modules": ["fc1"]}, r"fc1.*does not name"),
        ({"layers_to_transform": [0]}, r"layers\.1.*does not name"),
        ({"layers_to_transform": 1}, r"layers\.0.*does not name"),
        ({"layers_pattern": "layers", "layers_to_transform": [0]}, r"layers\.1.*does not name"),
        ({"r": 8}, r"shape \(4, 64\).*should be \(8, 64\)"),
        ({"rank_pattern": {"fc1": 2}}, r"fc1.*should be \(2, 64\)"),
        ({"r": 1_025}, "r is not a whole number from 1 to 1024"),
        ({"rank_pattern": {"fc1": 10**9}}, "rank_pattern is not an object of whole numbers"),
        ({"target_modules": r"(\w|\w\w|\.|\.\w)+[^\w.]"}, "takes too long"),
        ({"r": 0}, "r is not"),
        ({"r": "4"}, "r is not"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"use_dora": True}, "lacks '.*lora_magnitude_vector"),
        ({"lora_bias": True}, r"lacks '.*lora_B\.bias"),
        ({"bias": "all"}, "bias"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"init_lora_weights": "olora"}, "init_lora_weights"),
        ({"modules_to_save": ["proj_out"]}, r"lacks 'proj_out\.weight', and in all 1"),
        ({"modules_to_save": ["classifier"]}, "no layer 'classifier'"),
        ({"modules_to_save": ["encoder"]}, "'model.encoder', which holds layers of its own"),
        ({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, "ensure_weight_tying"),
        ({"peft_type": "ADALORA"}, "peft_type is ADALORA"),
        ({"peft_type": None}, "peft_type"),
        ({"layer_replication": [[0, 2]]}, "layer_replication is set"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices is set"),
        ({"target_parameters": ["q_proj.weight"]}, "target_parameters is set"),
        ({"megatron_config": {"a": 1}}, "megatron_config is set"),
        ({"of_a_later_peft": True}, "of_a_later_peft is set"),
        ({"target_modules": "("}, "neither a pattern"),
    ],
)
def test_a_configuration_that_its_weights_do_not_follow_is_refused(artifact, tiny_base_dir, values, refusal):
    change_config(artifact, **values)
    with pytest.raises(ArtifactError, match=refusal):
        check_adapter(artifact / "adapter", tiny_base_dir)


@pytest.mark.filterwarnings("ignore:Adapter 'default'")  # peft takes biases for tensors that are cut up
@pytest.mark.parametrize(
    "lora",
    [
        {"target_modules": "all-linear"},
        {"target_modules": r".*decoder.*\.(q_proj|fc2)", "lora_bias": True},
        {"target_modules": ["q_proj", "conv1"]},
        {"target_modules": ["model.encoder.layers.0.fc1"], "use_rslora": True},
        {"layers_to_transform": [1], "use_dora": True},
        {"rank_pattern": {"fc1": 2, "layers.0.self_attn.q_proj": 3}, "alpha_pattern": {"fc1": 3}},
        {"exclude_modules": ["fc1"], "modules_to_save": ["layer_norm", "conv1"]},
        {"modules_to_save": ["proj_out"], "init_lora_weights": "gaussian"},
        {"modules_to_save": ["embed_tokens"], "task_type": "SEQ_2_SEQ_LM"},
    ],
)
def test_whatever_peft_writes_is_what_its_configuration_names(
    write_tiny_artifact, tiny_base_dir, tmp_path, lora
):
    check_adapter(write_tiny_artifact(tmp_path / "other", lora=lora) / "adapter", tiny_base_dir)
