"""The configuration file, its overrides, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from train.config import AugmentConfig, TrainConfig, describe_keys, dump_config, load_config
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


def faults_of(path, overrides=()):
    with pytest.raises(TrainConfigError) as caught:
        load_config(path, overrides)
    return "\n".join(caught.value.faults)


def test_values_come_from_the_file_and_defaults_fill_the_rest(config_file):
    config = load_config(config_file(lora_rank=8, augment={"noise": 0.5}, lora_targets=["fc1"]))
    assert (config.lora_rank, config.augment.noise, config.lora_targets) == (8, 0.5, ("fc1",))
    assert config.output_dir == Path("runs/tiny")
    assert config.quantization == "int8" and config.augment.echo == 0.0


def test_options_win_over_the_file_in_both_ways_of_writing(config_file):
    overrides = ["--lora-rank", "4", "--max_steps=7", "--augment.noise", "0.25", "--output-dir=/tmp/run"]
    config = load_config(config_file(lora_rank=8), overrides)
    assert (config.lora_rank, config.max_steps, config.augment.noise) == (4, 7, 0.25)
    assert config.output_dir == Path("/tmp/run")


@pytest.mark.parametrize("text", ["1e-3", "1.0e-3", "0.001"])
def test_a_number_may_be_written_with_an_exponent(config_file, text):
    assert load_config(config_file(), ["--learning-rate", text]).learning_rate == 0.001


def test_lists_may_be_written_with_commas_or_brackets(config_file):
    for text in ("q_proj,v_proj", "[q_proj, v_proj]"):
        assert load_config(config_file(), ["--lora-targets", text]).lora_targets == ("q_proj", "v_proj")
    assert load_config(config_file(), ["--window-margin-s", "0.2,0.4"]).window_margin_s == (0.2, 0.4)


def test_none_leaves_out_what_may_be_left_out(config_file):
    assert load_config(config_file(publish_to="x"), ["--publish-to", "null"]).publish_to is None


def test_false_means_false(config_file):
    assert load_config(config_file(), ["--evaluate-base", "false"]).evaluate_base is False
    assert "evaluate_base" in faults_of(config_file(), ["--evaluate-base", "0.5"])


def test_all_faults_are_reported_together(config_file):
    text = faults_of(
        config_file(lora_rank="many", speed=3, learning_rate=7, augment={"noise": 2, "hiss": 1}),
        ["--quantization", "int3", "stray", "--seed"],
    )
    for fault in (
        "'lora_rank' is 'many'; expected int",
        "unknown key 'speed'",
        "learning_rate is 7",
        "augment.noise is 2",
        "unknown key 'augment.hiss'",
        "'quantization' is 'int3'; expected one of int8, int4, none",
        "'stray' is not an option",
        "--seed lacks its value",
    ):
        assert fault in text


def test_missing_keys_are_named(tmp_path):
    path = tmp_path / "empty.yaml"
    path.write_text("lora_rank: 0\n")
    text = faults_of(path)
    for fault in (
        "'name' is missing",
        "'output_dir' is missing",
        "'train_data' is missing",
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


def test_adalora_does_not_go_on_from_an_adapter(config_file):
    text = faults_of(config_file(lora_method="adalora", continue_from="artifact"))
    assert "adalora cannot continue_from" in text


def test_blocks_take_what_is_said_for_the_whole_model_unless_they_say_otherwise(config_file):
    overrides = ["--encoder.rank", "8", "--encoder.layers", "4,5", "--decoder.layers", "3"]
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
        ({"decoder": {"layers": []}}, "decoder.layers lists numbers"),
        ({"decoder": {"layers": [-1]}}, "decoder.layers lists numbers"),
        ({"decoder": {"targets": ["proj_out"]}}, "decoder.targets names proj_out"),
        ({"lora_method": "adalora", "encoder": {"rank": 4}}, "adalora begins with one rank"),
        ({"continue_blocks": ["decoder"]}, "continue_blocks names one block at least"),
        ({"continue_blocks": ["head"]}, "'continue_blocks' is ['head']"),
        ({"distill_data": ["a.jsonl"]}, "distill_data and distill_weight need each other"),
        ({"distill_weight": 1.0}, "distill_data and distill_weight need each other"),
        (
            {"distill_data": ["a.jsonl"], "distill_weight": 1.0, "encoder": {"rank": 0}},
            "distill_data holds the encoder near its base, but encoder.rank is 0",
        ),
        ({"train_data": ["a/x.jsonl?weight=2", "b/x.jsonl"]}, "tell them apart with ?label=NAME"),
        ({"augment": {"speed_range": [1.2, 0.8]}}, "augment.speed_range is a range"),
        ({"valid_data": ["a.jsonl?weight=2"]}, "has a weight, which only sources of train_data"),
    ],
)
def test_blocks_and_sources_that_contradict_themselves_are_refused(config_file, values, said):
    assert said in faults_of(config_file(**values))


def test_a_section_cannot_hang_under_a_plain_value(config_file):
    assert "'name' is no section" in faults_of(config_file(), ["--name.first", "x"])


def test_text_that_is_no_yaml_is_text(config_file):
    assert load_config(config_file(), ["--name", "a: b: c"]).name == "a: b: c"


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
    keys = {option: (default, explanation) for option, default, explanation in describe_keys()}
    assert all(len(explanation) > 10 for _, explanation in keys.values())
    assert keys["--lora_targets"][0] == "q_proj,v_proj" and keys["--name"][0] == "required"
    assert keys["--quantization"][1].endswith("(int8 | int4 | none)")
    assert "--augment.noise" in keys and "--augment" not in keys
