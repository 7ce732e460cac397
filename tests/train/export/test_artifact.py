"""What a training run leaves behind: an artifact that can be served, scores, a curve and a card."""

from __future__ import annotations

import msgspec
import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from serve.errors import ArtifactError
from serve.model.artifact import load_artifact, load_manifest, write_manifest
from serve.service.known_sound import check_known_sound, text_of_known_sound
from serve.service.loading import load_pipeline
from train.config import BlockConfig
from train.errors import ExportError, TrainConfigError
from train.export.artifact import (
    export_artifact,
    keep_start,
    note_known_sound,
    publish_artifact,
    record_evaluation,
)
from train.loop.loop import Outcome
from train.model.adapter import continue_adapter

OUTCOME = Outcome(step=6, total_steps=6, samples=40, skipped_batches=1, trained_s=12.4, finished=True)
TEXTS = ("पाणी प्या", "दोन 2")


@pytest.fixture
def model(tiny_config, tiny_model):
    """A tiny model whose adapters are not zero."""
    model = tiny_model(tiny_config())
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def exported(model, tiny_config, tiny_base_dir):
    return export_artifact(model, tiny_base_dir, tiny_config(), OUTCOME, TEXTS)


def test_the_artifact_holds_the_trained_weights_in_fp16_and_nothing_else(exported, model):
    files = {str(path.relative_to(exported)) for path in exported.rglob("*") if path.is_file()}
    files -= {"adapter/README.md"}  # peft's own card
    assert files == {"manifest.json", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"}
    written = load_file(exported / "adapter" / "adapter_model.safetensors")
    trained = get_peft_model_state_dict(model)
    assert written.keys() == trained.keys()
    for name, tensor in written.items():
        assert tensor.dtype == torch.float16
        torch.testing.assert_close(tensor.float(), trained[name], atol=1e-3, rtol=1e-3)


def test_the_manifest_says_what_the_server_must_know(exported, tiny_base_dir):
    manifest = load_manifest(exported)
    assert (manifest.name, manifest.language, manifest.encoder_context) == ("tiny", "mr", "dynamic")
    assert manifest.window_margin_s == pytest.approx(0.9) and manifest.max_window_s == 4.0
    assert manifest.base_model.name == str(tiny_base_dir)
    assert manifest.training["steps"] == 6 and manifest.training["samples"] == 40
    assert manifest.training["continued_from"] is None


def test_what_is_exported_is_served(exported, speech):
    pipeline = load_pipeline(exported, quantization="none")
    assert pipeline.engine.has_adapter
    assert pipeline.transcribe_many([speech])[0].text


def test_the_manifest_notes_what_the_adapter_writes_for_the_known_recording(exported, tiny_config):
    config = tiny_config()
    note_known_sound(exported, config)
    noted = load_manifest(exported).known_text
    pipeline = load_pipeline(exported, quantization=config.quantization)
    assert noted and text_of_known_sound(pipeline) == noted == pipeline.facts.known_text
    check_known_sound(pipeline, noted)


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_a_dora_adapter_is_served(tiny_config, tiny_model, tiny_base_dir, speech, quantization):
    config = tiny_config(lora_method="dora")
    artifact = export_artifact(tiny_model(config), tiny_base_dir, config, OUTCOME, TEXTS)
    pipeline = load_pipeline(artifact, quantization=quantization)
    assert pipeline.transcribe_many([speech])[0].text
    pipeline.engine.close()


def test_two_exports_of_the_same_weights_are_the_same_to_the_bit(exported, model, tiny_config, tiny_base_dir):
    files = [exported / "adapter" / name for name in ("adapter_config.json", "adapter_model.safetensors")]
    before = [file.read_bytes() for file in files]
    export_artifact(model, tiny_base_dir, tiny_config(), OUTCOME, TEXTS)
    assert [file.read_bytes() for file in files] == before


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_weights_that_fp16_cannot_hold_are_refused_and_the_old_artifact_stays(
    exported, model, tiny_config, tiny_base_dir, value
):
    next(p for name, p in model.named_parameters() if "lora_B" in name).data[0, 0] = value
    with pytest.raises(ExportError, match="lower learning_rate"):
        export_artifact(model, tiny_base_dir, tiny_config(), OUTCOME, TEXTS)
    load_artifact(exported)


def test_a_run_directory_that_cannot_be_written_is_named(model, tiny_config, tiny_base_dir, tmp_path):
    (tmp_path / "file").write_text("in the way")
    config = tiny_config(output_dir=tmp_path / "file")
    with pytest.raises(ExportError, match="could not be written"):
        export_artifact(model, tiny_base_dir, config, OUTCOME, TEXTS)


def test_publishing_replaces_what_was_there_as_a_whole(exported, tmp_path):
    target = tmp_path / "served" / "tiny"
    target.mkdir(parents=True)
    (target / "manifest.json").write_text("of an older artifact")
    (target / "stale.txt").write_text("of an older artifact")
    assert publish_artifact(exported, target) == target
    assert not (target / "stale.txt").exists() and load_artifact(target)
    assert [path.name for path in target.parent.iterdir()] == ["tiny"]


def test_publishing_through_a_link_replaces_what_it_leads_to(exported, tmp_path):
    link = tmp_path / "current"
    link.symlink_to("v3")
    for _ in range(2):
        assert publish_artifact(exported, link) == link
        assert link.is_symlink() and load_artifact(tmp_path / "v3")
    assert sorted(path.name for path in tmp_path.glob("*current*")) == ["current"]


def test_an_artifact_that_cannot_be_published_is_a_named_error(exported, tmp_path):
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(ExportError, match="cannot be published"):
        publish_artifact(exported, tmp_path / "file" / "served")


def test_publishing_replaces_nothing_but_an_artifact(exported, tmp_path):
    others = tmp_path / "artifacts"
    publish_artifact(exported, others / "one")
    with pytest.raises(ExportError, match="artifacts holds something other than an artifact"):
        publish_artifact(exported, others)
    with pytest.raises(ExportError, match=r"manifest\.json is a file"):
        publish_artifact(exported, others / "one" / "manifest.json")
    assert [path.name for path in others.iterdir()] == ["one"] and load_artifact(others / "one")
    (tmp_path / "empty").mkdir()
    assert load_artifact(publish_artifact(exported, tmp_path / "empty"))


def test_training_further_starts_with_the_artifact_and_says_so(
    exported, model, tiny_config, tiny_model, tiny_base_dir, tmp_path
):
    config = tiny_config(continue_from=exported, output_dir=tmp_path / "further")
    further = tiny_model(config)
    continue_adapter(further, load_artifact(exported), tiny_base_dir, config)
    kept, begun = get_peft_model_state_dict(model), get_peft_model_state_dict(further)
    for name, tensor in begun.items():
        torch.testing.assert_close(tensor, kept[name].half().float(), msg=name)
        assert tensor.dtype == torch.float32

    lineage = load_manifest(export_artifact(further, tiny_base_dir, config, OUTCOME, TEXTS)).training[
        "continued_from"
    ]
    assert lineage["name"] == "tiny" and lineage["training"]["steps"] == 6 and len(lineage["sha256"]) == 64


def test_the_mean_of_the_start_and_the_trained_weights_is_exported_where_asked(
    exported, model, tiny_config, tiny_base_dir, tmp_path
):
    start = load_file(exported / "adapter" / "adapter_model.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter += 1.0
    config = tiny_config(continue_from=exported, average_with_start=0.25, output_dir=tmp_path / "further")
    further = export_artifact(model, tiny_base_dir, config, OUTCOME, TEXTS)
    for name, tensor in load_file(further / "adapter" / "adapter_model.safetensors").items():
        torch.testing.assert_close(tensor.float(), start[name].float() + 0.75, atol=5e-3, rtol=0)
    assert load_manifest(further).training["average_with_start"] == 0.25


def test_a_run_published_over_what_it_continued_exports_the_same_again(
    exported, model, tiny_config, tiny_base_dir, tmp_path
):
    served = publish_artifact(exported, tmp_path / "served")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter += 1.0
    config = tiny_config(continue_from=served, average_with_start=0.5, output_dir=tmp_path / "further")
    weights, lineages = [], []
    for _ in range(2):
        further = export_artifact(model, tiny_base_dir, config, OUTCOME, TEXTS)
        weights.append((further / "adapter" / "adapter_model.safetensors").read_bytes())
        lineages.append(load_manifest(further).training["continued_from"])
        publish_artifact(further, served)
    assert weights[0] == weights[1] and lineages[0] == lineages[1]
    assert load_manifest(served).training["continued_from"] == lineages[0]  # so it is not what was continued


def test_the_start_is_what_was_there_when_the_run_began(
    exported, model, tiny_config, tiny_base_dir, tmp_path
):
    served = publish_artifact(exported, tmp_path / "served")
    begun = load_file(served / "adapter" / "adapter_model.safetensors")
    config = tiny_config(continue_from=served, average_with_start=0.5, output_dir=tmp_path / "further")
    (config.checkpoints / "start").mkdir(parents=True)  # left by an earlier run
    keep_start(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter += 1.0
    another = tiny_config(output_dir=tmp_path / "another")
    publish_artifact(export_artifact(model, tiny_base_dir, another, OUTCOME, TEXTS), served)
    further = export_artifact(model, tiny_base_dir, config, OUTCOME, TEXTS)
    for name, tensor in load_file(further / "adapter" / "adapter_model.safetensors").items():
        torch.testing.assert_close(tensor.float(), begun[name].float() + 0.5, atol=5e-3, rtol=0)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"lora_rank": 8}, "lora_rank is 8, but .*adapter_config.json says 4"),
        ({"lora_alpha": 4}, "lora_alpha is 4, but .* says 8"),
        ({"lora_method": "rslora"}, "lora_method is rslora, but .* says lora"),
        ({"lora_method": "dora"}, "lora_method is dora, but .* says lora"),
        ({"lora_targets": ("q_proj",)}, "lora_targets are not those of the adapter"),
        ({"encoder": BlockConfig(rank=2)}, r"lora_rank is 2, but .* says 4 \(encoder\)"),
        ({"decoder": BlockConfig(layers=(0,))}, r"lora_targets are not .* \(decoder\)"),
    ],
)
def test_an_adapter_of_another_shape_is_not_trained_further(
    exported, tiny_config, tiny_model, tiny_base_dir, changes, named
):
    with pytest.raises(TrainConfigError, match=named):
        config = tiny_config(**changes)
        continue_adapter(tiny_model(config), load_artifact(exported), tiny_base_dir, config)


