"""Merged models: which files they are, that they load, and that they write what the adapter writes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from peft import PeftModel
from rapidfuzz import fuzz
from safetensors.torch import load_file
from transformers import WhisperForConditionalGeneration as Whisper

from serve.audio.features import FeatureExtractor, window_length_s
from serve.audio.samples import SAMPLE_RATE
from serve.engine import SERVED_ADAPTER, DecodingOptions, EngineInput
from serve.engine.transformers.adapter import load_base
from serve.engine.transformers.engine import TransformersEngine
from serve.engine.vocabulary import Vocabulary
from serve.errors import ArtifactError
from serve.model.artifact import load_artifact
from serve.service.loading import load_pipeline
from train.errors import ExportError
from train.export.merged import export_merged, find_base, write_checkpoint

ROOT = Path(__file__).parents[3]
SHIPPED = ROOT / "model_artifacts" / "whisper-base-mr"
SAMPLE = ROOT / "tests" / "data" / "sample-mr.flac"
CT2_FILES = {
    *("config.json", "model.bin", "vocabulary.json"),  # what CTranslate2 reads
    *("tokenizer.json", "preprocessor_config.json"),  # what faster-whisper reads besides
    *("generation_config.json", "merged.json"),
}
FEW_TOKENS_FILES = CT2_FILES | {"kept_tokens.json"}
CHECKPOINT_FILES = {
    *("config.json", "generation_config.json", "model.safetensors", "preprocessor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "merged.json"),
}


@pytest.fixture
def artifact_dir(tiny_artifact_dir, tmp_path):
    return Path(shutil.copytree(tiny_artifact_dir, tmp_path / "artifact"))


@pytest.mark.parametrize(
    ("kind", "files"),
    [
        ("ct2-int8", CT2_FILES),
        ("ct2-int8_float16", CT2_FILES),
        ("ct2-float16", CT2_FILES),
        ("transformers", CHECKPOINT_FILES),
    ],
)
def test_each_format_has_its_files_within_the_artifact_and_nothing_is_left_beside(artifact_dir, kind, files):
    before = {path.name for path in artifact_dir.iterdir()}
    target = export_merged(artifact_dir, kind)
    assert target == artifact_dir / f"merged-{kind}"
    assert {str(path.relative_to(target)) for path in target.rglob("*")} == files
    assert {path.name for path in artifact_dir.iterdir()} == before | {target.name}
    record = json.loads((target / "merged.json").read_text())
    assert (record["format"], record["name"], record["encoder_context"]) == (kind, "tiny-mr", "dynamic")


@pytest.mark.parametrize("kind", ["ct2-int8", "transformers"])
def test_an_adapter_of_known_scripts_is_also_written_with_their_tokens_for_the_service(
    write_tiny_artifact, tmp_path, kind
):
    artifact_dir = write_tiny_artifact(tmp_path / "artifact", scripts=("Devanagari",))
    target = export_merged(artifact_dir, kind)
    expected = {"transformers": {target.name: CHECKPOINT_FILES}}.get(
        kind, {target.name: CT2_FILES, f"{target.name}-few-tokens": FEW_TOKENS_FILES}
    )
    merged = {path for path in artifact_dir.iterdir() if path.name not in ("adapter", "manifest.json")}
    assert {path.name: {file.name for file in path.iterdir()} for path in merged} == expected
    export_merged(artifact_dir, kind, tmp_path / "elsewhere")
    assert {file.name for file in (tmp_path / "elsewhere").iterdir()} == expected[target.name]
    assert {path.name for path in tmp_path.iterdir()} == {"artifact", "elsewhere"}


def test_a_merged_checkpoint_is_the_base_with_its_adapter(artifact_dir, tiny_base_dir):
    merged = Whisper.from_pretrained(export_merged(artifact_dir, "transformers"), dtype=torch.float32)
    adapted = PeftModel.from_pretrained(Whisper.from_pretrained(tiny_base_dir), artifact_dir / "adapter")
    torch.manual_seed(0)
    log_mel, tokens = torch.randn(1, 80, 3000), torch.tensor([[1, 2, 3]])
    base = Whisper.from_pretrained(tiny_base_dir)
    with torch.inference_mode():
        ours, theirs, before = (
            model(input_features=log_mel, decoder_input_ids=tokens).logits
            for model in (merged.eval(), adapted.eval(), base.eval())
        )
    # fp16 on disk rounds; what the adapter changes is much more than that.
    assert (ours - theirs).abs().mean() < 0.03 * (before - theirs).abs().mean()


def test_what_is_quantised_is_the_merge_in_fp32(artifact_dir, tiny_base_dir, tmp_path):
    write_checkpoint(load_artifact(artifact_dir), tiny_base_dir, tmp_path / "whole", dtype="float32")
    name = "model.decoder.layers.0.fc1.weight"
    merged, base = (
        Whisper.from_pretrained(directory).state_dict()[name]
        for directory in (tmp_path / "whole", tiny_base_dir)
    )
    assert merged.dtype == torch.float32 and not torch.equal(merged, merged.half().float())
    assert not torch.allclose(merged, base)


def test_an_older_merged_model_is_replaced_and_anything_else_is_not(artifact_dir, tmp_path):
    target = export_merged(artifact_dir, "transformers", tmp_path / "merged")
    (target / "stale").write_text("of an older export")
    export_merged(artifact_dir, "transformers", target)
    assert not (target / "stale").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for directory in (tmp_path / "mine", artifact_dir):
        with pytest.raises(ExportError, match="another --output-dir"):
            export_merged(artifact_dir, "transformers", directory)
    assert (tmp_path / "mine" / "thesis.txt").is_file()


def test_an_artifact_in_a_folder_of_its_archive_can_still_be_loaded_after_a_merge(artifact_dir, tmp_path):
    outer = tmp_path / "archive"
    shutil.copytree(artifact_dir, outer / "mr")
    assert export_merged(outer, "ct2-int8") == outer / "mr" / "merged-ct2-int8"
    assert load_artifact(outer).path == outer / "mr"


def test_an_adapter_of_another_base_is_not_merged(artifact_dir):
    manifest = json.loads((artifact_dir / "manifest.json").read_text())
    manifest["base_model"]["fingerprint"] = "0" * 64
    (artifact_dir / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="another base model"):
        export_merged(artifact_dir, "ct2-int8")
    assert not (artifact_dir / "merged-ct2-int8").exists()


@pytest.mark.slow
def test_the_shipped_adapter_writes_nearly_the_same_merged_into_int8_and_beside_the_base(tmp_path):
    import ctranslate2

    merged = ctranslate2.models.Whisper(
        str(export_merged(SHIPPED, "ct2-int8", tmp_path / "merged")), compute_type="int8"
    )
    artifact = load_artifact(SHIPPED)
    base_dir = find_base(artifact)
    engine = TransformersEngine.load(base_dir, artifact.adapter_dir, quantization="none", dynamic=True)
    vocabulary, features = Vocabulary.read(base_dir), FeatureExtractor(base_dir)
    samples, sample_rate = soundfile.read(SAMPLE, dtype="float32")
    assert sample_rate == SAMPLE_RATE
    until_a_pause = samples[: round(1.55 * SAMPLE_RATE)]  # of a word cut short, either may make another word
    for clip in (samples, 0.4 * samples, until_a_pause):
        # CTranslate2 slices its positions as the server does: a window may be shorter than 30 s.
        log_mel = features.log_mel(clip, window_length_s(len(clip), artifact.manifest.window_margin_s))
        window = EngineInput(log_mel=log_mel, options=DecodingOptions(language="mr", adapter=SERVED_ADAPTER))
        (expected,) = engine.decode([window])
        start = ["<|startoftranscript|>", "<|mr|>", "<|transcribe|>", "<|notimestamps|>"]
        (found,) = merged.generate(
            ctranslate2.StorageView.from_array(log_mel[np.newaxis]), [start], beam_size=1
        )
        text = vocabulary.text(found.sequences_ids[0])
        assert log_mel.shape[1] < 700
        # The engine's weights are fp32, so a letter may differ.
        assert fuzz.ratio(text.strip(), expected.text.strip()) > 90 and expected.text.strip()


TRANSCRIBE = """
import importlib.abc, sys
from pathlib import Path

class Forbidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "transformers", "peft"):
            raise ImportError(f"{name} is imported")

sys.meta_path.insert(0, Forbidden())
from serve.model.artifact import load_artifact
from serve.audio.decode import AudioLimits, decode_audio
from serve.engine.ctranslate2.engine import CTranslate2Engine
from serve.audio.features import FeatureExtractor
from serve.service.loading import serving_facts
from serve.options import TranscriptionOptions
from serve.pipeline import Pipeline

artifact_dir, base_dir, cache_dir, audio = map(Path, sys.argv[1:])
artifact = load_artifact(artifact_dir)
engine = CTranslate2Engine.load(base_dir, artifact, cache_dir=cache_dir)
pipeline = Pipeline(engine, FeatureExtractor(base_dir), serving_facts(artifact))
samples = decode_audio(audio.read_bytes(), AudioLimits())
for prompt in ("", "English"):  # what few tokens cannot write is read by the model that has all
    print(pipeline.transcribe_many([samples], TranscriptionOptions(prompt=prompt))[0].text)
print(sorted(variant.few_tokens for variant in engine.variants.loaded))
"""


@pytest.mark.slow
def test_an_exported_artifact_is_served_with_few_tokens_and_nothing_is_converted(tmp_path):
    expected = load_pipeline(SHIPPED).transcribe_many([soundfile.read(SAMPLE, dtype="float32")[0]])[0].text
    artifact_dir = tmp_path / "artifact"
    shutil.copytree(SHIPPED, artifact_dir)
    merged = export_merged(artifact_dir, "ct2-int8")
    assert len(json.loads((merged / "vocabulary.json").read_text())) == 51_865  # as others load it
    (tmp_path / "cache").write_text("in the way")
    arguments = [artifact_dir, find_base(load_artifact(artifact_dir)), tmp_path / "cache", SAMPLE]
    child = subprocess.run(
        [sys.executable, "-c", TRANSCRIBE, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )
    assert child.returncode == 0, child.stderr
    own, prompted, variants = child.stdout.splitlines()
    assert own == expected and len(own.split()) == 8
    assert prompted and variants == "[False, True]"


@pytest.mark.parametrize("saved", ["proj_out", "embed_tokens"])
def test_a_saved_half_of_the_tied_layers_is_in_the_checkpoint_and_the_other_is_the_bases(
    write_tiny_artifact, tiny_base_dir, tmp_path, saved
):
    artifact_dir = write_tiny_artifact(tmp_path / "artifact", lora={"modules_to_save": [saved]})
    artifact = load_artifact(artifact_dir)
    write_checkpoint(artifact, tiny_base_dir, tmp_path / "merged", dtype="float32")
    merged, base = (load_base(path) for path in (tmp_path / "merged", tiny_base_dir))
    trained = [tensor for name, tensor in load_file(weights_of(artifact)).items() if saved in name]
    halves = {"proj_out": merged.proj_out, "embed_tokens": merged.model.decoder.embed_tokens}
    assert torch.equal(halves.pop(saved).weight, trained[0])
    assert torch.equal(halves.popitem()[1].weight, base.proj_out.weight)


def weights_of(artifact):
    return artifact.adapter_dir / "adapter_model.safetensors"
