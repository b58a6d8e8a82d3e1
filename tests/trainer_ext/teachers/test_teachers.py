"""Tests of every kind of teacher: targets, loading, and refusals."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.utils.deepspeed import HfDeepSpeedConfig
from datasets import Value, concatenate_datasets, load_from_disk
from peft import LoraConfig
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, GPTJConfig, GPTJForCausalLM, GraniteConfig
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from tests.support.lab import TEACHER
from tests.support.soft_targets import make_soft_targets
from trainer_ext.arguments import ModelArguments
from trainer_ext.loading.student import count_linear_classes
from trainer_ext.loading.zero3 import shards_parameters, without_zero3_init
from trainer_ext.loss.distillation import Projection
from trainer_ext.loss.logit_transform import LogitTransform
from trainer_ext.row_validation import check_rows
from trainer_ext.teachers.live import LiveTeacher
from trainer_ext.teachers.stored import SoftTargets, StoredTeacher


def batch_of(trainer, number: int = 4) -> dict:
    return trainer.data_collator([trainer.train_dataset[i] for i in range(number)])


def loss_and_gradient(trainer, batch) -> tuple[float, torch.Tensor]:
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    gradients = [p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]
    return loss.item(), torch.cat(gradients).clone()


def states_of(teacher, batch) -> torch.Tensor:
    asked = {key: value for key, value in batch.items() if key.startswith("teacher_")}
    return teacher.targets(asked, torch.arange(1)).hidden_states


def lora(family, **arguments) -> LoraConfig:
    return LoraConfig(target_modules=family.lora_target_modules, **arguments)


def test_a_stored_teacher_that_kept_everything_equals_the_live_one(make_trainer, pairs, teacher, family, tmp_path):
    """Prevents: errors beyond the rounding of log-probabilities to two bytes."""
    live = make_trainer()
    expected, expected_gradient = loss_and_gradient(live, batch_of(live))
    rows = family.vocab_size
    make_soft_targets(tmp_path / "all", pairs, teacher, rows, k=rows)
    table = SoftTargets.from_pretrained(str(tmp_path / "all"), student=family, temperature=2.0, k=family.vocab_size)
    stored = make_trainer(teacher_kind="stored")
    stored.data_collator.teacher, stored.teacher = table, StoredTeacher(table)
    loss, gradient = loss_and_gradient(stored, batch_of(stored))
    assert loss == pytest.approx(expected, rel=1e-3)
    assert (gradient - expected_gradient).norm() < 2e-3 * expected_gradient.norm()


def test_a_stored_teacher_of_64_ids_is_close_and_needs_no_teacher(make_trainer):
    """Prevents: renormalizing over the kept ids, whose gradient error exceeds the gradient at temperature 2."""
    live, stored = make_trainer(), make_trainer(teacher_kind="stored")
    expected, expected_gradient = loss_and_gradient(live, batch_of(live))
    loss, gradient = loss_and_gradient(stored, batch_of(stored))
    assert loss == pytest.approx(expected, rel=0.05)
    assert (gradient - expected_gradient).norm() < 0.2 * expected_gradient.norm()
    assert not any(isinstance(value, torch.nn.Module) for value in vars(stored.teacher).values())


@pytest.mark.parametrize("device_map", ["cpu", "auto", "offload"])
def test_offloading_does_not_change_the_teachers_states(make_trainer, teacher, device_map):
    """Prevents: a layer that returns from host memory incomplete or in another precision."""
    batch = batch_of(make_trainer())
    elsewhere = LiveTeacher.from_pretrained(TEACHER, dtype="float32", device_map=device_map)
    elsewhere.attach(torch.nn.Module(), torch.device("cpu"), 2.0)
    assert torch.equal(states_of(elsewhere, batch), states_of(teacher, batch))
    assert torch.equal(elsewhere.lm_head_weight, teacher.lm_head_weight)
    offloaded = {p.device.type for p in elsewhere.model.base_model.parameters()} == {"meta"}
    assert offloaded == (device_map == "offload")


def test_a_4_bit_teacher_is_close_and_keeps_its_head_unquantized(make_trainer, teacher):
    """Prevents: a quantized head, which makes the teacher's probabilities noise."""
    small = LiveTeacher.from_pretrained(TEACHER, dtype="float32", load_in_4bit=True)
    census = count_linear_classes(small.model)
    assert set(census.pop("lm_head", {"Linear": 1})) == {"Linear"}
    assert {kind for kinds in census.values() for kind in kinds} == {"Linear4bit"}
    trainer = make_trainer()
    batch = batch_of(trainer)
    whole, _ = loss_and_gradient(trainer, batch)
    small.attach(trainer.model, torch.device("cpu"), 2.0)
    trainer.teacher = small
    assert loss_and_gradient(trainer, batch)[0] == pytest.approx(whole, rel=0.2)