DECODER_ALONE = {"encoder": BlockConfig(rank=0)}


def test_half_an_adapter_is_taken_where_the_configuration_says_so(
    exported, model, tiny_config, tiny_model, tiny_base_dir
):
    kept = get_peft_model_state_dict(model)
    half = {name for name in kept if "decoder" in name}
    for changes in (DECODER_ALONE, {}):
        config = tiny_config(continue_from=exported, continue_blocks=("decoder",), **changes)
        further = tiny_model(config)
        continue_adapter(further, load_artifact(exported), tiny_base_dir, config)
        begun = get_peft_model_state_dict(further)
        assert {name for name in begun if "encoder." in name} == (set() if changes else kept.keys() - half)
        for name in half:
            torch.testing.assert_close(begun[name], kept[name].half().float(), msg=name)
        assert not any(w.any() for name, w in begun.items() if "lora_B" in name and name not in half)


def test_half_an_adapter_is_never_dropped_unasked(exported, tiny_config, tiny_model, tiny_base_dir):
    config = tiny_config(continue_from=exported, **DECODER_ALONE)
    with pytest.raises(TrainConfigError, match=r"encoder\.rank is 0, but .*continue_blocks decoder takes"):
        continue_adapter(tiny_model(config), load_artifact(exported), tiny_base_dir, config)


