"""Tests of every family of tower, projector and language model: training, reloading, quantizing, export."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel

from data_builders.chat import hash_vocabulary
from data_builders.hub.folders import make_upload
from data_builders.pretrained import load_tokenizer
from tests.support.lab import TEACHER
from tests.support.run_script import run_script
from tests.support.tiny_voxtral import save_tekken_teacher
from trainer_ext.arguments import ModelArguments
from trainer_ext.hub.folders import find_kind
from trainer_ext.loading.student import count_linear_classes, load_student
from trainer_ext.pair_batch import PairBatch
from trainer_ext.students.registry import load_student_family
from trainer_ext.teachers.live import LiveTeacher


@pytest.fixture(params=["tiny_qwen2_audio", "tiny_qwen3_asr", "tiny_voxtral"])
def checkpoint(request):
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def teacher_of(teacher, tmp_path):
    """Return a text LLM of a student's vocabulary."""

    def find(family):
        same = hash_vocabulary(family.tokenizer) == hash_vocabulary(load_tokenizer(TEACHER))
        return teacher if same else LiveTeacher.from_pretrained(str(save_tekken_teacher(tmp_path / "teacher")))

    return find


@pytest.fixture
def train(checkpoint, make_trainer, teacher_of):
    """Train three steps with adapters; returns the trainer."""

    def run():
        family = load_student_family(checkpoint)
        model = family.load_model(checkpoint, dtype=torch.float32)
        lora = LoraConfig(target_modules=family.lora_target_modules, r=4)
        chosen = {"model": model, "family": family, "teacher": teacher_of(family), "peft_config": lora}
        trainer = make_trainer(**chosen, max_steps=3, learning_rate=1e-2)
        trainer.train()
        trainer.model.eval()
        return trainer

    return run


def test_it_learns_from_a_teacher_with_other_rows_and_reloads_with_peft_alone(train, checkpoint, tmp_path):
    """Prevents: a teacher refused for its vocabulary, adapters on the tower, or keys that load without effect."""
    trainer = train()
    assert len(trainer.model.get_output_embeddings().weight) > len(trainer.teacher.lm_head_weight)
    adapted = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert adapted
    assert all(".language_model.layers." in name and "lora_" in name for name in adapted)
    assert all(np.isfinite(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)
    trainer.save_model(str(tmp_path / "adapter"))

    inputs = PairBatch.split(trainer.data_collator([trainer.train_dataset[0]])).model_inputs
    base = type(trainer.model.get_base_model()).from_pretrained(checkpoint, dtype=torch.float32).eval()
    with torch.no_grad():
        ours, untrained = trainer.model(**inputs).logits, base(**inputs).logits
        theirs = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()(**inputs).logits
    mask = inputs["attention_mask"].bool()
    assert torch.allclose(ours[mask], theirs[mask], atol=1e-5)
    assert (ours - untrained)[mask].abs().max() > 0.01


def test_qlora_quantizes_its_language_model_and_nothing_else(checkpoint):
    """Prevents: a quantized tower, projector or head."""
    arguments = ModelArguments(checkpoint, dtype="float32", use_peft=True, load_in_4bit=True, lora_r=8)
    census = count_linear_classes(load_student(arguments, load_student_family(checkpoint)))
    assert set(census.pop("model.language_model")) == {"Linear4bit"}
    assert {kind for kinds in census.values() for kind in kinds} == {"Linear"}
    assert {"model.audio_tower", "model.multi_modal_projector", "lm_head"} <= census.keys()


def test_its_merged_export_loads_with_plain_transformers(train, tmp_path, monkeypatch, capsys):
    """Prevents: an export under names that transformers replaces by fresh weights, or pushed without its tokenizer."""
    trainer = train()
    trainer.create_model_card()
    assert "--target student" in (Path(trainer.args.output_dir) / "README.md").read_text()
    trainer.save_model(str(tmp_path / "adapter"))
    words = ["--trained", str(tmp_path / "adapter"), "--target", "student", "--output_dir", str(tmp_path / "merged")]
    _, refusal = run_script("export_omni.py", words, monkeypatch, capsys)
    assert not refusal
    merged, info = type(trainer.model.get_base_model()).from_pretrained(
        tmp_path / "merged", dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ids = torch.tensor([trainer.family.encode_text_prompt("What is two plus three?", "")])
    with torch.no_grad():
        assert torch.allclose(merged(input_ids=ids).logits, trainer.model(input_ids=ids).logits, atol=1e-4)
    upload = make_upload(tmp_path / "merged", find_kind(tmp_path / "merged"), "me/merged")
    for file in upload.files:
        (tmp_path / "pushed" / file.path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pushed" / file.path).write_bytes(file.read())
    pushed = load_student_family(str(tmp_path / "pushed"))
    assert pushed.encode_text_prompt("What is two plus three?", "") == ids[0].tolist()
