"""Settings from a file, the environment and flags."""

from dataclasses import fields
from pathlib import Path

import pytest

from serve.config.reader import Given
from serve.config.settings import Settings, unknown_settings
from serve.errors import ConfigError


def test_an_empty_environment_gives_the_defaults_of_a_sagemaker_container():
    settings = Settings.from_env({})
    assert (settings.model_dir, settings.host, settings.port) == (Path("/opt/ml/model"), "0.0.0.0", 8080)
    assert settings.quantization == "int8"
    assert settings == Settings()


def test_flags_win_over_our_variables_and_those_over_the_platforms():
    environ = {"SAGEMAKER_BIND_TO_PORT": "1", "SHROTA_PORT": "2"}
    assert Settings.from_env({"SAGEMAKER_BIND_TO_PORT": "1"}).port == 1
    assert Settings.from_env(environ).port == 2
    assert Settings.from_env(environ, {"port": "3"}).port == 3


@pytest.mark.parametrize("text", ["true", "TRUE", "True"])
def test_a_batch_transform_says_so_in_any_case(text):
    assert Settings.from_env({"SAGEMAKER_BATCH": text}).batch
    assert not Settings.from_env({"SAGEMAKER_BATCH": "false"}).batch


def test_what_a_batch_transform_will_send_is_let_in():
    sends = {"SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": "64", "SAGEMAKER_MAX_PAYLOAD_IN_MB": "200"}
    settings = Settings.from_env(sends)
    assert (settings.max_requests, settings.max_body_bytes) == (64, 200 << 20)
    sends = {"SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": "1", "SAGEMAKER_MAX_PAYLOAD_IN_MB": "6"}
    assert Settings.from_env(sends) == Settings(user_code=True)  # which lets more in
    assert Settings.from_env({"SAGEMAKER_MAX_PAYLOAD_IN_MB": "0"}).max_body_bytes == 1 << 30  # no limit
    with pytest.raises(ConfigError, match="SAGEMAKER_MAX_PAYLOAD_IN_MB: 'many' is not a whole number"):
        Settings.from_env({"SAGEMAKER_MAX_PAYLOAD_IN_MB": "many"})


def test_the_platforms_root_may_lie_elsewhere():
    assert Settings.from_env({"SAGEMAKER_BASE_DIR": "/elsewhere"}).model_dir == Path("/elsewhere/model")


def test_code_of_an_artifact_runs_on_sagemaker_only_unless_it_is_told_to():
    assert Settings().runs_user_code, "the model lies where SageMaker puts it"
    assert Settings.from_env({"SAGEMAKER_BASE_DIR": "/elsewhere"}).runs_user_code
    assert not Settings(model_dir=Path("/home/me/model")).runs_user_code
    assert Settings(model_dir=Path("/home/me/model"), user_code=True).runs_user_code
    assert not Settings(user_code=False).runs_user_code


def test_a_quarter_of_the_places_is_for_short_requests_except_in_a_batch():
    assert [Settings(max_requests=n).n_short_places for n in (1, 4, 16)] == [0, 1, 4]
    assert Settings(batch=True).n_short_places == 0
    assert Settings(short_places=99).n_short_places == 15


@pytest.mark.parametrize("spec", fields(Settings), ids=lambda spec: spec.name)
def test_every_field_is_a_variable_and_a_flag(spec):
    value = {
        "model_dir": "/m",
        "base_model": "openai/whisper-tiny",
        "cache_dir": "/c",
        "language": "mr",
        "encoder_context": "dynamic",
        "docs_path": "/d",
        "engine": "transformers",
        "quantization": "int4",
        "host": "127.0.0.1",
        "default_accept": "text/plain",
        "log_level": "error",
    }.get(spec.name, "true" if spec.type in ("bool", "bool | None") else "7")
    from_variable = Settings.from_env({f"SHROTA_{spec.name.upper()}": value})
    from_flag = Settings.from_env({}, {spec.name: value})
    assert from_variable == from_flag
    assert str(getattr(from_flag, spec.name)).lower() in (value, f"{value}.0")