def test_an_adapter_of_one_block_begins_the_other_anew_only_when_asked(
    tiny_config, tiny_model, tiny_base_dir, tmp_path
):
    alone = tiny_config(output_dir=tmp_path / "alone", **DECODER_ALONE)
    half = load_artifact(export_artifact(tiny_model(alone), tiny_base_dir, alone, OUTCOME, TEXTS))
    config = tiny_config()
    with pytest.raises(TrainConfigError, match="leaves the encoder as it is, which this run trains"):
        continue_adapter(tiny_model(config), half, tiny_base_dir, config)


def rename_tensors(artifact_dir, rename):
    weights = artifact_dir / "adapter" / "adapter_model.safetensors"
    tensors = load_file(weights)
    weights.unlink()
    save_file({rename(name): tensor for name, tensor in tensors.items()}, weights)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "base_model.model."])
def test_an_adapter_of_a_wrapped_model_is_trained_further_as_what_it_is(
    exported, model, tiny_config, tiny_model, tiny_base_dir, prefix
):
    rename_tensors(exported, lambda name: prefix + name)
    config = tiny_config(continue_from=exported)
    further = tiny_model(config)
    continue_adapter(further, load_artifact(exported), tiny_base_dir, config)
    kept = get_peft_model_state_dict(model)
    for name, tensor in get_peft_model_state_dict(further).items():
        torch.testing.assert_close(tensor, kept[name].half().float(), msg=name)


