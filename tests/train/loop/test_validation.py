"""Looks at the validation clips: loss and WER of the model in training."""

from __future__ import annotations

import math

import pytest
import torch
from msgspec import structs

from train.data.filters import DropLog
from train.errors import DataError
from train.examples.batches import ExamplePlan
from train.loop.checkpoint import Position
from train.loop.validation import Look, Validation, is_better
from train.model.build import batch_loss

CPU = torch.device("cpu")
EXAMPLE = ExamplePlan(clips=(0,), duration_s=1.0)


@pytest.mark.parametrize(
    "base",
    [{"quantization": name} for name in ("none", "int8", "int4")] + [{"precision": "bfloat16"}],
    ids=lambda base: next(iter(base.values())),
)
def test_a_look_measures_loss_and_wer_and_leaves_the_model_training(
    tiny_config, tiny_model, tiny_collator, base
):
    config = tiny_config(lora_dropout=0.1, valid_clips=5, **base)
    model = tiny_model(config).train()
    validation = Validation(tiny_collator(config, augmented=False), config, CPU)
    look = validation.look(model)
    assert model.training and 0 < look.loss < 20
    assert look.wer is not None and look.wer > 0
    assert validation.look(model) == look  # nothing random, dropout included
    batch_loss(model, tiny_collator(config).collate([EXAMPLE], (0, 0)), CPU)[0].backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_each_source_counts_the_same_however_many_clips_it_has(tiny_config, tiny_model, tiny_collator):
    config = tiny_config(valid_clips=2)
    data = tiny_collator(config, augmented=False)
    model = tiny_model(config)
    few, many = data.clips[:2], data.clips[2:]
    n_few, n_many = data.n_tokens[:2], data.n_tokens[2:]
    apart = []
    for data.clips, data.n_tokens in ((few, n_few), (many, n_many)):
        apart.append(Validation(data, config, CPU).look(model).loss)
    data.n_tokens = n_few + n_many
    data.clips = [structs.replace(clip, source="people") for clip in few] + [
        structs.replace(clip, source="machines") for clip in many
    ]
    look = Validation(data, config, CPU).look(model)
    assert look.losses == {"people": pytest.approx(apart[0]), "machines": pytest.approx(apart[1])}
    assert look.loss == pytest.approx(sum(apart) / 2)
    assert look.wers.keys() == {"people", "machines"} and look.wer == sum(look.wers.values()) / 2


def test_each_kind_of_voice_has_rates_over_all_sources_people_first(tiny_config, tiny_model, tiny_collator):
    config = tiny_config(valid_clips=2)
    data = tiny_collator(config, augmented=False)
    said = [("neural", "a"), ("people", "a"), ("people", "b"), ("neural", "b")]
    data.clips = [
        structs.replace(clip, kind=kind, source=source, language="hi")
        for clip, (kind, source) in zip(data.clips, said, strict=False)
    ]
    look = Validation(data, config, CPU).look(tiny_model(config))
    assert list(look.kinds) == ["people", "neural"]
    assert all(wer > 0 and cer > 0 for wer, cer in look.kinds.values())


def test_clips_that_cannot_be_read_are_left_out_unless_no_other_is_there(
    tiny_config, tiny_model, tiny_collator, tmp_path
):
    config = tiny_config(valid_clips=12)
    model, data = tiny_model(config), tiny_collator(config, augmented=False)
    data.log = DropLog()
    clips, n_tokens = data.clips, data.n_tokens
    data.clips, data.n_tokens = clips[4:], n_tokens[4:]
    rest = Validation(data, config, CPU).look(model)
    gone = [structs.replace(clip, path=tmp_path / "gone.wav") for clip in clips]
    data.clips, data.n_tokens = [*gone[:4], *clips[4:]], n_tokens
    look = Validation(data, config, CPU).look(model)
    assert look.loss == pytest.approx(rest.loss, rel=1e-4) and look.wer == rest.wer
    data.clips = gone
    with pytest.raises(DataError, match="valid_data: none of the clips of"):
        Validation(data, config, CPU).look(model)


def test_without_clips_to_transcribe_there_is_no_wer(tiny_config, tiny_model, tiny_collator):
    config = tiny_config()
    look = Validation(tiny_collator(config, augmented=False), config, CPU).look(tiny_model(config))
    assert look.wer is None and not look.kinds


def test_clips_that_are_transcribed_are_spread_over_the_set(tiny_config, tiny_model, tiny_collator):
    config = tiny_config(valid_clips=3)
    data = tiny_collator(config, augmented=False)
    heard = []
    data.collate, collate = (
        (lambda examples, key: heard.append(examples) or collate(examples, key)),
        data.collate,
    )
    Validation(data, config, CPU).look(tiny_model(config))
    assert sorted(example.clips[0] for example in heard[-1]) == [0, 4, 8]


def test_the_best_look_is_remembered_and_those_since_are_counted(tiny_config):
    config, position = tiny_config(valid_clips=1, best_by="wer"), Position()
    better = []
    for step, wer in enumerate([math.nan, 0.9, 0.5, 0.6, 0.5, math.nan], 1):
        position.step = step
        better.append(is_better(Look(losses={"all": 1.0}, wers={"all": wer}), position, config))
    assert better == [False, True, True, False, False, False]
    assert (position.best, position.best_step, position.looks_since_best) == (0.5, 3, 3)
