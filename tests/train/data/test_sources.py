"""Every kind of source on a tiny real layout, opened through the one interface."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from serve.audio.decode import AudioLimits, decode_audio
from serve.audio.samples import SAMPLE_RATE
from train.data.filters import DropLog
from train.data.sources import read_held_out, read_source, source_fingerprint
from train.data.specs import parse_spec
from train.errors import DataError

SENTENCES = ["पाऊस आला", "ती घरी गेली", "आज सुट्टी आहे", "मला चहा हवा", "रस्ता लांब आहे", "तो झोपला"]


def read(text, purpose="train", log=None):
    return list(
        read_source(parse_spec(text), purpose, "mr", log if log is not None else DropLog(strict=True))
    )


def texts(text, purpose="train"):
    return [record.text for record in read(text, purpose)]


def duration_s(record):
    data = record.audio.read_bytes() if isinstance(record.audio, Path) else record.audio
    return len(decode_audio(data, AudioLimits())) / SAMPLE_RATE


def test_a_manifest_gives_its_rows_with_file_and_line(wavs):
    records = read(f"{wavs}/clips.jsonl")
    assert records[2].origin == f"{wavs}/clips.jsonl:3" and records[2].voice == "v2"
    assert duration_s(records[2]) == pytest.approx(1.2)


def test_common_voice_trains_on_train_and_validation_and_tests_on_test(common_voice):
    assert texts(f"commonvoice:{common_voice}") == SENTENCES[:4]
    assert texts(f"commonvoice:{common_voice}", "valid") == SENTENCES[2:4]
    assert texts(f"commonvoice:{common_voice}", "test") == SENTENCES[4:]
    assert texts(f"commonvoice:{common_voice}?split=train") == SENTENCES[:2]
    (first, *_) = read(f"commonvoice:{common_voice.parent}")  # the language's directory is found below
    assert (first.voice, first.language) == ("speaker0", "mr")
    assert first.origin == f"{common_voice}/train.tsv:2"
    assert duration_s(first) == pytest.approx(1.0, abs=0.1)


def test_a_quotation_mark_in_a_sentence_ends_no_line_of_common_voice(common_voice):
    with (common_voice / "train.tsv").open("a", encoding="utf-8") as table:
        table.write('s\tcv_0.mp3\t"हो" म्हणाला\tmr\ns\tcv_1.mp3\t"नाही\tmr\n')
    assert texts(f"commonvoice:{common_voice}?split=train")[2:] == ['"हो" म्हणाला', '"नाही']


def test_a_broken_line_of_a_table_is_named_and_the_others_are_read(common_voice):
    with (common_voice / "train.tsv").open("ab") as table:
        table.write(
            "s\tcv_0.mp3\n\ns\tcv_1.mp3\tशेवट\tmr\ns\tcv_1.mp3\t\xff\tmr\n".encode("latin-1", "replace")
        )
    log = DropLog()
    assert len(read(f"commonvoice:{common_voice}?split=train", log=log)) == 3
    assert [(drop.origin.rpartition(":")[2], str(drop.reason)) for drop in log.dropped] == [
        ("4", "malformed row"),
        ("5", "empty line"),
        ("7", "malformed row"),
    ]
    with pytest.raises(DataError, match=r"train\.tsv:4: the line has 2 cells, the header 4"):
        read(f"commonvoice:{common_voice}?split=train")


def test_what_is_no_release_is_said(tmp_path):
    with pytest.raises(DataError, match="holds no Common Voice release for 'mr'"):
        read(f"commonvoice:{tmp_path}")


def test_a_folder_has_transcripts_beside_its_recordings(wavs):
    (wavs / "clips.jsonl").unlink()
    for number in range(7):
        (wavs / f"{number}.txt").write_text(f"वाक्य {number}\n", encoding="utf-8")
    log = DropLog()
    records = read(f"folder:{wavs}", log=log)
    assert [record.text for record in records] == [f"वाक्य {number}" for number in range(7)]
    assert records[0].origin == f"{wavs}/0.txt:1"
    assert [drop.detail for drop in log.dropped] == ["no transcript 7.txt lies beside it"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.csv", 'file_name,transcription\n0.wav,"हो, आला"\n1.wav,गेली\n'),
        ("transcripts.tsv", "file_name\ttext\tspeaker\n0.wav\tहो, आला\tasha\n1.wav\tगेली\tasha\n"),
    ],
)
def test_a_folder_may_list_its_transcripts_in_one_table(wavs, name, content):
    (wavs / name).write_text(content, encoding="utf-8")
    records = read(f"folder:{wavs}")
    assert [(r.audio, r.text) for r in records] == [(wavs / "0.wav", "हो, आला"), (wavs / "1.wav", "गेली")]
    assert records[1].origin == f"{wavs}/{name}:3"


@pytest.mark.parametrize(
    "rows",
    [
        '0.wav,हो\n1.wav,"गेली\n2.wav,आज\n3.wav,मला\n',
        '0.wav,हो\n1.wav,"गेली\n2.wav,आज"\n3.wav,मला\n',
        '0.wav,हो\n1.wav,"गेली\n2.wav,"आज, सुट्टी"\n3.wav,मला\n',
        '0.wav,हो\n1.wav,"गेली\n' + "2.wav,आज\n" * 20_000,  # more than the reader takes for a cell
    ],
)
def test_a_quotation_mark_too_few_swallows_no_rows_of_a_table(wavs, rows):
    (wavs / "metadata.csv").write_text(f"file_name,text\n{rows}", encoding="utf-8")
    with pytest.raises(DataError, match=r"metadata\.csv:3: .*quotation mark"):
        read(f"folder:{wavs}", log=DropLog())


def test_a_line_with_a_stray_quotation_mark_is_named_and_the_others_are_read(wavs):
    rows = '0.wav,"हो" आला\n1.wav,ती "घरी" गेली\n2.wav,"ती ""घरी"" गेली"\n3.wav,"मला'
    (wavs / "metadata.csv").write_text(f"file_name,text\n{rows}\n", encoding="utf-8")
    log = DropLog()
    assert [record.text for record in read(f"folder:{wavs}", log=log)] == ['ती "घरी" गेली'] * 2
    assert [(drop.origin.rpartition(":")[2], str(drop.reason)) for drop in log.dropped] == [
        ("2", "malformed row"),
        ("5", "malformed row"),
    ]


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_transcripts_of_any_editor_are_read_without_mark_and_line_end(wavs, encoding):
    (wavs / "clips.jsonl").unlink()
    for number in range(8):
        (wavs / f"{number}.txt").write_bytes(f"वाक्य {number}\r\nपुढे\r\n".encode(encoding))
    assert texts(f"folder:{wavs}") == [f"वाक्य {number} पुढे" for number in range(8)]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.csv", 'file_name,transcription\r\n0.wav,"हो, आला"\r\n1.wav,गेली\r\n'),
        ("transcripts.tsv", "file_name\ttext\r\n0.wav\tहो, आला\r\n1.wav\tगेली\r\n"),
        ("metadata.csv", 'file_name,transcription\r\n0.wav,"हो,\r\nआला"\r\n1.wav,\ufeffगेली\r\n'),
    ],
)
def test_tables_of_any_editor_are_read_without_mark_and_line_end(wavs, name, content, encoding):
    (wavs / name).write_bytes(content.encode(encoding))
    records = read(f"folder:{wavs}")
    assert [(r.audio, r.text) for r in records] == [(wavs / "0.wav", "हो, आला"), (wavs / "1.wav", "गेली")]


def test_common_voice_with_a_mark_is_read(common_voice):
    table = common_voice / "train.tsv"
    table.write_bytes(table.read_text(encoding="utf-8").replace("\n", "\r\n").encode("utf-16"))
    assert texts(f"commonvoice:{common_voice}?split=train") == SENTENCES[:2]


def test_a_transcript_that_is_not_what_its_mark_says_is_named(wavs):
    (wavs / "0.txt").write_bytes(b"\xff\xfeabc")
    log = DropLog()
    read(f"folder:{wavs}", log=log)
    assert log.dropped[0].origin == f"{wavs}/0.txt:1"
    assert "the transcript cannot be read: 'utf-16" in log.dropped[0].detail


def test_what_file_managers_leave_behind_is_no_recording_and_changes_nothing(wavs, tmp_path, monkeypatch):
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path / "ml"))
    channel = tmp_path / "ml" / "input" / "data" / "train"
    shutil.copytree(wavs, channel)
    for number in range(8):
        (channel / f"{number}.txt").write_text(f"वाक्य {number}", encoding="utf-8")
    before = [source_fingerprint(parse_spec(f"folder:{channel}"), "train", "mr")]
    before += [texts("channel:train"), texts(f"folder:{channel}")]
    (channel / "__MACOSX").mkdir()
    for name in ("._0.wav", "._clips.jsonl", ".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX/1.wav"):
        (channel / name).write_bytes(b"\x00\x05\x16\x07")
    (channel / "._a.parquet").write_bytes(b"\x00\x05\x16\x07")
    after = [source_fingerprint(parse_spec(f"folder:{channel}"), "train", "mr")]
    after += [texts("channel:train"), texts(f"folder:{channel}")]
    assert after == before and len(after[2]) == 8


def test_the_layout_of_openslr_is_a_folder(wavs):
    (wavs / "line_index.tsv").write_text("mrt_02436_00011399801\tपाऊस आला\n", encoding="utf-8")
    (record,) = read(f"folder:{wavs}")
    assert (record.audio.name, record.voice) == ("mrt_02436_00011399801.wav", "mrt_02436")


@pytest.mark.parametrize("streaming", ["false", "true"])
def test_a_repository_of_the_hub_gives_the_bytes_that_were_uploaded(parquet, wavs, streaming):
    (first, _) = read(f"hf:{parquet}:mr_in?streaming={streaming}")
    assert first.audio == (wavs / "0.wav").read_bytes()
    assert (first.text, first.voice, first.language) == (SENTENCES[0], "7", "mr")
    assert first.origin.endswith("/train:1")
    assert texts(f"hf:{parquet}:mr_in?split=train+validation&streaming={streaming}") == SENTENCES[:3]


@pytest.mark.parametrize("streaming", ["false", "true"])
def test_a_preset_knows_parts_splits_and_columns(parquet, streaming):
    spec = f"fleurs?repo={parquet}&streaming={streaming}"
    assert texts(spec) == SENTENCES[:2]
    assert texts(spec, "valid") == SENTENCES[2:3]
    assert texts(spec, "test") == SENTENCES[3:4]


def test_what_the_hub_cannot_give_is_said_with_what_to_do(parquet):
    with pytest.raises(DataError, match=r"split later, cannot be loaded: .*later.*folder:DIR"):
        read(f"fleurs?repo={parquet}&split=later")
    with pytest.raises(DataError, match=r"mozilladatacollective\.com, unpack it.*commonvoice:DIR"):
        read("common_voice")
    with pytest.raises(DataError, match=r"cannot be loaded: .*mozilladatacollective\.com"):
        read(f"common_voice_17?repo={parquet}/nowhere")
    with pytest.raises(DataError, match="openslr64 has no part for test"):
        read("openslr64", "test")
    (parquet / "mr_in").rename(parquet / "marathi")
    with pytest.raises(
        DataError, match=r"no column holds audio; there are audio, .* expected audio_filepath"
    ):
        read(f"kathbath?repo={parquet}")


def test_a_sagemaker_channel_is_told_by_what_it_holds(tmp_path, wavs, common_voice, parquet, monkeypatch):
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path / "ml"))
    data = tmp_path / "ml" / "input" / "data"
    shutil.copytree(common_voice, data / "release")
    shutil.copytree(parquet / "mr_in", data / "hub")
    shutil.copytree(wavs, data / "rows")
    shutil.copytree(wavs, data / "several")
    (data / "several" / "clips.jsonl").rename(data / "several" / "train.jsonl")
    shutil.copy(wavs / "clips.jsonl", data / "several" / "test-a.jsonl")
    assert texts("channel:release", "test") == SENTENCES[4:]
    assert texts("channel:hub") == SENTENCES[:2]
    assert len(texts("channel:rows")) == 8
    assert read("channel:several")[0].origin.endswith("several/train.jsonl:1")
    (data / "rows" / "clips.jsonl").unlink()
    (data / "rows" / "0.txt").write_text("पाऊस", encoding="utf-8")
    assert len(read("channel:rows", log=DropLog())) == 1
    with pytest.raises(
        DataError, match=r"no channel is named 'valid' in .*channels: hub, release, rows, several"
    ):
        read("channel:valid")


def test_held_out_sentences_and_voices_are_read_from_any_source(common_voice):
    held_out = read_held_out([f"commonvoice:{common_voice}"], "test", "mr")
    assert set(held_out.voices) == {"speaker2"} and len(held_out.sentences) == 2
    assert not read_held_out([f"commonvoice:{common_voice}"], "test", "mr", voices=False).voices


def test_a_changed_table_changes_the_fingerprint(wavs, common_voice):
    for text, table in (
        (f"{wavs}/clips.jsonl", wavs / "clips.jsonl"),
        (f"commonvoice:{common_voice}", common_voice / "dev.tsv"),
    ):
        before = source_fingerprint(parse_spec(text), "train", "mr")
        assert source_fingerprint(parse_spec(text), "train", "mr") == before
        table.write_text(table.read_text("utf-8") + "\n", encoding="utf-8")
        assert source_fingerprint(parse_spec(text), "train", "mr") != before