@pytest.mark.parametrize(
    ("rename", "refusal"),
    [
        (lambda name: f"teacher.{name}", r"'teacher\.base_model.*belongs to no layer"),
        (lambda name: name.replace("layers.1.", "layers.9."), r"layers\.9.*belongs to no layer"),
    ],
)
def test_an_adapter_whose_tensors_do_not_fit_is_not_trained_further(
    exported, tiny_config, tiny_model, tiny_base_dir, rename, refusal
):
    rename_tensors(exported, rename)
    config = tiny_config(continue_from=exported)
    with pytest.raises(ArtifactError, match=refusal):
        continue_adapter(tiny_model(config), load_artifact(exported), tiny_base_dir, config)


def test_an_adapter_of_another_base_model_is_not_trained_further(
    exported, tiny_config, tiny_model, tiny_base_dir
):
    manifest = load_manifest(exported)
    other = msgspec.structs.replace(manifest.base_model, fingerprint="0" * 64)
    write_manifest(exported, msgspec.structs.replace(manifest, base_model=other))
    config = tiny_config()
    with pytest.raises(TrainConfigError, match="another base model"):
        continue_adapter(tiny_model(config), load_artifact(exported), tiny_base_dir, config)


def test_what_to_continue_from_must_be_an_artifact(tmp_path):
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        load_artifact(tmp_path)


def result(wer: float) -> dict:
    values = {"utterances": 3, "wer": wer, "wer_low": wer / 2, "wer_high": 2 * wer, "cer": wer / 5}
    counts = {"hits": 1, "substitutions": 2, "deletions": 3, "insertions": 4}
    rates = {"hallucination_rate": 0.0, "script_fidelity": 1.0}
    return {"scores": {"marathi": {**values, **counts, **rates}}, "utterances": [{"hypothesis": "गुपित"}]}


def test_scores_are_recorded_without_the_utterances(exported):
    record_evaluation(exported, {"test": {"tuned": result(0.2)}})
    manifest = load_manifest(exported)
    assert manifest.evaluation["test"]["tuned"]["scores"]["marathi"]["wer"] == 0.2
    assert "गुपित" not in (exported / "manifest.json").read_text("utf-8")
    assert msgspec.structs.replace(manifest, evaluation={}).training["steps"] == 6


def test_the_manifest_says_what_the_adapter_heard(model, tiny_config, tiny_base_dir):
    row = {"source": "news", "kind": "people", "language": "hi", "clips": 481, "hours": 0.922, "weight": 3.0}
    artifact = export_artifact(model, tiny_base_dir, tiny_config(), OUTCOME, TEXTS, [row])
    assert load_manifest(artifact).training["heard"] == [row]


def test_the_scripts_of_what_was_trained_are_recorded_and_grow_with_further_training(
    exported, tiny_config, tiny_model, tiny_base_dir, tmp_path
):
    assert load_manifest(exported).scripts == ("Devanagari",)
    further = tiny_config(continue_from=exported, output_dir=tmp_path / "further")
    artifact = export_artifact(tiny_model(further), tiny_base_dir, further, OUTCOME, ["मी WhatsApp वापरतो"])
    assert load_manifest(artifact).scripts == ("Devanagari", "Latin")
    manifest = load_manifest(exported)
    write_manifest(exported, msgspec.structs.replace(manifest, scripts=None))  # older: nobody knows
    further = tiny_config(continue_from=exported, output_dir=tmp_path / "later")
    artifact = export_artifact(tiny_model(further), tiny_base_dir, further, OUTCOME, TEXTS)
    assert load_manifest(artifact).scripts is None
