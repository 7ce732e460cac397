"""The clips of a whole run: what the test data keeps out of training, and where strictness lies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from serve.engine.vocabulary import Vocabulary
from train.config import TrainConfig
from train.data.filters import read_drops
from train.errors import DataError
from train.examples.corpus import describe_heard, leave_out_long_texts, load_corpus, sum_up_heard


def row(number, text, voice):
    return json.dumps({"audio": f"{number}.wav", "text": text, "voice": voice}, ensure_ascii=False)


@pytest.fixture
def config(wavs, tmp_path):
    """Return a function that makes a configuration whose training rows repeat what is held out."""
    manifests = {
        "train": [row(0, "पाऊस आला", "a"), row(1, "दार उघड.", "a"), row(2, "चहा", "t"), row(3, "ऊन", "b")],
        "valid": [row(4, "ऊन!", "a")],
        "test": [row(5, "दार उघड", "t")],
        "bad-test": [row(5, "वारा", "t"), row("absent", "पाणी", "t")],
    }
    for name, rows in manifests.items():
        (wavs / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")

    def make(**changes):
        values = {
            **{f"{name}_data": (f"{wavs}/{name}.jsonl",) for name in ("train", "valid", "test")},
            **{"name": "x", "output_dir": tmp_path / "run"},
        }
        return TrainConfig(**{**values, **changes})

    return make


def test_sentences_of_validation_and_test_and_voices_of_the_test_are_not_trained_on(config):
    corpus = load_corpus(config())
    assert [clip.text for clip in corpus.train] == ["पाऊस आला"]
    assert corpus.log.counts == {"sentence is held out": 2, "voice is held out": 1}
    assert [len(test.clips) for test in corpus.tests] == [1] and len(corpus.valid) == 1


@pytest.mark.parametrize(("held_out", "n_kept"), [("sentences", 2), ("nothing", 3)])
def test_a_configuration_says_what_is_held_out(config, held_out, n_kept):
    assert len(load_corpus(config(held_out=held_out)).train) == n_kept


def test_sentences_of_validation_are_not_trained_on_whatever_is_held_out_of_the_test(config):
    corpus = load_corpus(config(held_out="nothing"))
    assert [clip.text for clip in corpus.train] == ["पाऊस आला", "दार उघड.", "चहा"]


@pytest.mark.parametrize(
    ("held_out", "expected"),
    [("sentences and voices", ["ऊन"]), ("sentences", ["ऊन"]), ("nothing", ["दार उघड!", "ऊन"])],
)
def test_a_sentence_of_the_test_does_not_choose_the_best_adapter(config, wavs, held_out, expected):
    rows = [row(4, "दार उघड!", "a"), row(3, "ऊन", "t")]  # a voice of the test may
    (wavs / "valid.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    corpus = load_corpus(config(train_data=(f"{wavs}/clips.jsonl",), held_out=held_out))
    assert [clip.text for clip in corpus.valid] == expected
    dropped = {drop.origin: str(drop.reason) for drop in corpus.log.dropped}
    assert (dropped.get(f"{wavs}/valid.jsonl:1") == "sentence is held out") == (held_out != "nothing")


def test_validation_on_nothing_but_the_test_is_refused_with_what_to_change(config, wavs):
    test = f"{wavs}/test.jsonl"
    with pytest.raises(DataError) as refused:
        load_corpus(config(valid_data=(test,)))
    assert str(refused.value).startswith(f"valid_data {test}: ")
    assert "sentence is held out, in 1 of 1 rows" in str(refused.value)
    assert "name other valid_data or test_data" in str(refused.value)
    assert len(load_corpus(config(valid_data=(test,), held_out="nothing")).valid) == 1


def test_a_single_voice_in_training_and_test_is_answered_with_the_key_to_change(config, wavs):
    one = f"{wavs}/one.jsonl"
    Path(one).write_text(row(6, "वारा", "t") + "\n", encoding="utf-8")
    with pytest.raises(DataError) as refused:
        load_corpus(config(train_data=(one,)))
    sentence = str(refused.value)
    assert sentence.startswith(
        f"train_data {one}: manifest {one} holds no clips to use: voice is held out, in 1"
    )
    assert "voice 't' also speaks in" in sentence and "the key `held_out` says" in sentence


@pytest.mark.parametrize("key", ["train_data", "valid_data", "test_data"])
def test_an_empty_source_is_named_with_its_key_and_its_place(config, wavs, monkeypatch, key):
    (wavs / "empty.jsonl").write_text("", encoding="utf-8")
    monkeypatch.chdir(wavs)
    with pytest.raises(DataError) as refused:
        load_corpus(config(**{key: ("empty.jsonl",)}))
    assert str(refused.value).startswith(f"{key} empty.jsonl ({wavs}/empty.jsonl): ")
    assert "it holds no rows" in str(refused.value)


def test_a_folder_of_which_nothing_can_be_used_says_why(config, wavs):
    (wavs / "folder").mkdir()
    (wavs / "0.wav").rename(wavs / "folder" / "0.wav")
    (wavs / "folder" / "0.txt").write_text("hello there", encoding="utf-8")
    with pytest.raises(
        DataError, match=r"train_data folder:.*wrong script, in 1 of 1 rows, .*not written in"
    ):
        load_corpus(config(train_data=(f"folder:{wavs}/folder",)))


def test_texts_that_the_decoder_cannot_write_whole_are_left_out_counted_and_named(
    config, wavs, whisper_base_dir, tmp_path
):
    rows = [row(0, "पाऊस आला", "a"), row(1, "क " * 500, "a")]
    (wavs / "train.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    vocabulary = Vocabulary.read(whisper_base_dir)
    corpus = leave_out_long_texts(load_corpus(config()), vocabulary)
    assert [clip.text for clip in corpus.train] == ["पाऊस आला"] and len(corpus.valid) == 1
    assert corpus.log.counts == {"too many tokens": 1}
    corpus.log.report(Console(quiet=True), tmp_path / "left-out.jsonl")
    (left_out,) = read_drops((tmp_path / "left-out.jsonl").read_text(encoding="utf-8"))
    assert left_out.origin == f"{wavs}/train.jsonl:2" and "the decoder writes 443" in left_out.detail
    (wavs / "train.jsonl").write_text(rows[1] + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="train_data: no clip can be used: too many tokens, in 1 of 1 rows"):
        leave_out_long_texts(load_corpus(config()), vocabulary)


def test_the_first_bad_row_of_test_data_ends_the_run_unless_its_source_says_otherwise(config, wavs):
    bad = f"{wavs}/bad-test.jsonl"
    with pytest.raises(DataError, match=r"bad-test\.jsonl:2: .*absent\.wav does not exist"):
        load_corpus(config(test_data=(bad,)))
    (test,) = load_corpus(config(test_data=(f"{bad}?strict=false",))).tests
    assert len(test.clips) == 1 and test.log.counts == {"missing file": 1} and test.name == "bad-test"


def test_strict_training_data_ends_at_the_first_bad_row(config):
    with pytest.raises(DataError, match=r"train\.jsonl:2: .*also occurs in"):
        load_corpus(config(strict=True))


def test_several_sources_are_read_one_after_the_other(config, wavs, common_voice):
    corpus = load_corpus(config(train_data=(f"{wavs}/train.jsonl", f"commonvoice:{common_voice}?split=dev")))
    assert len(corpus.train) == 1 + 2
    assert corpus.train[1].path.suffix == ".tar" and corpus.train[0].path.suffix == ".wav"


def test_clips_know_their_source_and_how_often_it_is_heard(config, wavs):
    corpus = load_corpus(config(train_data=(f"{wavs}/train.jsonl?weight=2.5&label=people",)))
    assert [(clip.source, clip.weight) for clip in corpus.train] == [("people", 2.5)]
    assert [(clip.source, clip.weight) for clip in corpus.valid] == [("valid", 1.0)]


def test_a_weight_and_a_label_do_not_prepare_a_source_again(config, wavs):
    (wavs / "folder").mkdir()
    (wavs / "6.wav").rename(wavs / "folder" / "6.wav")
    (wavs / "folder" / "6.txt").write_text("दार बंद कर", encoding="utf-8")
    for options in ("", "?weight=3&label=people"):
        load_corpus(settings := config(train_data=(f"folder:{wavs}/folder{options}",)))
    assert len(list((settings.output_dir / "data").iterdir())) == 1


def test_recordings_that_hold_the_encoder_need_no_text_and_any_language_but_nothing_held_out(config, wavs):
    rows = [row(6, "", "c"), row(7, "good morning", "d"), row(0, "ऊन", "c"), row(1, "", "t")]
    (wavs / "unread.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    holding = config(distill_data=(f"{wavs}/unread.jsonl",), distill_weight=1.0)
    assert [clip.text for clip in load_corpus(holding).distill] == ["", "good morning"]


def test_what_is_heard_is_summed_up_by_source_kind_and_language_people_first(config, wavs):
    spoken = [json.dumps({**json.loads(row(7, "पाणी दे", None)), "language": "hi"}, ensure_ascii=False)]
    (wavs / "spoken.jsonl").write_text("\n".join(spoken) + "\n", encoding="utf-8")
    sources = (f"{wavs}/train.jsonl", f"{wavs}/spoken.jsonl?kind=people&weight=3&label=news")
    heard = load_corpus(config(train_data=sources, valid_data=(), held_out="nothing"))
    rows = sum_up_heard(heard.train)
    assert [(row["source"], row["kind"], row["language"], row["clips"], row["weight"]) for row in rows] == [
        ("news", "people", "hi", 1, 3.0),
        ("train", "unknown", "mr", 4, 1.0),
    ]
    assert rows[0]["hours"] == pytest.approx(1.7 / 3600, abs=1e-3)
    first, second = describe_heard(rows)
    assert first.startswith("news (people, hi): 1 clips, 0.00 h, weight 3, ") and "of an epoch" in second


def test_a_folder_that_holds_the_encoder_needs_no_transcripts(config, wavs):
    folder = wavs / "folder"
    folder.mkdir()
    for number in (6, 7):
        (wavs / f"{number}.wav").rename(folder / f"{number}.wav")
    (folder / "6.txt").write_text("ऊन पडले", encoding="utf-8")
    source = (f"folder:{folder}",)
    corpus = load_corpus(config(train_data=source, distill_data=source, distill_weight=1.0))
    assert [clip.text for clip in corpus.distill] == ["ऊन पडले", ""]
    assert [clip.text for clip in corpus.train] == ["ऊन पडले"]
    assert corpus.log.counts == {"malformed row": 1}
    with pytest.raises(DataError, match=r"7\.wav:1: no transcript 7\.txt lies beside it"):
        load_corpus(config(test_data=source))
