"""Tests that invalid rows and arguments stop a run before training."""

import copy
import io
import json

import numpy as np
import psutil
import pytest
import soundfile
from datasets import Dataset
from tokenizers import Tokenizer

from data_builders.audio import encode_speech
from tests.support.bad_clips import claim_samples, make_wav
from trainer_ext.arguments import CrossModalDistillConfig
from trainer_ext.row_validation import sample_clips
from trainer_ext.teachers.prompts import TeacherPromptEncoder

CLIP = encode_speech(np.random.default_rng(0).normal(scale=0.1, size=16_000).astype(np.float32))


def spoil(dataset, number: int, **cells):
    """Return the data set with some cells of one row changed."""
    return dataset.map(lambda row, i: cells if i == number else {}, with_indices=True)


def damaged(content: bytes, seconds: float = 1.0) -> dict:
    return {"speech": {"bytes": content, "path": None}, "speech_seconds": seconds}


def speech(seconds: float) -> dict:
    samples = np.full(round(16000 * seconds), 0.1, dtype=np.float32)
    return {"speech": {"bytes": encode_speech(samples), "path": None}, "speech_seconds": seconds}


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"question": "  "}, "its question is empty"),
        ({"teacher_response": ""}, "its teacher_response is empty"),
        ({"channels": ["t2t", "tts"]}, "unknown channel 'tts'"),
        (damaged(make_wav(np.zeros(0), 16_000), 0.0), "zero length"),
        ({"speech": None}, "it trains s2t but has no speech"),
        (speech(31.0), "31.0 s long"),
        (speech(0.01), "too short"),
        (damaged(CLIP[: len(CLIP) // 2]), "its speech cannot be read"),
        (damaged(make_wav(np.zeros(16_000), 16_000)[:20_000]), r"is 0.62 s long, and speech_seconds says 1.00"),
        (damaged(make_wav(np.zeros(15_000), 1)), "has 1 samples per second"),
        (damaged(claim_samples(CLIP, 2**36 - 1)), r"its header claims 4294967.3 s"),
        (damaged(make_wav(np.full(16_000, np.nan), 16_000, "FLOAT")), "it is not sound"),
        ({"speech": {"bytes": None, "path": "/dev/zero"}}, "/dev/zero is no regular file"),
    ],
)
def test_a_bad_row_is_set_aside_or_stops_a_strict_run(make_trainer, pairs, cells, message):
    """Prevents: a failure at step 9,000 of 10,000, or a row skipped without notice."""
    row_id = pairs["train"][3]["id"]
    rows = spoil(pairs["train"], 3, **cells)
    trainer = make_trainer(train_dataset=rows)
    assert list(trainer.checked_rows.rejected) == [row_id]
    assert row_id not in trainer.train_dataset["id"]
    assert len(trainer.train_dataset) == len(trainer.checked_rows.lengths) == len(rows) - 1
    with pytest.raises(ValueError, match=f"strict allows none.\n  row {row_id}: .*{message}"):
        make_trainer(train_dataset=rows, strict=True)


def test_a_run_stops_where_most_rows_are_bad_and_names_them_all(make_trainer, pairs):
    """Prevents: a night on a tenth of the data, after a column was mapped wrongly; and errors one after the other."""
    rows = pairs["train"].map(lambda row, i: {"question": ""} if i % 3 else {}, with_indices=True)
    bad = [row["id"] for i, row in enumerate(rows) if i % 3]
    with pytest.raises(ValueError, match=f"{len(bad)} of {len(rows)} rows cannot be trained on") as caught:
        make_trainer(train_dataset=rows)
    assert all(f"row {row_id}: its question is empty" in str(caught.value) for row_id in bad)
    assert len(make_trainer(train_dataset=rows, max_rejected_share=0.9).train_dataset) == len(rows) - len(bad)


def test_a_missing_column_is_named(make_trainer, pairs):
    """Prevents: a KeyError from inside a data loader's worker."""
    with pytest.raises(ValueError, match="no column teacher_response"):
        make_trainer(train_dataset=pairs["train"].remove_columns("teacher_response"))


def test_gold_targets_need_gold_answers(make_trainer, pairs):
    """Prevents: training on gold answers with a data set that has none."""
    with pytest.raises(ValueError, match=r"gold_response is empty.*|its gold_response is empty"):
        make_trainer(train_dataset=spoil(pairs["train"], 0, gold_response=None), hard_targets="gold", strict=True)


def test_a_run_on_speech_needs_rows_with_speech(make_trainer, pairs):
    """Prevents: an s2t run over text rows that trains on nothing."""
    written = pairs["train"].map(lambda row: {"channels": ["t2t"]})
    with pytest.raises(ValueError, match="no row of the data set trains channel 's2t'"):
        make_trainer(train_dataset=written, channels=["s2t"])


def test_a_teacher_with_other_ids_is_refused(make_trainer, teacher, monkeypatch):
    """Prevents: a KL towards another word's probability."""
    tokenizer = teacher.encoder.tokenizer
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = content["model"]["vocab"]
    a, b = list(vocabulary)[-2:]
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
    backend = Tokenizer.from_str(json.dumps(content))
    other = type(tokenizer)(tokenizer_object=backend, eos_token=tokenizer.eos_token, pad_token=tokenizer.pad_token)
    other.chat_template = tokenizer.chat_template
    monkeypatch.setattr(teacher, "encoder", TeacherPromptEncoder(other))
    with pytest.raises(ValueError, match=r"the teacher's vocabulary .* is not the student's"):
        make_trainer()


def test_a_teacher_that_ends_its_turns_otherwise_is_refused(make_trainer, teacher, pairs, monkeypatch):
    """Prevents: a teacher without instruction tuning, which ends on another token than the student."""
    other = copy.deepcopy(teacher.encoder.tokenizer)
    other.eos_token = next(t for t in other.get_added_vocab() if t != other.eos_token)
    monkeypatch.setattr(teacher, "encoder", TeacherPromptEncoder(other))
    with pytest.raises(ValueError, match="tokenizers disagree on response token") as caught:
        make_trainer()
    assert any(row_id in str(caught.value) for row_id in pairs["train"]["id"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": -1.0}, "temperature must be above 0"),
        ({"kl_weight": -0.1}, "kl_weight must be above 0"),
        ({"kl_weight": 0.0}, "set teacher_kind: none"),
        ({"teacher_kind": "live"}, "teacher_kind must be one of model, self, stored, none"),
        ({"divergence": "kl"}, "divergence must be one of forward_kl"),
        ({"divergence": "jsd", "beta": 1.0}, "beta must be between 0 and 1"),
        ({"channels": ["t2t", "speech"]}, "unknown channel 'speech'"),
        ({"channels": []}, "channels is empty"),
        ({"hard_targets": "silver"}, "hard_targets must be one of"),
        ({"hub_token": "hf_secret"}, "hub_token is refused"),
        ({"packing": True}, "packing"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps must be 1 or more"),
        ({"max_steps": 0}, "max_steps must be above 0"),
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"nonsense": 1}}, "lr_scheduler_kwargs: .*nonsense"),
        ({"optim_target_modules": ["q_proj"]}, "optim_target_modules is for galore"),
        ({"trust_remote_code": True}, "trust_remote_code is refused"),
        (
            {"push_to_hub": True, "hub_strategy": "all_checkpoints"},
            "hub_strategy is one of end, every_save, checkpoint",
        ),
    ],
)
def test_a_bad_argument_is_refused_by_name(tmp_path, arguments, message):
    """Prevents: training with a negative temperature, which runs and unlearns."""
    with pytest.raises(ValueError, match=message) as caught:
        CrossModalDistillConfig(output_dir=str(tmp_path), report_to="none", **arguments)
    assert "hf_secret" not in str(caught.value)


