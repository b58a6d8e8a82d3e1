"""Tests of the channel a2t: questions about sounds, whose teacher is the untouched student."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, Features, concatenate_datasets
from peft import LoraConfig

from data_builders.audio import encode_speech
from data_builders.schema import CHANNELS, FEATURES, SOUND_FEATURES, SPEECH_RATE_HZ
from trainer_ext.collator import PairCollator
from trainer_ext.pair_batch import PairBatch
from trainer_ext.row_validation import check_rows

ALL = list(CHANNELS)
COLUMNS = Features({**FEATURES, **SOUND_FEATURES})


def make_sound(number: int, **cells) -> dict:
    """Return a row that asks about beeps."""
    seconds = 1.0 + number / 4
    time = np.arange(int(seconds * SPEECH_RATE_HZ)) / SPEECH_RATE_HZ
    beeps = 0.2 * np.sin(2 * np.pi * 440 * (number + 1) * time) * (time % 0.5 < 0.25)
    row = dict.fromkeys(COLUMNS) | {
        "id": f"sound-{number}", "source": "sounds", "system": "", "question": "What is two plus three?",
        "teacher_response": "Five.", "channels": ["a2t"], "audio_seconds": seconds,
        "audio": {"bytes": encode_speech(beeps.astype(np.float32)), "path": None},
    }  # fmt: skip
    return row | cells


def make_rows(rows) -> Dataset:
    return Dataset(pa.Table.from_pylist(list(rows), schema=COLUMNS.arrow_schema))


@pytest.fixture(scope="module")
def sounds():
    return make_rows(make_sound(number) for number in range(6))


@pytest.fixture(scope="module")
def mixed(pairs, sounds):
    """Questions in writing and in speech, and questions about sounds."""
    return concatenate_datasets([pairs["train"].select(range(6)), sounds])


@pytest.fixture
def make(make_trainer, family, mixed):
    """Make a trainer of all channels."""

    def make_all(**arguments):
        lora = LoraConfig(target_modules=family.lora_target_modules, lora_dropout=0.5)
        return make_trainer(**{"channels": ALL, "train_dataset": mixed, "peft_config": lora} | arguments)

    return make_all


def loss_of(trainer, rows) -> tuple[float, list[torch.Tensor]]:
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
    loss.backward()
    return loss.item(), [p.grad.clone() for p in trainer.model.parameters() if p.grad is not None]


def test_a_batch_asks_about_sounds_last_and_the_text_teacher_reads_none_of_them(family, teacher, mixed):
    """Prevents: a text LLM that teaches what a sound is by guessing."""
    rows = [mixed[number] for number in (6, 0, 7, 1)]
    batch = PairCollator(family, teacher.encoder, CHANNELS)(rows)
    assert [CHANNELS[index] for index in batch["channel_index"]] == ["t2t", "t2t", "s2t", "s2t", "a2t", "a2t"]
    assert batch["teacher_input_ids"].shape[0] == 2
    assert len(batch["input_features"]) == 4
    last = batch["input_ids"][-1][batch["attention_mask"][-1].bool()]
    assert "What is two plus three?" in family.tokenizer.decode(last)
    assert (last == family.config.audio_token_id).sum() == family.count_audio_tokens(int(1.25 * SPEECH_RATE_HZ))
    split = PairBatch.split(batch)
    inputs, labels = split.select_sounds()
    assert torch.equal(inputs["input_features"], batch["input_features"][2:])
    assert torch.equal(labels, batch["labels"][4:])
    pairs = int((split.labels[:4] >= 0).sum())
    assert split.teacher_index()[:pairs].max() < int((batch["teacher_labels"] >= 0).sum())


@pytest.mark.parametrize("kind", ["model", "self", "stored"])
def test_an_untrained_student_agrees_with_itself_about_sounds_alone(make, kind):
    """Prevents: a text teacher's, or another clip's, distribution for a sound."""
    trainer = make(teacher_kind=kind, per_device_train_batch_size=12, max_steps=1)
    trainer.train()
    logged = next(entry for entry in trainer.state.log_history if "a2t/kl" in entry)
    assert logged["a2t/kl"] == pytest.approx(0, abs=1e-5)
    assert logged["a2t/ce"] > 0.1
    assert logged["s2t/kl"] > 0.01


def test_the_teacher_of_sounds_does_not_move_with_its_student(make, mixed):
    """Prevents: a teacher that forgets what its student forgets."""
    trainer = make()
    sounds = PairBatch.split(trainer.data_collator([mixed[6], mixed[7]])).select_sounds()
    before = trainer.untouched.hidden_states(*sounds)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    assert torch.equal(trainer.untouched.hidden_states(*sounds), before)
    assert trainer.model.training


def test_the_loss_of_a_mixed_batch_is_that_of_its_parts(make, mixed):
    """Prevents: tokens of one channel compared with the teacher of another."""
    trainer = make(peft_config=LoraConfig(target_modules=r".*language_model\.layers\..*\.q_proj"))
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.01)
    rows = [mixed[number] for number in (6, 0, 7, 1)]
    parts = [[row for row in rows if (row["channels"] == ["a2t"]) == sound] for sound in (False, True)]
    tokens = [int((PairBatch.split(trainer.data_collator(part)).labels >= 0).sum()) for part in parts]
    (whole, gradients), *separate = (loss_of(trainer, part) for part in (rows, *parts))
    expected = sum(n * loss for n, (loss, _) in zip(tokens, separate, strict=True)) / sum(tokens)
    assert whole == pytest.approx(expected, rel=1e-5)
    for gradient, *halves in zip(gradients, *(found for _, found in separate), strict=True):
        mean = sum(n * half for n, half in zip(tokens, halves, strict=True)) / sum(tokens)
        assert (gradient - mean).norm() < 1e-4 * max(mean.norm(), 1e-6)


def test_sounds_are_trained_on_answers_alone_without_a_teacher(make):
    """Prevents: an untouched copy that a run without KL does not need."""
    trainer = make(teacher_kind="none", teacher=None, max_steps=1)
    trainer.train()
    assert trainer.untouched is None


def test_a_full_fine_tune_has_no_untouched_student(make):
    """Prevents: a student that is its own teacher while it changes."""
    with pytest.raises(ValueError, match="channel 'a2t' needs the student with its adapters switched off"):
        make(peft_config=None)


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"audio": None}, "it trains a2t but has no audio or no audio_seconds"),
        ({"audio_seconds": 9.0}, "its audio is 1.00 s long, and audio_seconds says 9.00"),
        ({"channels": ["a2t", "t2t"]}, "make two rows of it"),
    ],
)
def test_a_row_that_cannot_be_heard_is_left_out_by_its_reason(family, mixed, cells, reason):
    """Prevents: an error in the middle of an epoch."""
    spoiled = make_rows([make_sound(0, **cells)])
    checked = check_rows(concatenate_datasets([mixed, spoiled]), family, None, ALL, "teacher")
    (rejected,) = checked.rejected.values()
    assert reason in rejected.detail


def test_a_data_set_without_sounds_is_refused_for_a_run_with_them(family, pairs):
    """Prevents: a run that trains two channels of three without a word."""
    with pytest.raises(ValueError, match="no column audio, audio_seconds"):
        check_rows(pairs["train"], family, None, ALL, "teacher")
