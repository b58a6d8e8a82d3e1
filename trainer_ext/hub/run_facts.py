"""Facts of a run for its card: models and data with revisions and licenses, adapter, machine."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from huggingface_hub import EvalResult
from peft import PeftConfig

from data_builders.hub.contents import Contents
from trainer_ext.arguments import CrossModalDistillConfig, ModelArguments
from trainer_ext.environment import describe_environment
from trainer_ext.hub.sources import describe_sources


@dataclass
class RunFacts:
    """Facts of a run that its training arguments do not hold.

    Attributes:
        base_model, teacher_model, dataset_name, sound_dataset_name: Hub ids, or names of local folders.
        revisions: Hub id -> commit that was used.
        licenses: Hub id -> license.
        adapter: settings of LoRA and quantization.
        environment: versions, commit, hardware; see trainer_ext/environment.py.
        report: the content of report.json; None for a run without scores.
        scores: its table in Markdown.
        eval_results: its scores, for the card's model-index.
        step: of a checkpoint in the middle of a run; None for a finished run.
        steps: of the whole run.
    """

    base_model: str
    use_peft: bool
    teacher_model: str | None = None
    dataset_name: str | None = None
    sound_dataset_name: str | None = None
    revisions: Mapping[str, str] = field(default_factory=dict)
    licenses: Mapping[str, str] = field(default_factory=dict)
    adapter: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    report: Mapping[str, Any] | None = None
    scores: str | None = None
    eval_results: tuple[EvalResult, ...] = ()
    step: int | None = None
    steps: int | None = None

    @property
    def contents(self) -> Contents:
        """Return what a repository with this run's result holds."""
        return Contents("adapter" if self.use_peft else "model", self.base_model)

    @property
    def datasets(self) -> list[str]:
        """Return the names of the data sets."""
        return [name for name in (self.dataset_name, self.sound_dataset_name) if name]


def gather_facts(
    facts: RunFacts,
    model: ModelArguments,
    training: CrossModalDistillConfig,
    peft_config: PeftConfig | None,
    pairs: tuple[str | None, str | None],
    sounds: tuple[str | None, str | None],
) -> RunFacts:
    """Add what the card says of models, data and machine.

    Args:
        pairs: the data set, or the source of the questions, and its revision.
        sounds: likewise of questions about sounds.
    """
    assert model.model_name_or_path is not None
    base = training.hub_base_model_id or model.model_name_or_path
    teacher = model.teacher_model_name_or_path
    revisions, licenses = describe_sources(
        {base: model.model_revision, **({teacher: model.teacher_model_revision} if teacher else {})},
        {name: revision for name, revision in (pairs, sounds) if name},
    )
    bits = "4-bit NF4" if model.load_in_4bit else "8-bit" if model.load_in_8bit else None
    return replace(
        facts,
        base_model=base,
        teacher_model=teacher,
        dataset_name=pairs[0],
        sound_dataset_name=sounds[0],
        revisions=revisions,
        licenses=licenses,
        adapter=describe_adapter(peft_config, bits),
        environment=describe_environment(),
    )


def describe_adapter(config: PeftConfig | None, quantization: str | None) -> dict[str, Any]:
    """Return the settings of LoRA and quantization that a card names."""
    settings: dict[str, Any] = {} if quantization is None else {"quantization of the base": quantization}
    for name in ("r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora"):
        if value := getattr(config, name, None):
            settings[name] = value
    return settings