SIZES = {
    "vocab_size": 100, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2,
}  # fmt: skip
TRANSFORMED = {
    "gemma2": (Gemma2Config(**SIZES, head_dim=16, final_logit_softcapping=30.0), LogitTransform(soft_cap=30.0)),
    "granite": (GraniteConfig(**SIZES, logits_scaling=8.0), LogitTransform(1 / 8)),
    "cohere": (CohereConfig(**SIZES, logit_scale=0.0625, pad_token_id=0), LogitTransform(0.0625)),
}


@pytest.mark.parametrize("head", [1.0, 0.01], ids=["large_logits", "small_logits"])
@pytest.mark.parametrize("name", TRANSFORMED)
def test_a_teachers_targets_are_its_own_logits(name, head, teacher):
    """Prevents: the divergence from another model than the teacher, whose logits are scaled or soft-capped."""
    config, expected = TRANSFORMED[name]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    model.get_output_embeddings().weight.data.normal_().mul_(head)  # logits of up to 20 or so, times `head`
    live = LiveTeacher(model, teacher.encoder)
    assert live.transform == expected
    ids = torch.randint(100, (1, 7))
    inputs = {"teacher_input_ids": ids, "teacher_attention_mask": torch.ones_like(ids), "teacher_labels": ids}
    targets = live.targets(inputs, torch.arange(6))
    weight = targets.lm_head_weight
    logits = Projection(weight, targets.hidden_states, torch.float32, 6, targets.transform).project(slice(0, 6))
    assert torch.allclose(logits, model(ids).logits[0, :-1], atol=1e-5)


def test_a_teacher_with_a_bias_after_its_head_is_refused(teacher):
    """Prevents: the divergence from another model: such logits are not states times head, scaled or capped."""
    model = GPTJForCausalLM(GPTJConfig(vocab_size=100, n_embd=32, n_layer=1, n_head=2, rotary_dim=8, n_positions=64))
    model.lm_head.bias.data.normal_()
    with pytest.raises(ValueError, match="changes its logits after the head"):
        LiveTeacher(model, teacher.encoder)


@pytest.mark.parametrize("more", [128, -16])
def test_a_teacher_of_other_vocabulary_rows_works_over_the_shared_ones(make_trainer, teacher, more):
    """Prevents: probability on padding rows: Qwen2.5-7B has 152,064 rows, Omni-3B 151,936."""
    other = copy.deepcopy(teacher.model)
    rows = len(teacher.lm_head_weight) + more
    other.resize_token_embeddings(rows, mean_resizing=False)
    if more > 0:  # rows that would take all the mass if they counted
        other.get_output_embeddings().weight.data[-more:] = 10.0
    trainer = make_trainer()
    batch = batch_of(trainer)
    same, gradient = loss_and_gradient(trainer, batch)
    trainer.teacher = LiveTeacher(other, teacher.encoder)
    loss, other_gradient = loss_and_gradient(trainer, batch)
    assert loss == pytest.approx(same, rel=1e-3 if more > 0 else 1e-2)
    assert (gradient - other_gradient).norm() < 0.05 * gradient.norm()


def test_a_self_teacher_is_the_student_without_adapters(make_trainer, family):
    """Prevents: a teacher that follows its student because the adapters stay on."""
    trainer = make_trainer(teacher_kind="self", peft_config=lora(family, lora_dropout=0.5))
    batch = batch_of(trainer)
    before = states_of(trainer.teacher, batch)
    first = trainer.model.get_submodule("base_model.model.model.language_model")
    adapters = [p for p in first.parameters() if p.requires_grad]
    for parameter in adapters:
        parameter.data += 0.05
    assert torch.equal(states_of(trainer.teacher, batch), before)
    assert trainer.model.training
    assert all(p.requires_grad for p in adapters)


