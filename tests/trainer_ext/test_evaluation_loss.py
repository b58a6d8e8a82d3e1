"""Tests of the loss on evaluation rows, and of the best checkpoint that it chooses."""

import copy
from pathlib import Path

import pytest
import torch
from datasets import Dataset, IterableDataset
from peft import LoraConfig

BEST_IS_FIRST = dict(
    max_steps=3, eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1, save_total_limit=1,
    load_best_model_at_end=True, metric_for_best_model="eval_loss", greater_is_better=True, learning_rate=5e-3,
)  # fmt: skip


def sum_of_parts(metrics, prefix="eval"):
    """Return CE + kl_weight * temperature^2 * KL over all tokens, from the parts of two channels of equal size."""
    return sum(metrics[f"{prefix}_{c}/ce"] + 0.5 * 4 * metrics[f"{prefix}_{c}/kl"] for c in ("t2t", "s2t")) / 2


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_the_loss_does_not_depend_on_the_batch_size_and_is_the_sum_of_its_parts(make_trainer, pairs, batch_size):
    """Prevents: a mean over batches, which moves with the batch size, from 1.88 to 1.80, and chooses the best."""
    rows = pairs["test"].select(range(7))
    expected = make_trainer(eval_dataset=rows, per_device_eval_batch_size=7).evaluate()["eval_loss"]
    metrics = make_trainer(eval_dataset=rows, per_device_eval_batch_size=batch_size).evaluate()
    assert metrics["eval_loss"] == pytest.approx(expected, rel=1e-5)
    assert metrics["eval_loss"] == pytest.approx(sum_of_parts(metrics), rel=1e-6)


def test_rows_of_one_channel_are_evaluated_and_none_is_dropped(make_trainer, pairs):
    """Prevents: a run of both channels that cannot look at text and speech apart; NaN for fewer rows than a batch."""
    rows = {c: pairs["test"].select(range(5)).map(lambda row, c=c: {"channels": [c]}) for c in ("t2t", "s2t")}
    trainer = make_trainer(eval_dataset=rows, per_device_eval_batch_size=8, dataloader_drop_last=True)
    metrics = trainer.evaluate()
    for channel in rows:
        parts = metrics[f"eval_{channel}_{channel}/ce"] + 2 * metrics[f"eval_{channel}_{channel}/kl"]
        assert metrics[f"eval_{channel}_loss"] == pytest.approx(parts, rel=1e-6)


def test_a_metric_that_no_evaluation_gives_is_named_before_training(make_trainer, pairs):
    """Prevents: a KeyError at the first evaluation, hours into a run."""
    with pytest.raises(ValueError, match="metric_for_best_model 'accuracy' is none of eval_loss, eval_t2t/ce"):
        make_trainer(
            eval_dataset=pairs["test"], eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1,
            load_best_model_at_end=True, metric_for_best_model="accuracy",
        )  # fmt: skip


def test_rows_that_make_no_batch_stop_the_run(make_trainer, pairs):
    """Prevents: an untouched adapter, reported as a finished run of no steps."""
    trainer = make_trainer(dataloader_drop_last=True, per_device_train_batch_size=1000)
    with pytest.raises(ValueError, match="make no batch of 1000"):
        trainer.train()


def test_several_data_sets_have_parts_of_their_own(make_trainer, pairs):
    """Prevents: one `eval_t2t/ce` that the last data set overwrites."""
    few, more = pairs["test"].select(range(3)), pairs["test"].select(range(3, 9))
    together = make_trainer(eval_dataset={"few": few, "more": more}).evaluate()
    for name, rows in (("few", few), ("more", more)):
        alone = make_trainer(eval_dataset=rows).evaluate()
        assert together[f"eval_{name}_loss"] == pytest.approx(alone["eval_loss"])
        assert together[f"eval_{name}_t2t/ce"] == pytest.approx(alone["eval_t2t/ce"])
        assert sum_of_parts(together, f"eval_{name}") == pytest.approx(together[f"eval_{name}_loss"], rel=1e-6)
    assert not any(key.startswith("eval_t2t") for key in together)


def test_training_parts_are_not_mixed_with_evaluation_parts(make_trainer, pairs):
    """Prevents: a training curve with the test rows in it."""
    rows = pairs["test"].select(range(6))
    plain, evaluated = make_trainer(max_steps=2), None
    start = copy.deepcopy(plain.model.state_dict())
    plain.train()
    plain.model.load_state_dict(start)
    evaluated = make_trainer(max_steps=2, eval_dataset=rows, eval_strategy="steps", eval_steps=1)
    evaluated.train()
    kept = [[e["t2t/ce"] for e in trainer.state.log_history if "t2t/ce" in e] for trainer in (plain, evaluated)]
    assert kept[0] == kept[1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda trainer, rows: trainer.predict(rows), r"predict\(\) is refused: .*generation"),
        (lambda trainer, rows: trainer.evaluate(rows.select([])), "has no rows"),
        (lambda trainer, rows: trainer.evaluate(rows.map(lambda row: {"channels": []})), "no row .* trains channel"),
        (lambda trainer, rows: trainer.evaluate(Dataset.from_list([{"text": "x"}])), "has no column id"),
    ],
)
def test_what_cannot_be_evaluated_is_named(make_trainer, pairs, call, message):
    """Prevents: a KeyError from the collator, or a division by zero."""
    with pytest.raises(ValueError, match=message):
        call(make_trainer(eval_dataset=pairs["test"]), pairs["test"])


def test_a_streaming_data_set_is_refused(make_trainer, pairs):
    """Prevents: an error about a missing length deep inside the trainer."""
    with pytest.raises(ValueError, match="a streaming data set is refused"):
        make_trainer(train_dataset=IterableDataset.from_generator(lambda: iter(pairs["train"])))


@pytest.mark.parametrize("adapted", [True, False])
def test_the_best_checkpoint_is_loaded_though_it_is_not_the_last(make_trainer, pairs, family, adapted, tmp_path):
    """Prevents: the base class, which compares weight names literally, finds none and ends with the last weights."""
    lora = LoraConfig(target_modules=family.lora_target_modules) if adapted else None
    ids = torch.tensor([family.encode_text_prompt("What is one plus one?", "")])
    seen = {}

    def look(trainer):
        with torch.no_grad():
            return trainer.model(input_ids=ids).logits

    trainer = make_trainer(eval_dataset=pairs["test"].select(range(6)), peft_config=lora, **BEST_IS_FIRST)
    step = trainer._save_checkpoint

    def save(model, trial):
        seen[trainer.state.global_step] = look(trainer)
        step(model, trial)

    trainer._save_checkpoint = save
    trainer.train()
    best = trainer.state.best_global_step
    assert best < 3
    assert not torch.allclose(seen[best], seen[3])
    assert torch.allclose(look(trainer), seen[best], atol=1e-5)
    assert {folder.name for folder in (tmp_path / "run").glob("checkpoint-*")} == {f"checkpoint-{best}", "checkpoint-3"}


def test_a_damaged_best_checkpoint_is_named(make_trainer, pairs):
    """Prevents: weights of a half-written folder, published as the best."""
    trainer = make_trainer(eval_dataset=pairs["test"].select(range(6)), **BEST_IS_FIRST)
    finalize = trainer._finalize_training

    def damage(*arguments):
        Path(trainer.state.best_model_checkpoint, "model.safetensors").write_bytes(b"")
        return finalize(*arguments)

    trainer._finalize_training = damage
    with pytest.raises(ValueError, match=r"cannot be loaded: model\.safetensors is damaged"):
        trainer.train()
