"""Special tokens and prompts."""

import json
import shutil

import pytest

from serve.engine.vocabulary import MAX_PREVIOUS_TOKENS, Vocabulary
from serve.errors import BaseModelError


def names(vocabulary, tokens):
    return [vocabulary.tokenizer.id_to_token(token) for token in tokens]


def test_a_prompt_starts_once_and_names_language_and_task(tiny_base_dir):
    vocabulary = Vocabulary.read(tiny_base_dir)
    prompt = vocabulary.prompt("mr", "translate")
    assert names(vocabulary, prompt) == [
        "<|startoftranscript|>",
        "<|mr|>",
        "<|translate|>",
        "<|notimestamps|>",
    ]


def test_previous_text_comes_before_the_start_and_keeps_its_end(tiny_base_dir):
    vocabulary = Vocabulary.read(tiny_base_dir)
    prompt = vocabulary.prompt("mr", "transcribe", "क " * 400 + "ख")
    start = prompt.index(vocabulary.start)
    assert prompt[0] == vocabulary.previous
    assert start == 1 + MAX_PREVIOUS_TOKENS
    assert names(vocabulary, prompt[start - 2 : start]) == ["क", "ख"]


def test_blank_previous_text_is_no_previous_text(tiny_base_dir):
    vocabulary = Vocabulary.read(tiny_base_dir)
    assert vocabulary.prompt("mr", "transcribe", "  ") == vocabulary.prompt("mr", "transcribe")


def test_no_special_token_but_the_end_may_be_emitted(tiny_base_dir):
    vocabulary = Vocabulary.read(tiny_base_dir)
    suppressed = set(vocabulary.suppressed.tolist())
    n_tokens = vocabulary.tokenizer.get_vocab_size(with_added_tokens=True)
    assert set(range(vocabulary.end + 1, n_tokens)) <= suppressed
    assert vocabulary.end not in suppressed
    assert vocabulary.tokenizer.token_to_id("अ") in suppressed  # named by generation_config.json


def test_an_english_only_checkpoint_has_neither_languages_nor_tasks(tiny_base_dir, tmp_path):
    base_dir = shutil.copytree(tiny_base_dir, tmp_path / "english")
    generation = json.loads((base_dir / "generation_config.json").read_text())
    for name in ("lang_to_id", "task_to_id"):
        del generation[name]
    (base_dir / "generation_config.json").write_text(json.dumps(generation | {"is_multilingual": False}))
    vocabulary = Vocabulary.read(base_dir)
    assert names(vocabulary, vocabulary.prompt(None, "transcribe")) == [
        "<|startoftranscript|>",
        "<|notimestamps|>",
    ]


def test_a_tokenizer_that_is_not_whispers_is_refused(tiny_base_dir, tmp_path):
    base_dir = shutil.copytree(tiny_base_dir, tmp_path / "other")
    text = (base_dir / "tokenizer.json").read_text().replace("<|startoftranscript|>", "<s>")
    (base_dir / "tokenizer.json").write_text(text)
    with pytest.raises(BaseModelError, match=r"startoftranscript.*Whisper"):
        Vocabulary.read(base_dir)


def test_a_missing_tokenizer_is_named(tmp_path):
    with pytest.raises(BaseModelError, match=r"tokenizer\.json"):
        Vocabulary.read(tmp_path)