def test_a_self_taught_run_starts_with_zero_kl_on_text(make_trainer, family):
    """Prevents: a KL of t2t other than zero, or of s2t other than the modality gap."""
    trainer = make_trainer(teacher_kind="self", peft_config=lora(family), max_steps=1)
    trainer.train()
    logs = trainer.state.log_history[0]
    assert logs["t2t/kl"] < 1e-6
    assert logs["s2t/kl"] > 1e-3


def test_only_a_student_with_adapters_can_be_its_own_teacher(make_trainer):
    """Prevents: a run whose teacher always equals the student, with a KL of zero."""
    with pytest.raises(ValueError, match="adapters switched off, and this student has none"):
        make_trainer(teacher_kind="self")


def test_a_head_with_lora_is_refused(make_trainer, family):
    """Prevents: adapters of the head that stay untrained: the loss reads the head's weight."""
    with pytest.raises(ValueError, match="adapter to `lm_head` is not supported"):
        make_trainer(peft_config=LoraConfig(target_modules=["lm_head", "q_proj"]))


def spoil(folder, tmp_path, change) -> str:
    """Return a changed copy of the table."""
    change(load_from_disk(str(folder))).save_to_disk(str(tmp_path / "other"))
    return str(tmp_path / "other")


@pytest.mark.parametrize(
    ("run", "change", "message"),
    [
        ({"temperature": 3.0}, None, "another temperature: the run has 3.0"),
        ({"k": 32}, None, "another soft_targets_k: the run has 32, the soft targets 64"),
        ({"teacher": "Qwen/Qwen2.5-7B-Instruct@main"}, None, "another teacher"),
        ({}, {"tokenizer_hash": "0123456789abcdef"}, "another student's tokenizer"),
        ({}, {"vocab_size": 10**6}, "1000000 vocabulary rows, but the student has"),
    ],
)
def test_soft_targets_of_another_run_are_refused(soft_targets, family, tmp_path, run, change, message):
    """Prevents: training on targets of other rows without an error."""
    source = str(soft_targets)
    if change is not None:
        source = spoil(soft_targets, tmp_path, lambda table: table.map(lambda row: change))
    with pytest.raises(ValueError, match=message):
        SoftTargets.from_pretrained(source, **{"student": family, "temperature": 2.0, "k": 64, **run})


def test_soft_targets_of_two_settings_are_refused(soft_targets, family, tmp_path):
    """Prevents: reading half of the rows at another k after two caches were concatenated."""

    def mix(table):
        other = table.map(lambda row: {"teacher": "someone else"})
        return concatenate_datasets([table, other])

    with pytest.raises(ValueError, match="mixes soft targets of 2 settings"):
        SoftTargets.from_pretrained(spoil(soft_targets, tmp_path, mix), student=family, temperature=2.0, k=64)


def test_missing_soft_targets_are_reported_with_the_command_that_makes_them(family, pairs, tmp_path):
    """Prevents: loading the student first, or reading a data set of questions as soft targets."""
    settings = {"student": family, "temperature": 2.0, "k": 64}
    for nowhere in ("outputs/soft/nowhere", "nobody/nowhere", str(tmp_path)):
        with pytest.raises(ValueError, match=r"recipes/cache_teacher\.py"):
            SoftTargets.from_pretrained(nowhere, **settings)
    pairs["train"].save_to_disk(str(tmp_path / "rows"))
    with pytest.raises(ValueError, match="holds no soft targets: it has no column question_hash"):
        SoftTargets.from_pretrained(str(tmp_path / "rows"), **settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.select(range(1, len(table))), "has no soft targets for it"),
        (
            lambda table: table.map(
                lambda row, i: {"question_hash": "0" * 16 if i == 0 else row["question_hash"]},
                with_indices=True,
            ),
            "those of another question or system prompt",
        ),
        (
            lambda table: table.map(
                lambda row, i: {"response_hash": "0" * 16 if i == 0 else row["response_hash"]},
                with_indices=True,
            ),
            "those of another response",
        ),
    ],
)
def test_a_row_without_its_soft_targets_is_named_before_training(
    make_trainer, soft_targets, family, pairs, tmp_path, change, message
):
    """Prevents: a failure at that row's step, hours later, or targets of another answer."""
    table = SoftTargets.from_pretrained(spoil(soft_targets, tmp_path, change), student=family, temperature=2.0, k=64)
    with pytest.raises(ValueError, match=message) as caught:
        check_rows(pairs["train"], family, table, ["t2t", "s2t"], "teacher")
    assert pairs["train"]["id"][0] in str(caught.value)


