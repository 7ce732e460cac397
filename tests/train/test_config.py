"""The configuration file, its overrides, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from serve.config.reader import Secret, keys_of, shown_default
from serve.config.sources import flag_layer
from train.config import AugmentConfig, TrainConfig, dump_config, environment_config, load_config
from train.errors import TrainConfigError

CONFIGS = sorted((Path(__file__).parents[2] / "train" / "configs").glob("*.yaml"))
REQUIRED = {"name": "tiny", "output_dir": "runs/tiny", "train_data": ["train.jsonl"]}


@pytest.fixture
def config_file(tmp_path):
    def write(**values):
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({**REQUIRED, **values}))
        return path

    return write


def flags(**values):
    return flag_layer({name.replace("__", "."): text for name, text in values.items()})


def faults_of(path, **overrides):
    with pytest.raises(TrainConfigError) as caught:
        load_config(path, flags(**overrides))
    return "\n".join(caught.value.faults)


def test_values_come_from_the_file_and_defaults_fill_the_rest(config_file):
    config = load_config(config_file(lora_rank=8, augment={"noise": 0.5}, lora_targets=["fc1"]))
    assert (config.lora_rank, config.augment.noise, config.lora_targets) == (8, 0.5, ("fc1",))
    assert config.output_dir == Path("runs/tiny")
    assert config.quantization == "int8" and config.augment.echo == 0.0


def test_variables_win_over_the_file_and_flags_over_both(config_file):
    path, layer = environment_config(
        {
            "SHROTA_TRAIN_CONFIG": str(config_file(lora_rank=8, seed=1)),
            "SHROTA_TRAIN_LORA_RANK": "4",
            "SHROTA_TRAIN_AUGMENT_NOISE": "0.1",
            "SHROTA_TRAIN_LORA_TARGETS": "q_proj,fc1",
            "SHROTA_TRAIN_PORT": "tcp://10.3.2.1:80",
        }
    )
    config = load_config(Path(path), layer, flags(augment__noise="0.25", output_dir="/tmp/run"))
    assert (config.seed, config.lora_rank, config.augment.noise) == (1, 4, 0.25)
    assert config.lora_targets == ("q_proj", "fc1") and config.output_dir == Path("/tmp/run")


@pytest.mark.parametrize("text", ["1e-3", "1.0e-3", "0.001"])
def test_a_number_may_be_written_with_an_exponent(config_file, text):
    assert load_config(config_file(), flags(learning_rate=text)).learning_rate == 0.001
    assert load_config(config_file(learning_rate=text)).learning_rate == 0.001


def test_lists_may_be_written_with_commas_or_brackets(config_file):
    for text in ("q_proj,v_proj", "[q_proj, v_proj]", '["q_proj", "v_proj"]'):
        assert load_config(config_file(), flags(lora_targets=text)).lora_targets == ("q_proj", "v_proj")
    assert load_config(config_file(), flags(window_margin_s="0.2,0.4")).window_margin_s == (0.2, 0.4)
    assert "3 values are given where 2" in faults_of(config_file(), window_margin_s="1,2,3")


def test_none_leaves_out_what_may_be_left_out(config_file):
    assert load_config(config_file(publish_to="x"), flags(publish_to="null")).publish_to is None


def test_false_means_false(config_file):
    assert load_config(config_file(), flags(evaluate_base="false")).evaluate_base is False
    assert "evaluate-base: '0.5' is neither" in faults_of(config_file(), evaluate_base="0.5")


def test_all_faults_are_reported_together(config_file):
    path = config_file(lora_rank="many", speed=3, learning_rate=7, augment={"noise": 2, "hiss": 1})
    text = faults_of(path, quantization="int3")
    for fault in (
        f"lora_rank in {path}: 'many' is not a whole number",
        f"speed in {path} is unknown",
        "learning_rate is 7",
        "augment.noise is 2",
        f"augment.hiss in {path} is unknown",
        "--quantization: 'int3' is not one of int8, int4, none",
    ):
        assert fault in text


def test_missing_keys_are_named(tmp_path):
    path = tmp_path / "empty.yaml"
    path.write_text("lora_rank: 0\n")
    text = faults_of(path)
    for fault in (
        "name is missing",
        "output_dir is missing",
        "train_data is missing",
        "lora_rank is 0",
    ):
        assert fault in text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("save_every_steps", 0),
        ("log_every_steps", 0),
        ("keep_checkpoints", 0),
        ("accumulate_batches", 0),
        ("seed", -1),
        ("max_steps", -5),
        ("batch_s", 0.5),
        ("max_window_s", 31),
        ("window_margin_s", [1.5, 0.3]),
        ("lora_targets", []),
        ("profile", "english"),
        ("language", "tlh"),
        ("language", ""),
        ("warmup_fraction", 1),
        ("learning_rate", float("nan")),
        ("lora_rank", float("inf")),
        ("lora_rank", 1.5),
        ("lora_rank", True),
        ("test_data", ["a/test.jsonl", "b/test.jsonl"]),
        ("test_data", ["cassette:tape"]),
        ("train_data", []),
        ("train_data", ["fleurs?splitt=train"]),
        ("held_out", "voices"),
        ("precision", "bfloat16"),  # beside the default int8
        ("lora_targets", ["all-linear", "fc1"]),
        ("export_best", True),
        ("early_stopping_evals", 3),
        ("best_by", "wer"),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_name(config_file, key, value):
    assert key in faults_of(config_file(**{key: value}))


def test_a_language_is_named_by_its_code_which_is_told(config_file):
    assert "language is 'Marathi', not a code of Whisper, such as mr" in faults_of(
        config_file(), language="Marathi"
    )
    assert load_config(config_file(language="hi")).language == "hi"


def test_adalora_does_not_go_on_from_an_adapter(config_file):
    text = faults_of(config_file(lora_method="adalora", continue_from="artifact"))
    assert "adalora cannot continue_from" in text


def test_blocks_take_what_is_said_for_the_whole_model_unless_they_say_otherwise(config_file):
    overrides = flags(encoder__rank="8", encoder__layers="4,5", decoder__layers="3")
    config = load_config(config_file(learning_rate=1e-3, encoder={"learning_rate": 1e-4}), overrides)
    encoder, decoder = config.blocks
    assert (encoder.rank, encoder.alpha, encoder.learning_rate, encoder.layers) == (8, 16, 1e-4, (4, 5))
    assert (decoder.rank, decoder.alpha, decoder.learning_rate, decoder.layers) == (32, 64, 1e-3, (3,))
    assert encoder.targets == decoder.targets == config.lora_targets


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"encoder": {"rank": 0}, "decoder": {"rank": 0}}, "nothing would be trained"),
        ({"encoder": {"rank": 0, "layers": [1]}}, "encoder.layers has no meaning"),
        ({"encoder": {"rank": -1}}, "encoder.rank is -1"),
        ({"encoder": {"alpha": 0}}, "encoder.alpha is 0"),
        ({"decoder": {"learning_rate": 2}}, "decoder.learning_rate is 2"),
        ({"decoder": {"layers": []}}, "decoder.layers must list layer numbers"),
        ({"decoder": {"layers": [-1]}}, "decoder.layers must list layer numbers"),
        ({"decoder": {"targets": ["proj_out"]}}, "decoder.targets names proj_out"),
        ({"lora_method": "adalora", "encoder": {"rank": 4}}, "adalora begins with one rank"),
        ({"continue_blocks": ["decoder"]}, "continue_blocks names one block at least"),
        ({"average_with_start": 0.5}, "average_with_start is below 1, and stands only beside continue_from"),
        ({"continue_blocks": ["head"]}, "'head' is not one of encoder, decoder"),
        ({"distill_data": ["a.jsonl"]}, "distill_data and distill_weight need each other"),
        ({"distill_weight": 1.0}, "distill_data and distill_weight need each other"),
        (
            {"distill_data": ["a.jsonl"], "distill_weight": 1.0, "encoder": {"rank": 0}},
            "distill_data has no effect: encoder.rank 0",
        ),
        ({"train_data": ["a/x.jsonl?weight=2", "b/x.jsonl"]}, "tell them apart with ?label=NAME"),
        ({"augment": {"speed_range": [1.2, 0.8]}}, "augment.speed_range is a range"),
        ({"valid_data": ["a.jsonl?weight=2"]}, "has a weight, which only sources of train_data"),
    ],
)
def test_blocks_and_sources_that_contradict_themselves_are_refused(config_file, values, said):
    assert said in faults_of(config_file(**values))


def test_a_section_cannot_hang_under_a_plain_value(config_file):
    assert "--name.first is unknown" in faults_of(config_file(), name__first="x")
    assert "name.first in" in faults_of(config_file(name={"first": "x"}))
    assert "augment in" in faults_of(config_file(augment=5))
    assert load_config(config_file(augment=None)).augment == AugmentConfig()


def test_a_flag_is_text_whatever_yaml_would_make_of_it(config_file):
    for text in ("a: b: c", "7", "no"):
        assert load_config(config_file(), flags(name=text)).name == text


def test_a_secret_is_neither_dumped_nor_shown(config_file):
    config = load_config(config_file(), flags(mlflow_uri="https://me:hush@host"))
    assert config.mlflow_uri == Secret("https://me:hush@host")
    assert "hush" not in dump_config(config) and "hush" not in repr(config)


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path):
    assert "cannot be read" in faults_of(tmp_path / "absent.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1,")
    assert "is not YAML" in faults_of(tmp_path / "broken.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    assert "does not hold keys and values" in faults_of(tmp_path / "list.yaml")


def test_what_is_dumped_loads_as_the_same_configuration(tmp_path, config_file):
    config = load_config(
        config_file(
            test_data=["a.jsonl"],
            publish_to="out",
            augment={"speed": 0.5},
            encoder={"rank": 4, "layers": [2]},
            name="श्रोता",
        )
    )
    (tmp_path / "dumped.yaml").write_text(dump_config(config), encoding="utf-8")
    assert load_config(tmp_path / "dumped.yaml") == config


def test_a_configuration_cannot_be_changed():
    config = TrainConfig(name="x", output_dir=Path("x"), train_data=("x.jsonl",))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.augment.noise = 1.0


def test_augmentation_is_off_unless_asked_for():
    assert len(AugmentConfig().probabilities) == 13 and set(AugmentConfig().probabilities.values()) == {0.0}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_configuration_is_valid_and_named_like_its_file(path):
    assert load_config(path).name == path.stem


def test_every_key_is_explained_with_its_default_and_choices():
    keys = keys_of(TrainConfig)
    assert all(len(key.about) > 10 for key in keys.values())
    assert shown_default(keys["lora_targets"]) == "q_proj,v_proj"
    assert shown_default(keys["name"]) == "required"
    assert keys["quantization"].choices == ("int8", "int4", "none")
    assert "augment.noise" in keys and "augment" not in keys


def test_a_rank_beyond_any_layer_is_refused(config_file):
    faults = faults_of(config_file(lora_rank=100_000, encoder={"rank": 10**12}))
    assert "lora_rank is more than 65536" in faults and "encoder.rank is more than 65536" in faults