def test_all_faults_are_reported_together(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("max_sessions: several\nspeed: 3\nengine: ctranslate2\nquantization: int4\n")
    environ = {"SHROTA_PORT": "http", "SHROTA_OFFLINE": "perhaps", "SHROTA_CONFIG": str(file)}
    with pytest.raises(ConfigError) as refused:
        Settings.from_env(environ, {"drain_s": "29", "max_audio_s": "inf", "n_threads": "0"})
    faults = "\n".join(refused.value.faults)
    for name in (
        *("SHROTA_PORT: 'http'", "SHROTA_OFFLINE: 'perhaps'", "--max-audio-s: 'inf'"),
        *("drain_s", "n_threads", "int4"),
        *(f"max_sessions in {file}: 'several'", f"speed in {file} is unknown"),
    ):
        assert name in faults
    assert len(refused.value.faults) == 8


def test_a_file_gives_way_to_variables_and_those_to_flags(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text('port = 1\nhost = "::1"\noffline = true\nmax_batch_s = 8\n')
    named = {"config": str(file)}
    settings = Settings.from_env({"SAGEMAKER_BIND_TO_PORT": "4"}, named)
    assert (settings.port, settings.host, settings.offline, settings.max_batch_s) == (1, "::1", True, 8.0)
    assert Settings.from_env({"SHROTA_PORT": "2"}, named).port == 2
    assert Settings.from_env({"SHROTA_PORT": "2"}, {**named, "port": "3"}).port == 3
    assert Settings.from_env({"SHROTA_CONFIG": str(file)}).port == 1


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("absent.yaml", None, "absent.yaml cannot be read: No such file"),
        ("broken.yaml", "a: [1,", "broken.yaml is not YAML"),
        ("deep.yaml", "[" * 20_000, "deep.yaml is not YAML"),
        ("broken.toml", "port: 1", "broken.toml is not TOML"),
        ("list.yaml", "- 1", "list.yaml does not hold keys and values"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence(tmp_path, name, text, said):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=said):
        Settings.from_env({"SHROTA_CONFIG": str(tmp_path / name)})


def test_a_fallback_holds_where_no_model_is_named():
    fallback = {"model_dir": Given("/shipped", "the shipped artifact")}
    assert Settings.from_env({}, fallback=fallback).model_dir == Path("/shipped")
    assert Settings.from_env({}, {"model_dir": "/m"}, fallback).model_dir == Path("/m")
    assert Settings.from_env({"SHROTA_BASE_MODEL": "b"}, fallback=fallback).model_dir == Settings().model_dir


KUBERNETES = {
    "SHROTA_SERVICE_HOST": "10.3.2.1",
    "SHROTA_SERVICE_PORT": "8080",
    "SHROTA_SERVICE_PORT_HTTP": "8080",
    "SHROTA_PORT": "tcp://10.3.2.1:8080",
    "SHROTA_PORT_8080_TCP": "tcp://10.3.2.1:8080",
    "SHROTA_PORT_8080_TCP_ADDR": "10.3.2.1",
    "SHROTA_PORT_8080_TCP_PORT": "8080",
    "SHROTA_PORT_8080_TCP_PROTO": "tcp",
    "SHROTA_MARATHI_SERVICE_HOST": "10.3.2.2",
    "SHROTA_MARATHI_PORT": "udp://10.3.2.2:53",
}


def test_what_kubernetes_sets_for_a_service_of_our_name_is_passed_over():
    assert Settings.from_env(KUBERNETES) == Settings()
    assert unknown_settings(KUBERNETES) == []


def test_an_unknown_variable_is_mentioned_with_the_nearest_and_ends_nothing():
    environ = {"SHROTA_QUANTISATION": "int8", "SHROTA_COLOUR": "red", "SHROTA_CONFIG": ""}
    assert Settings.from_env(environ) == Settings()
    assert unknown_settings(environ) == [
        "SHROTA_COLOUR is not a setting and has no effect",
        "SHROTA_QUANTISATION is not a setting and has no effect; did you mean SHROTA_QUANTIZATION?",
    ]


def test_an_empty_variable_is_as_good_as_none():
    assert Settings.from_env({"SHROTA_PORT": " "}).port == 8080


def test_variables_of_training_are_none_of_our_business():
    environ = {"SHROTA_TRAIN_CONFIG": "x.yaml", "HOME": "/"}
    assert Settings.from_env(environ) == Settings() and unknown_settings(environ) == []


def test_four_bits_need_the_engine_that_has_them():
    with pytest.raises(ConfigError, match="int4"):
        Settings(engine="ctranslate2", quantization="int4")
    assert Settings(quantization="int4").engine == "auto"
