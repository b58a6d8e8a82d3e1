"""Tests of the CTC training of a tower's new layers and projector."""

import pytest
import torch
from align import AlignCollator, Aligner, read_clips, train_aligner
from align_memory import plan_align
from thinker import load_thinker
from tower_states import StatesOnDisk, write_states
from transformers import TrainingArguments

from data_builders.audio import decode_speech
from tests.support.lab import STUDENT
from tests.support.quiet_training import QUIET
from trainer_ext.memory.tracker import LiveTensorBytes

FROZEN = 1


@pytest.fixture
def model():
    return load_thinker(STUDENT).float()


@pytest.fixture
def states(model, family, pairs, tmp_path):
    """The states of eight clips after the first layer."""
    write_states(model, FROZEN, family, pairs["train"].select(range(8)), tmp_path / "states")
    return StatesOnDisk(tmp_path / "states", model.config.audio_config.d_model, family)


def test_the_trained_part_computes_what_the_tower_computes(model, states, family, pairs):
    """Prevents: a projector that is trained on other states than those it gets later."""
    collator = AlignCollator(states)
    aligner = make_aligner(model.model.audio_tower, collator)
    rows = pairs["train"].select(range(8))
    clips = [decode_speech(row["speech"], row["id"]) for row in rows]
    with torch.no_grad():
        wanted = model.get_audio_features(**family.extract_features(clips)).last_hidden_state
        batch = collator([states[i] for i in range(8)])
        _, found = aligner.run_layers(batch["states"], batch["frames"])
    assert [len(clip) for clip in found] == [family.count_audio_tokens(len(clip)) for clip in clips]
    torch.testing.assert_close(torch.cat(found), wanted, rtol=0, atol=0.02)  # states are kept in float16


def test_a_killed_training_ends_as_an_uninterrupted_one(states, tmp_path):
    """Prevents: half an hour of CTC lost to a kill, or a second training on top of the first one."""

    def train(folder, stop_at=None):
        torch.manual_seed(0)
        aligner = make_aligner(load_thinker(STUDENT).float().model.audio_tower, collator)
        saves = {**QUIET, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 1}
        del saves["activation_checkpointing"]
        arguments = TrainingArguments(str(tmp_path / folder), max_steps=6, per_device_train_batch_size=4, **saves)
        train_aligner(
            aligner, states if stop_at is None else Failing(states, stop_at), collator, arguments, {"seed": 0}
        )
        return aligner.state_dict()

    collator = AlignCollator(states)
    whole = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("killed", stop_at=18)
    resumed = train("killed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_it_learns_to_read_clips(states, family):
    """Prevents: classes that are off by one, a blank that is a token, frames of one clip in another."""
    torch.manual_seed(0)
    collator = AlignCollator(states)
    aligner = make_aligner(load_thinker(STUDENT).float().model.audio_tower, collator)
    optimizer = torch.optim.AdamW(aligner.parameters(), lr=3e-3)
    batch = collator([states[i] for i in range(8)])
    for _ in range(150):
        loss = aligner(**batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    read, spelled = read_clips(aligner, states, collator, family.tokenizer)
    assert sum(found == text for found, text in zip(read, states.texts, strict=True)) >= 6
    assert sum(found == text for found, text in zip(spelled, states.letters, strict=True)) >= 6


def test_the_plan_of_a_step_is_near_what_it_allocates(model, states, family):
    """Prevents: a batch that a GPU has no room for, found when the longest clips meet."""
    collator = AlignCollator(states)
    aligner = make_aligner(model.model.audio_tower, collator)
    batch = collator([states[i] for i in range(8)])
    plan = plan_align(aligner, states, 8, model)
    with LiveTensorBytes([*model.parameters(), *aligner.parameters(), *aligner.buffers(), *batch.values()]) as live:
        aligner(**batch)["loss"].backward()
    assert plan["activations"] + plan["logits"] + plan["gradients"] == pytest.approx(live.peak, rel=0.3)


def make_aligner(tower, collator):
    embeddings = load_thinker(STUDENT).float().get_input_embeddings().weight.detach()
    return Aligner(tower, FROZEN, embeddings[collator.tokens.names], len(collator.letters.names))


class Failing(torch.utils.data.Dataset):
    """Clips of which the `at`-th that is asked for stops the process."""

    def __init__(self, clips, at):
        self.clips, self.left = clips, at

    def __len__(self):
        return len(self.clips)

    def __getitem__(self, index):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return self.clips[index]