def test_a_table_read_at_another_temperature_than_the_runs_is_refused(make_trainer, make_teacher):
    """Prevents: a distribution that does not sum to one: kept ids and tail at different temperatures."""
    with pytest.raises(ValueError, match=r"read at temperature 1\.0, the run's is 2\.0"):
        make_trainer(teacher_kind="stored", teacher=make_teacher("stored", temperature=1.0))


def test_a_quantised_teacher_cannot_be_offloaded():
    """Prevents: an error from inside bitsandbytes after the download."""
    with pytest.raises(ValueError, match="exclude each other"):
        ModelArguments(model_name_or_path="x", teacher_load_in_4bit=True, teacher_device_map="offload")


def test_under_zero3_a_teacher_in_memory_is_refused(monkeypatch):
    """Prevents: reading an empty head: ZeRO-3 would shard the teacher with the student."""
    monkeypatch.setattr("trainer_ext.teachers.live.is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(ValueError, match=r"ZeRO-3 would partition the teacher.*without_zero3_init"):
        LiveTeacher.from_pretrained(TEACHER)


def test_an_empty_teacher_under_fsdp_is_refused(monkeypatch):
    """Prevents: an uninitialized teacher: `fsdp_cpu_ram_efficient_loading` fills the weights of the first process
    alone.
    """
    monkeypatch.setattr("trainer_ext.teachers.live.is_fsdp_enabled", lambda: True)
    with pytest.raises(ValueError, match="fsdp_cpu_ram_efficient_loading is on"):
        LiveTeacher.from_pretrained(TEACHER)


def test_models_are_read_whole_under_zero3(make_config):
    """Prevents: loading Qwen2.5-Omni in parts, which transformers cannot, or a teacher in parts."""
    config = make_config()
    assert config.deepspeed_plugin is None
    with without_zero3_init(config):  # nothing to do
        pass
    config.hf_deepspeed_config = HfDeepSpeedConfig({"zero_optimization": {"stage": 3}})
    set_hf_deepspeed_config(config.hf_deepspeed_config)
    try:
        assert is_deepspeed_zero3_enabled()
        with without_zero3_init(config):
            assert not is_deepspeed_zero3_enabled()
            assert len(LiveTeacher.from_pretrained(TEACHER).lm_head_weight) == 936
        assert is_deepspeed_zero3_enabled()
    finally:
        unset_hf_deepspeed_config()


def test_sharded_models_are_loaded_on_the_cpu(make_config, monkeypatch):
    """Prevents: loading a model directly onto every GPU that is sharded because it does not fit one."""
    config = make_config()
    assert not shards_parameters(config)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert shards_parameters(config)
    for stage in (2, 3):
        config.deepspeed_plugin = SimpleNamespace(zero_stage=stage)
        assert shards_parameters(config) == (stage == 3)


def test_ids_above_65535_are_stored(soft_targets, family):
    """Prevents: losing half of a vocabulary of 151,936 rows."""
    table = load_from_disk(str(soft_targets)).select([0])
    ids = np.arange(len(table[0]["ids_low"])) * 331 + 60_000
    for name, part, kind in (("ids_low", ids & 0xFFFF, "uint16"), ("ids_high", ids >> 16, "uint8")):
        feature = type(table.features[name])(Value(kind))
        table = table.remove_columns(name).add_column(name, [part.tolist()], feature=feature)
    read = SoftTargets(load_from_disk(str(soft_targets)), "table", family, 2.0, 64)
    read.table = table.with_format("numpy")  # of a larger vocabulary than the lab's
    batch = read.encode([{"id": table[0]["id"]}], [[]], "right")
    assert batch["teacher_ids"].flatten().tolist() == ids.tolist()
