"""Checkpoints of other tools are completed with the files that they lack."""

import json

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from serve.audio.features import FeatureExtractor
from serve.engine.vocabulary import Vocabulary
from serve.errors import BaseModelError
from serve.model.completed import completed_checkpoint

TEXT = "नमस्कार, पुणे! Hello world, hello again."
SPECIAL = [
    *("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|hi|>", "<|mr|>", "<|haw|>", "<|translate|>"),
    *("<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"),
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """A tokenizer like Whisper's, that knows little."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_tokens([AddedToken(name, special=True) for name in SPECIAL])
    return tokenizer


@pytest.fixture
def older_dir(tokenizer, tmp_path):
    """A checkpoint with its tokenizer in the older form and no other settings."""
    directory = tmp_path / "older"
    directory.mkdir()
    tokenizer.model.save(str(directory))
    added = {name: tokenizer.token_to_id(name) for name in SPECIAL}
    (directory / "added_tokens.json").write_text(json.dumps(added))
    config = {"num_mel_bins": 128, "vocab_size": 312, "suppress_tokens": [3], "begin_suppress_tokens": [4]}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "model.safetensors").touch()
    return directory


def test_the_older_form_of_a_tokenizer_gives_the_same_tokens(older_dir, tokenizer, tmp_path):
    completed = completed_checkpoint(older_dir, cache_dir=tmp_path / "cache")
    made = Tokenizer.from_file(str(completed / "tokenizer.json"))
    assert made.encode(TEXT).ids == tokenizer.encode(TEXT).ids
    assert made.decode(made.encode(TEXT).ids) == TEXT
    assert [made.token_to_id(name) for name in SPECIAL] == [tokenizer.token_to_id(name) for name in SPECIAL]


def test_roles_of_tokens_follow_from_their_names_and_mel_bands_from_the_model(older_dir, tokenizer, tmp_path):
    completed = completed_checkpoint(older_dir, cache_dir=tmp_path / "cache")
    vocabulary = Vocabulary.read(completed)
    assert set(vocabulary.languages) == {"en", "hi", "mr", "haw"}
    assert vocabulary.tasks["translate"] == tokenizer.token_to_id("<|translate|>")
    assert 3 in vocabulary.suppressed and 4 in vocabulary.suppressed_first
    assert json.loads((completed / "preprocessor_config.json").read_bytes())["feature_size"] == 128
    assert FeatureExtractor(completed) is not None


def test_a_completed_checkpoint_is_made_once_and_anew_where_the_original_changes(older_dir, tmp_path):
    completed = completed_checkpoint(older_dir, cache_dir=tmp_path / "cache")
    assert completed_checkpoint(older_dir, cache_dir=tmp_path / "cache") == completed
    (older_dir / "model.safetensors").write_bytes(b"other weights")
    assert completed_checkpoint(older_dir, cache_dir=tmp_path / "cache") != completed


def test_a_whole_checkpoint_is_taken_as_it_is(tiny_base_dir):
    assert completed_checkpoint(tiny_base_dir) == tiny_base_dir


def test_a_damaged_tokenizer_is_named(older_dir, tmp_path):
    (older_dir / "added_tokens.json").write_text(json.dumps({"<|mr|>": 9_999}))
    with pytest.raises(BaseModelError, match=r"the tokenizer cannot be read: '<\|mr\|>' is not token 9999"):
        completed_checkpoint(older_dir, cache_dir=tmp_path / "cache")
