"""Tensors of a batch: what the decoder reads, what carries loss, how long the windows are."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import soundfile
import torch

from serve.audio.features import FeatureExtractor
from serve.audio.samples import SAMPLE_RATE
from serve.engine.vocabulary import Vocabulary
from train.config import AugmentConfig, TrainConfig
from train.data.filters import DropLog
from train.data.manifest import load_samples, read_manifest
from train.errors import DataError, UnreadBatch
from train.examples.batches import ExamplePlan
from train.examples.collate import IGNORED, Collator, stack_targets
from train.examples.targets import Target

START, LANGUAGE, TRANSCRIBE, NO_TIMESTAMPS, END = 50258, 50320, 50359, 50363, 50257  # of openai/whisper
PROMPT = [START, LANGUAGE, TRANSCRIBE, NO_TIMESTAMPS]


@pytest.fixture
def collator(whisper_base_dir, tiny_manifest):
    features = FeatureExtractor(whisper_base_dir)
    vocabulary = Vocabulary.read(whisper_base_dir)
    clips = read_manifest(tiny_manifest)

    def make(*, augmented=True, **changes):
        config = TrainConfig(name="x", output_dir=Path("x"), train_data=(str(tiny_manifest),), **changes)
        return Collator(clips, config, features, vocabulary, augmented=augmented)

    return make


def plan(*clips, duration_s=2.0):
    return ExamplePlan(clips=clips, duration_s=duration_s)


def test_the_decoder_reads_exactly_one_start_token(collator):
    batch = collator().collate([plan(0), plan(1, 2), plan()], (0, 0))
    assert (batch.decoder_input_ids == START).sum(dim=1).tolist() == [1, 1, 1]
    assert batch.decoder_input_ids[:, :4].tolist() == [PROMPT] * 3


def test_labels_are_the_inputs_moved_by_one_and_end_with_the_end_token(collator):
    batch = collator().collate([plan(0), plan(3, 4, 5)], (0, 0))
    for inputs, labels in zip(batch.decoder_input_ids.tolist(), batch.labels.tolist(), strict=True):
        counted = [place for place, label in enumerate(labels) if label != IGNORED]
        assert counted == list(
            range(3, counted[-1] + 1)
        )  # from the last token of the prompt on, without holes
        assert [inputs[place + 1] for place in counted[:-1]] == [labels[place] for place in counted[:-1]]
        assert labels[counted[-1]] == END and END not in [labels[place] for place in counted[:-1]]


def test_the_text_of_a_row_is_what_its_labels_say(collator):
    data = collator()
    labels = data.collate([plan(0), plan(1, 2)], (0, 0)).labels
    texts = [data.vocabulary.text(row[row != IGNORED].tolist()) for row in labels]
    assert texts == [data.clips[0].text, f"{data.clips[1].text} {data.clips[2].text}"]


def test_the_prompt_carries_no_loss(collator):
    labels = collator().collate([plan(0)], (0, 0)).labels
    assert (labels[:, :3] == IGNORED).all() and labels[0, 3] != IGNORED


def test_the_end_token_carries_loss_although_padding_is_the_same_token(collator):
    data = collator()
    assert data.vocabulary.end == END
    batch = data.collate([plan(0), plan(1, 2, 3)], (0, 0))
    assert (batch.labels == END).sum(dim=1).tolist() == [1, 1]
    padding = batch.decoder_input_ids[0] == END
    assert padding.any() and (batch.labels[0][padding] == IGNORED).all()


def test_a_window_without_speech_is_labelled_with_the_end_token_alone(collator):
    labels = collator().collate([plan()], (0, 0)).labels
    assert labels[labels != IGNORED].tolist() == [END]


def test_targets_are_stacked_as_drawn():
    targets = [Target(tokens=[1, 2, 7, 8, 9], n_prompt=2), Target(tokens=[1, 2, 9], n_prompt=2)]
    inputs, labels = stack_targets(targets, pad_id=9)
    assert inputs[:, :4].tolist() == [[1, 2, 7, 8], [1, 2, 9, 9]]
    assert labels[:, :4].tolist() == [[IGNORED, 7, 8, 9], [IGNORED, 9, IGNORED, IGNORED]]
    assert (inputs[:, 4:] == 9).all() and (labels[:, 4:] == IGNORED).all()


def test_batches_have_few_shapes(collator):
    data = collator()
    shapes = [data.collate([plan(clip)], (0, clip)).decoder_input_ids.shape[1] for clip in range(4)]
    assert all(n_tokens % 16 == 0 for n_tokens in shapes)


def text_of(vocabulary, n_tokens):
    """A text of so many tokens: one for a word of Latin letters."""
    text = "and" + " and" * (n_tokens - 1)
    assert len(vocabulary.encode(text)) == n_tokens
    return text


def test_the_longest_text_is_written_whole_and_one_token_more_is_left_out_and_named(collator):
    data = collator(timestamp_probability=1.0)
    data.log = DropLog()
    texts = [text_of(data.vocabulary, n_tokens) for n_tokens in (443, 444)]
    clips = zip(data.clips, texts, strict=False)
    data.clips = [msgspec.structs.replace(clip, text=text) for clip, text in clips]
    batch = data.collate([plan(0), plan(1)], (0, 0))
    (longest,) = (row[row != IGNORED].tolist() for row in batch.labels)
    assert batch.decoder_input_ids.shape[1] == 448
    assert data.vocabulary.text(longest[:-1]) == texts[0] and longest[-1] == END
    (drop,) = data.log.dropped
    assert (drop.origin, str(drop.reason)) == (data.clips[1].origin, "too many tokens")
    assert "the text has 444 tokens; the decoder writes 443" in drop.detail


def test_of_clips_that_are_too_long_together_the_last_are_left_out_with_their_sound(collator):
    data = collator()
    texts = [text_of(data.vocabulary, n_tokens) for n_tokens in (200, 200, 100)]
    clips = zip(data.clips, texts, strict=False)
    data.clips = [msgspec.structs.replace(clip, text=text) for clip, text in clips]
    joined, expected = (data.collate([plan(*clips)], (0, 0)) for clips in ((0, 1, 2), (0, 1)))
    assert joined.labels.tolist() == expected.labels.tolist()
    assert joined.audio_s == expected.audio_s


def test_earlier_text_gives_way_to_what_is_said(collator):
    data = collator(prompt_probability=1.0)
    texts = [text_of(data.vocabulary, n_tokens) for n_tokens in (300, 400)]
    clips = zip(data.clips, texts, strict=False)
    data.clips = [msgspec.structs.replace(clip, text=text) for clip, text in clips]
    batch = data.collate([plan(1)], (0, 0))
    labels = batch.labels[0][batch.labels[0] != IGNORED].tolist()
    assert data.vocabulary.text(labels[:-1]) == texts[1] and labels[-1] == END
    assert batch.decoder_input_ids[0].tolist().index(START) == 43  # 448 = 1 + 42 earlier + 4 + 400 + 1


def test_a_dynamic_window_fits_its_longest_clip_and_little_more(collator):
    data = collator(window_margin_s=(0.3, 1.5))
    for key in range(8):
        batch = data.collate([plan(0), plan(11)], (0, key))
        lead_in_s = 0.4
        n_frames = batch.log_mel.shape[2]
        assert n_frames % 50 == 0
        assert 100 * 1.8 < n_frames <= 100 * (1.8 + lead_in_s + 1.5 + 0.5)


def test_a_fixed_window_is_thirty_seconds(collator):
    assert collator(encoder_context="fixed").collate([plan(0)], (0, 0)).log_mel.shape == (1, 80, 3_000)


def test_no_speech_is_cut_even_where_it_was_slowed_down(collator):
    data = collator(augment=AugmentConfig(speed=1.0, echo=1.0))
    clips = [*range(12), *range(5)]  # with pauses 25 to 29 s, slowed down up to 33 s
    for key in range(6):
        batch = data.collate([plan(*clips)], (0, key))
        assert batch.audio_s <= 30.0 and batch.log_mel.shape[2] <= 3_000


@pytest.fixture
def long_clips(tmp_path, tiny_manifest):
    """Tones of 29.7, 30 and 30.01 s, each with half a second at a higher pitch at its end."""
    clips = []
    for number, duration_s in enumerate((29.7, 30.0, 30.01)):
        time_s = np.arange(round(duration_s * SAMPLE_RATE)) / SAMPLE_RATE
        samples = 0.3 * np.sin(2 * np.pi * np.where(time_s < duration_s - 0.5, 200, 1500) * time_s)
        soundfile.write(tmp_path / f"{number}.wav", samples, SAMPLE_RATE)
        clips.append(
            msgspec.structs.replace(
                read_manifest(tiny_manifest)[0], path=tmp_path / f"{number}.wav", duration_s=duration_s
            )
        )
    return clips


def test_a_clip_that_nearly_fills_the_window_keeps_its_last_word_and_its_times(collator, long_clips):
    data = collator(timestamp_probability=1.0)
    data.clips = long_clips
    for key in range(4):
        batch = data.collate([plan(0), plan(1), plan(2)], (0, key))
        assert batch.decoder_input_ids.max() < data.vocabulary.size
        times = [row[row > NO_TIMESTAMPS].tolist() for row in batch.labels]
        assert all(NO_TIMESTAMPS < start <= end <= NO_TIMESTAMPS + 1 + 1500 for start, end in times)
        assert times[1] == times[2] == [NO_TIMESTAMPS + 1, NO_TIMESTAMPS + 1 + 1500]
        assert times[0][1] > NO_TIMESTAMPS + 1 + 1485
        highest = batch.log_mel[1].argmax(dim=0)[-45:]  # band of each of the last frames
        assert (highest > batch.log_mel[1].argmax(dim=0)[1000] + 10).all()


def test_the_same_key_gives_the_same_tensors_and_another_key_others(collator):
    data = collator(
        augment=AugmentConfig(speed=0.5, volume=1, noise=1, echo=0.5, telephone=0.5, spec_masks=1)
    )
    examples = [plan(0), plan(1, 2), plan()]
    first, again, other = (data.collate(examples, key) for key in ((2, 7), (2, 7), (2, 8)))
    assert torch.equal(first.log_mel, again.log_mel)
    assert first.log_mel.shape != other.log_mel.shape or not torch.equal(first.log_mel, other.log_mel)


def test_validation_changes_nothing_and_adds_a_second(collator):
    loud = AugmentConfig(speed=1, volume=1, noise=1, echo=1, telephone=1, spec_masks=1)
    data = collator(augmented=False, augment=loud)
    batch = data.collate([plan(3)], (0, 0))
    assert batch.audio_s == pytest.approx(1.0) and batch.log_mel.shape[2] == 200
    samples = np.zeros(2 * SAMPLE_RATE, np.float32)
    samples[:SAMPLE_RATE] = load_samples(data.clips[3])
    wanted = data.features.log_mel(samples, 2.0)  # padded here, there by the features: equal to rounding
    np.testing.assert_allclose(batch.log_mel[0].numpy(), wanted, atol=1e-6)


def test_as_many_clips_of_a_source_are_augmented_as_it_says(collator):
    data = collator(augment=AugmentConfig(speed=1, speed_range=(1.5, 1.5)))
    clip = data.clips[11]  # 1.8 s, or 1.2 s at one and a half times its speed

    def faster(share):
        data.clips = [msgspec.structs.replace(clip, augment=share)]
        return sum(data.collate([plan(0)], (0, key)).audio_s < 1.8 for key in range(40))

    assert (faster(0.0), faster(1.0)) == (0, 40) and 10 <= faster(0.5) <= 30


def test_audio_seconds_count_no_padding(collator):
    batch = collator(augmented=False).collate([plan(0), plan(11)], (0, 0))
    assert batch.audio_s == pytest.approx(0.7 + 1.8, abs=1e-3)


def test_a_clip_that_has_gone_is_named_by_its_manifest_line(collator, tmp_path):
    data = collator()
    data.clips = [msgspec.structs.replace(data.clips[4], path=tmp_path / "gone.wav")]
    with pytest.raises(DataError, match=r"tones\.jsonl:5.*gone\.wav"):
        data.collate([plan(0)], (0, 0))


def test_times_of_joined_clips_are_where_they_are_heard(collator):
    data = collator(timestamp_probability=1.0, augment=AugmentConfig(speed=1.0))
    for key in range(4):
        batch = data.collate([plan(0, 1)], (0, key))
        tokens = batch.labels[0][batch.labels[0] != IGNORED].tolist()
        times_s = [(token - NO_TIMESTAMPS - 1) * 0.02 for token in tokens if token > NO_TIMESTAMPS]
        assert len(times_s) == 4 and times_s == sorted(times_s)
        assert times_s[3] == pytest.approx(batch.audio_s, abs=0.05)
        n_frames = batch.log_mel.shape[2]
        loudest = batch.log_mel[0].max(dim=0).values  # of the bands of each frame
        loud = loudest > loudest.max() - 0.5
        for start_s, end_s in (times_s[:2], times_s[2:]):
            assert loud[round(100 * start_s) : min(n_frames, round(100 * end_s))].float().mean() > 0.3
        assert loud[round(100 * times_s[1]) + 8 : round(100 * times_s[2]) - 8].float().mean() < 0.1


def test_earlier_text_stands_before_the_start_token_and_carries_no_loss(collator):
    data = collator(prompt_probability=1.0)
    batch = data.collate([plan(3)], (0, 0))
    inputs = batch.decoder_input_ids[0].tolist()
    assert inputs[0] == 50361 and inputs.count(START) == 1
    assert data.vocabulary.text(inputs[1 : inputs.index(START)]) == data.clips[2].text
    labels = batch.labels[0]
    assert data.vocabulary.text(labels[labels != IGNORED].tolist()) == data.clips[3].text


def test_each_row_is_written_in_its_own_language(collator):
    data = collator()
    data.clips = [msgspec.structs.replace(clip, language="hi") for clip in data.clips]
    batch = data.collate([plan(0)], (0, 0))
    assert batch.decoder_input_ids[0, 1] == data.vocabulary.languages["hi"]


def test_validation_has_neither_times_nor_earlier_text(collator):
    data = collator(augmented=False, timestamp_probability=1.0, prompt_probability=1.0)
    assert data.collate([plan(3)], (0, 0)).decoder_input_ids[0, :4].tolist() == PROMPT


def test_a_clip_that_cannot_be_decoded_is_left_out_of_its_example_and_counted_once(collator, tmp_path):
    data, strict = collator(), collator()
    data.log = DropLog()
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    data.clips = [msgspec.structs.replace(data.clips[0], path=tmp_path / "broken.wav"), *data.clips[1:]]
    for epoch in range(2):
        batch = data.collate([plan(0), plan(1, 0, 2)], (epoch, 0))
        texts = [data.vocabulary.text(row[row != IGNORED].tolist()) for row in batch.labels]
        assert texts == [f"{data.clips[1].text} {data.clips[2].text}"]
        assert batch.examples == (plan(1, 2),) and len(batch.log_mel) == 1
    assert [drop.origin for drop in data.log.dropped] == [data.clips[0].origin]
    strict.clips = data.clips
    with pytest.raises(DataError, match=r"broken\.wav cannot be decoded"):
        strict.collate([plan(0)], (0, 0))


def test_what_cannot_be_read_is_never_taught_as_silence(collator, tmp_path):
    data = collator()
    data.log = DropLog()
    data.clips = [msgspec.structs.replace(clip, path=tmp_path / "gone.wav") for clip in data.clips]
    batch = data.collate([plan(0), plan(), plan(1, 2)], (0, 0))
    assert batch.examples == (plan(),) and batch.labels[batch.labels != IGNORED].tolist() == [END]
    with pytest.raises(UnreadBatch, match=r"no clip of a batch can be used, .*tones\.jsonl:1: .*gone"):
        data.collate([plan(0), plan(1, 2)], (0, 0))
