"""The contract of every student family: registered, fake and broken."""

import numpy as np
import pytest
import torch
from peft import LoraConfig

from tests.support.lab import STUDENT, TEACHER
from trainer_ext.collator import PairCollator
from trainer_ext.loss.alignment import gather_response_states
from trainer_ext.pair_batch import PairBatch
from trainer_ext.students.distill_forward import HiddenStatesRequest, install_distill_forward
from trainer_ext.students.registry import STUDENTS, find_student_family, load_student_family

PUBLISHED = {
    "qwen2_5_omni": "tiny_omni",
    "qwen2_audio": "tiny_qwen2_audio",
    "qwen3_asr": "tiny_qwen3_asr",
    "voxtral": "tiny_voxtral",
}
REAL = [*PUBLISHED, "qwen2_5_omni_thinker"]


@pytest.fixture
def load(request, monkeypatch):
    """Load a family by its registered model type; returns it with its checkpoint."""

    def load_family(name):
        if name in PUBLISHED:
            checkpoint = str(request.getfixturevalue(PUBLISHED[name]))
        elif name == "qwen2_5_omni_thinker":
            checkpoint = STUDENT
        else:
            monkeypatch.setitem(STUDENTS, "qwen2", f"tests.support.fake_family:{name}")
            checkpoint = TEACHER
        return load_student_family(checkpoint), checkpoint

    return load_family


def check_encoder(family):
    """Assert the contract of `StudentEncoder`."""
    text = family.encode_text_prompt("What is two plus three?", "")
    assert text == family.encode_text_prompt("What is two plus three?", "")
    assert text != family.encode_text_prompt("What is two plus four?", "")
    lengths = [len(family.encode_speech_prompt(samples, "")) for samples in (3_200, 16_000, 64_000)]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) == (3 if family.padded_clip_seconds is None else 1)
    with pytest.raises(ValueError, match="too short"):
        family.encode_speech_prompt(10, "")
    about = [family.encode_audio_prompt(samples, "How many beeps?", "") for samples in (16_000, 64_000)]
    assert len(about[1]) - len(about[0]) == lengths[2] - lengths[1]
    assert about[0] != family.encode_audio_prompt(16_000, "How many dogs?", "")
    with pytest.raises(ValueError, match="too short"):
        family.encode_audio_prompt(10, "How many beeps?", "")
    response = family.encode_response("Five.")
    assert response[-1] == family.eos_token_id
    assert max(text + response) < family.vocab_size
    assert family.extract_features([]) == {}


@torch.no_grad()
def check_model(family, checkpoint, rows):
    """Assert the contract of `StudentArchitecture`: names, frozen parts, packing."""
    model = family.load_model(checkpoint, dtype=torch.float32)
    named = dict(model.named_parameters())
    for name, parameter in named.items():
        assert parameter.requires_grad != name.startswith(tuple(family.frozen_modules) or ("-",))
        assert family.to_memory_name(family.to_checkpoint_name(name)) == name
    for module in (family.head_module, f"{family.language_module}.layers"):
        model.get_submodule(module)
    family_class, config = find_student_family(checkpoint)
    empty = family_class.make_empty_model(config)
    shapes = {name: parameter.shape for name, parameter in empty.named_parameters()}
    assert {name: shapes[name] for name in named} == {name: p.shape for name, p in named.items()}
    assert sum(p.untyped_storage().nbytes() for p in empty.parameters()) < 1e5
    unloaded = family.load_unloaded_weights(model)
    assert set(shapes) - set(named) == set(unloaded)

    batch = PairBatch.split(PairCollator(family, None)(rows))
    padded = model.base_model(**batch.model_inputs, use_cache=False).last_hidden_state
    expected = gather_response_states(padded, batch.labels)
    install_distill_forward(model, family.packed_inputs)
    packed = model(**batch.model_inputs, distill=HiddenStatesRequest(batch.labels)).hidden_states
    assert (packed - expected).abs().max() < 1e-5 * expected.abs().max()


def test_every_registered_family_is_checked():
    """Prevents: a new family without a checkpoint for its contract."""
    assert set(REAL) == set(STUDENTS)


@pytest.mark.parametrize("name", [*REAL, "TextOnlyStudent"])
def test_a_family_keeps_the_contract(load, pairs, name):
    """Prevents: a family whose prompts, frozen parts, names or packing training and export cannot rely on."""
    family, checkpoint = load(name)
    check_encoder(family)
    check_model(family, checkpoint, [pairs["train"][i] for i in range(6)])


def test_the_contract_finds_a_broken_family(load, pairs):
    """Prevents: a contract that accepts everything."""
    family, checkpoint = load("CrossTalkStudent")
    with pytest.raises(AssertionError):
        check_model(family, checkpoint, [pairs["train"][i] for i in range(6)])


def test_a_strangers_family_is_trained_and_carded(load, make_trainer, tmp_path):
    """Prevents: a trainer, loss or card that knows one family by name."""
    family, checkpoint = load("TextOnlyStudent")
    model = family.load_model(checkpoint, dtype=torch.float32)
    lora = LoraConfig(target_modules=family.lora_target_modules)
    trainer = make_trainer(model=model, family=family, peft_config=lora, max_steps=2)
    before = {name: p.clone() for name, p in trainer.model.named_parameters() if "lora_B" in name}
    trainer.train()
    after = dict(trainer.model.named_parameters())
    assert any(not torch.equal(value, after[name]) for name, value in before.items())
    trainer.create_model_card()
    assert "It hears nothing." in (tmp_path / "run" / "README.md").read_text()
    assert np.isfinite(trainer.state.log_history[0]["loss"])
