"""The card of a run: its data, loss and scores.

A card names its own repository `your-name/<folder>` until it is pushed, and never a path of this machine.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from data_builders.hub.contents import METADATA_KEY
from data_builders.hub.folders import local_id
from trainer_ext.arguments import CrossModalDistillConfig
from trainer_ext.hub.run_facts import RunFacts
from trainer_ext.students.base import StudentArchitecture
from trainer_ext.supported_arguments import WITHOUT_EFFECT_ON_WEIGHTS, default_of

TEMPLATE = Path(__file__).with_name("model_card_template.md")
NO_ID = " (a local model without an id on the Hub)"
PICTURES = {"scores.png": "scores by topic", "gaps.png": "text minus speech", "loss.png": "loss"}
# Settings that the card names in a sentence or a row of its own, or that say nothing of the result.
TOLD_ELSEWHERE = {
    "teacher_kind", "temperature", "kl_weight", "divergence", "hard_targets", "channels", "learning_rate", "max_steps",
    "num_train_epochs", "per_device_train_batch_size", "max_batch_tokens", "gradient_accumulation_steps", "seed",
    "eval_strategy", "eval_steps", "hub_base_model_id", "overwrite_repository", "metric_for_best_model",
    "greater_is_better",
}  # fmt: skip


def list_changed(training: CrossModalDistillConfig) -> dict[str, Any]:
    """Return the training arguments that are not at their defaults and have an effect on the weights."""
    skipped = TOLD_ELSEWHERE | WITHOUT_EFFECT_ON_WEIGHTS
    changed = {}
    for entry in dataclasses.fields(training):
        value = getattr(training, entry.name)
        value = getattr(value, "value", value)  # of an enumeration
        if entry.name in skipped or value == default_of(entry):
            continue
        if isinstance(value, str | int | float | list):
            changed[entry.name] = value
    return changed


def write_model_card(
    folder: Path,
    facts: RunFacts,
    training: CrossModalDistillConfig,
    family: StudentArchitecture,
    name: str | None = None,
) -> None:
    """Write README.md into a run's folder.

    Args:
        name: of the model; None for the folder's name.
    """
    name = name or folder.resolve().name
    base_is_public = "/" in facts.base_model
    data = ModelCardData(
        base_model=facts.base_model if base_is_public else None,
        base_model_relation=("adapter" if facts.use_peft else "finetune") if base_is_public else None,
        datasets=[name for name in facts.datasets if name in facts.revisions] or None,
        license=facts.licenses.get(facts.base_model),
        model_name=name if facts.eval_results else None,
        eval_results=list(facts.eval_results) or None,
        library_name="peft" if facts.use_peft else "transformers",
        pipeline_tag="audio-text-to-text",
        tags=["trl", "cross-modal-distillation", "speech", *(["lora"] if facts.use_peft else [])],
        **facts.contents.to_metadata(),
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=name,
        source=local_id(Path(name)),
        base_is_public=base_is_public,
        no_id=NO_ID,
        facts=facts,
        training=training,
        changed=list_changed(training),
        pictures={file: title for file, title in PICTURES.items() if facts.step is None and (folder / file).is_file()},
        has_arguments=(folder / "resolved.yaml").is_file(),
        model_class=family.model_class,
        merged_target=next(name for name, target in family.export_targets.items() if target.kind == "student"),
        can_serve="vllm_adapter" in family.export_targets and not facts.adapter.get("use_dora"),
        safety=[line for line in (facts.report or {}).get("scores", []) if is_safety(line, facts.report)],
        note=family.card_note,
    )
    (folder / "README.md").write_text(str(card), encoding="utf-8")


def is_safety(line: Mapping[str, Any], report: Mapping[str, Any] | None) -> bool:
    """Tell whether a line of a report is a refusal rate over all questions."""
    assert report is not None
    evaluator = report["benchmarks"].get(line["benchmark"], {}).get("evaluator")
    return evaluator == "refusal" and line["group"] == "all" and "value" in line


def name_base(card_text: str, base_model: str) -> str:
    """Return a card with the Hub id of a base that it knows by the name of a local copy alone."""
    card = ModelCard(card_text)
    known = card.data.to_dict().get(METADATA_KEY, {})
    card.data["base_model"] = base_model
    card.data[METADATA_KEY] = {**known, "of": base_model}
    is_adapter = card.data.get("library_name") == "peft"
    card.data["base_model_relation"] = "adapter" if is_adapter else "finetune"
    name = known.get("of")
    for old, new in (
        (NO_ID, ""),
        (f' --model_name_or_path "{name}" --question', " --question"),  # the adapter names it
        (f'"{name}"', f'"{base_model}"'),
        (f"`{name}`", f"`{base_model}`"),
        (f"| base | {name} |", f"| base | {base_model} |"),
    ):
        card.text = card.text.replace(old, new)
    return str(card)
