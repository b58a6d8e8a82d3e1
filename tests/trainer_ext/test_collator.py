"""Tests of collating rows into a pair batch."""

import numpy as np
import pytest
import torch

from data_builders.audio import encode_speech
from tests.support.gradients import TOLERANCE, difference, gradients
from trainer_ext.collator import PairCollator
from trainer_ext.loss.alignment import IGNORE_INDEX


def test_a_batch_without_speech_gets_a_silent_row(family, pairs, teacher):
    """Prevents: a hang of sharded training when one process runs the audio tower and another does not."""
    rows = [{**row, "channels": ["t2t"]} for row in pairs["train"].select(range(3))]
    batch = PairCollator(family, teacher.encoder)(rows)
    assert batch["input_features"].shape[0] == 1
    assert batch["channel_index"] == [0, 0, 0, 1]
    assert (batch["labels"][-1] == IGNORE_INDEX).all()
    text_alone = PairCollator(family, teacher.encoder, channels=("t2t",))(rows)
    assert "input_features" not in text_alone


@pytest.mark.parametrize("kind", ["model", "stored"])
def test_the_silent_row_has_no_gradient(make_trainer, pairs, kind):
    """Prevents: a gradient from a row that exists only to run the audio tower."""
    rows = pairs["train"].map(lambda row, i: {"channels": ["t2t"] if i < 3 else row["channels"]},
                              with_indices=True)  # fmt: skip
    trainer = make_trainer(train_dataset=rows, teacher_kind=kind)
    batch = [trainer.train_dataset[i] for i in range(3)]
    with_silence = trainer.data_collator(batch)
    assert "input_features" in with_silence
    trainer.data_collator.channels = ("t2t",)
    without = trainer.data_collator(batch)
    assert "input_features" not in without
    assert difference(gradients(trainer, [with_silence]), gradients(trainer, [without])) < TOLERANCE


@pytest.mark.parametrize(
    ("seconds", "stated", "message"),
    [
        (40.0, 1.0, "its speech is 40.0 s long, and the student takes 30 s at most"),
        (2.0, 3.0, "speech_seconds says 3.00"),
    ],
)
def test_a_clip_of_another_length_than_its_row_says_is_named(make_trainer, pairs, seconds, stated, message):
    """Prevents: a 40 s clip that says one second, which the checks and the memory plan never saw; a cut clip."""
    clip = {"bytes": encode_speech(np.full(round(16_000 * seconds), 0.1, dtype=np.float32)), "path": None}
    row = {**pairs["train"][0], "speech": clip, "speech_seconds": stated}
    with pytest.raises(ValueError, match=f"row {row['id']}: .*{message}"):
        make_trainer().data_collator([row])


def test_rows_of_similar_length_share_a_batch(make_trainer, pairs):
    """Prevents: the failure of `group_by_length`, which looks for a column that data sets of pairs lack."""
    trainer = make_trainer(train_sampling_strategy="group_by_length", per_device_train_batch_size=2)
    lengths = torch.tensor(trainer.train_dataset["length"])
    order = torch.tensor(list(trainer._get_train_sampler(trainer.train_dataset)))
    grouped = lengths[order][: len(order) // 2 * 2].view(-1, 2)
    spread = (grouped[:, 0] - grouped[:, 1]).abs().float().median()
    apart_at_random = (lengths[:, None] - lengths).abs().float().mean()
    assert spread < apart_at_random / 2
    batch = trainer.data_collator([trainer.train_dataset[0]])
    assert int(batch["attention_mask"].sum()) == lengths[0]
    trainer.train()
