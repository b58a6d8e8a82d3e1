"""Tests of the Qwen2-Audio family against its official processor, and of its training and reloading."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

from tests.support.run_script import run_script
from trainer_ext.arguments import ModelArguments
from trainer_ext.loading.student import count_linear_classes, load_student
from trainer_ext.students.registry import load_student_family

SYSTEM, QUESTION = "Be brief.", "How many beeps?"


@pytest.fixture(scope="module")
def audio_family(tiny_qwen2_audio):
    return load_student_family(str(tiny_qwen2_audio))


@pytest.fixture
def train(audio_family, tiny_qwen2_audio, make_trainer):
    """Train a few steps with adapters; returns the trainer."""

    def run(**arguments):
        model = audio_family.load_model(str(tiny_qwen2_audio), dtype=torch.float32)
        lora = LoraConfig(target_modules=audio_family.lora_target_modules, r=4)
        trainer = make_trainer(model=model, family=audio_family, peft_config=lora, max_steps=3, **arguments)
        trainer.train()
        return trainer

    return run


def make_clip(samples: int) -> np.ndarray:
    return np.random.default_rng(samples).normal(size=samples).astype(np.float32) / 10


@pytest.mark.parametrize("samples", [1600, 16000, 16001, 48123, 480000])
def test_prompts_and_features_are_those_of_the_official_processor(audio_family, tiny_qwen2_audio, samples):
    """Prevents: prompts or features that the model has never seen."""
    processor = Qwen2AudioProcessor.from_pretrained(tiny_qwen2_audio)
    clip = make_clip(samples)
    audio, text = {"type": "audio", "audio": ""}, {"type": "text", "text": QUESTION}
    asked = [
        ([text], audio_family.encode_text_prompt(QUESTION, SYSTEM)),
        ([audio], audio_family.encode_speech_prompt(samples, SYSTEM)),
        ([audio, text], audio_family.encode_audio_prompt(samples, QUESTION, SYSTEM)),
    ]
    for parts, ids in asked:
        messages = [
            {"role": "system", "content": [{"type": "text", "text": SYSTEM}]},
            {"role": "user", "content": parts},
        ]
        rendered = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        official = processor(text=[rendered], audio=[clip] if audio in parts else None, return_tensors="pt")
        assert official["input_ids"][0].tolist() == ids
    ours = audio_family.extract_features([clip])
    for name in ("input_features", "feature_attention_mask"):
        assert torch.equal(ours[name], official[name])


def test_a_clip_of_one_audio_token_is_refused(audio_family):
    """Prevents: a batch of single audio tokens, which the model takes for the marks of clips yet to be expanded."""
    with pytest.raises(ValueError, match="too short: it gives 1 audio tokens"):
        audio_family.encode_speech_prompt(800, "")
    assert len(audio_family.encode_speech_prompt(1200, ""))


def test_it_learns_from_a_teacher_with_fewer_rows_and_reloads_with_peft_alone(train, tiny_qwen2_audio, tmp_path):
    """Prevents: a teacher refused for its vocabulary, adapters on the tower, or keys that load without effect."""
    trainer = train(learning_rate=1e-2)
    rows = trainer.model.get_output_embeddings().weight.shape[0]
    assert rows > len(trainer.teacher.lm_head_weight)
    adapted = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert adapted
    assert all(".language_model.layers." in name and "lora_" in name for name in adapted)
    assert all(np.isfinite(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)
    trainer.save_model(str(tmp_path / "adapter"))

    batch = trainer.data_collator([trainer.train_dataset[0]])
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "input_features", "feature_attention_mask")}
    trainer.model.eval()
    base = Qwen2AudioForConditionalGeneration.from_pretrained(tiny_qwen2_audio, dtype=torch.float32)
    with torch.no_grad():
        ours = trainer.model(**inputs).logits
        untrained = base(**inputs).logits
        theirs = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()(**inputs).logits
    mask = inputs["attention_mask"].bool()
    assert torch.allclose(ours[mask], theirs[mask], atol=1e-5)
    assert (ours - untrained)[mask].abs().max() > 0.01


def test_qlora_quantizes_its_language_model_and_nothing_else(audio_family, tiny_qwen2_audio):
    """Prevents: a quantized tower, projector or head."""
    arguments = ModelArguments(str(tiny_qwen2_audio), dtype="float32", use_peft=True, load_in_4bit=True, lora_r=8)
    census = count_linear_classes(load_student(arguments, audio_family))
    assert set(census.pop("model.language_model")) == {"Linear4bit"}
    assert {kind for kinds in census.values() for kind in kinds} == {"Linear"}
    assert {"model.audio_tower", "model.multi_modal_projector", "lm_head"} <= census.keys()


def test_its_merged_export_loads_with_plain_transformers(train, tiny_qwen2_audio, tmp_path, monkeypatch, capsys):
    """Prevents: an export under names that transformers replaces by fresh weights."""
    trainer = train(learning_rate=1e-2)
    trainer.save_model(str(tmp_path / "adapter"))
    words = ["--trained", str(tmp_path / "adapter"), "--target", "student", "--output_dir", str(tmp_path / "merged")]
    _, refusal = run_script("export_omni.py", words, monkeypatch, capsys)
    assert not refusal
    merged, info = Qwen2AudioForConditionalGeneration.from_pretrained(
        tmp_path / "merged", dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ids = torch.tensor([trainer.family.encode_text_prompt(QUESTION, SYSTEM)])
    trainer.model.eval()
    with torch.no_grad():
        assert torch.allclose(merged(input_ids=ids).logits, trainer.model(input_ids=ids).logits, atol=1e-4)