def test_the_trainer_gets_the_kind_of_teacher_its_arguments_name(make_config, student, family, teacher, pairs):
    """Prevents: training something else without a teacher, or wasting half of the GPU on a needless one."""
    from trainer_ext.trainer import CrossModalDistillTrainer

    for given, kind in ((None, "model"), (teacher, "none"), (teacher, "stored")):
        with pytest.raises(ValueError, match=f"teacher_kind is '{kind}', but the teacher given"):
            CrossModalDistillTrainer(student, make_config(teacher_kind=kind), family, given, pairs["train"])


def test_a_row_longer_than_max_length_is_named_and_never_cut(make_trainer, pairs):
    """Prevents: cutting through the audio tokens or the answer."""
    with pytest.raises(ValueError, match="more than max_length=20") as caught:
        make_trainer(max_length=20)
    assert any(row_id in str(caught.value) for row_id in pairs["train"]["id"])


def test_a_clip_that_is_damaged_in_its_middle_is_named(make_trainer, pairs):
    """Prevents: a damaged frame skipped, or an error that names no row."""
    content = bytearray(pairs["train"][0]["speech"]["bytes"])
    content[len(content) // 2 : len(content) // 2 + 2000] = bytes(2000)
    broken = spoil(pairs["train"], 0, speech={"bytes": bytes(content), "path": None})
    trainer = make_trainer(train_dataset=broken.select([0]), per_device_train_batch_size=1)
    with pytest.raises(ValueError, match=f"row {broken[0]['id']}: its speech cannot be read"):
        trainer.train()


def test_stereo_at_another_rate_is_read_as_mono_at_16_khz(family, pairs):
    """Prevents: 48 kHz read as 16 kHz, which is three times too slow and still trains."""
    from data_builders.audio import decode_speech

    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros((48000, 2), dtype=np.float32), 48000, format="WAV")
    assert decode_speech({"bytes": buffer.getvalue(), "path": None}, "x").shape == (16000,)


def test_the_clips_of_a_data_set_are_not_copied_into_memory_at_once():
    """Prevents: 2.9 GB for 100,000 clips of a second before a run starts."""
    clips = [{"bytes": bytes([number % 256]) * 100_000, "path": None} for number in range(1024)]
    rows = Dataset.from_dict({"speech": clips})
    del clips
    process, most, sizes = psutil.Process(), 0, 0
    before = process.memory_info().rss
    for clip in sample_clips(rows):
        most = max(most, process.memory_info().rss - before)
        sizes += clip.size
    assert sizes == 1024 * 100_000
    assert most < sizes / 4
