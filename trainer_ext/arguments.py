"""Arguments of a run's training and models, with the paper's values as defaults."""

import json
from dataclasses import dataclass
from typing import Any

import torch
from transformers import get_scheduler
from transformers.hf_argparser import HfArg
from trl import ModelConfig, SFTConfig

from data_builders.causal_lm import TeacherSettings
from data_builders.schema import CHANNELS, PAIR_CHANNELS, RESPONSE_COLUMN, check_channels
from trainer_ext.loss.divergences import DIVERGENCES
from trainer_ext.supported_arguments import MODEL_REFUSED, REFUSED, refuse_unsupported

# Last parts of the names of metrics that measure a loss or a distance.
LOWER_IS_BETTER = ("loss", "ce", "kl", "entropy", "forgetting", "misalignment")
NO_TEACHER = "none"  # cross-entropy on hard targets alone
HUB_STRATEGIES = ("end", "every_save", "checkpoint")
TEACHER_KINDS = ("model", "self", "stored", NO_TEACHER)


@dataclass
class CrossModalDistillConfig(SFTConfig):
    """`SFTConfig` with the loss of cross-modal distillation. A batch counts questions, not rows.

    Values are the paper's (section 4.1) where it states them; it does not state batch size, optimizer or lengths.
    """

    teacher_kind: str = HfArg(
        default="model",
        help="Teacher of the divergence: 'model' (a text LLM in memory), 'self' (the student, adapters off), 'stored' "
        "(soft targets made by recipes/cache_teacher.py) or 'none' (CE on hard targets alone).",
    )
    temperature: float = HfArg(default=2.0, help="tau: temperature of both softmaxes of the divergence.")
    kl_weight: float = HfArg(
        default=0.5, help="lambda: weight of temperature^2 * divergence beside the CE; unused without a teacher."
    )
    divergence: str = HfArg(
        default="forward_kl", help=f"Student from teacher: {', '.join(DIVERGENCES)} (paper: forward_kl)."
    )
    beta: float = HfArg(default=0.5, help="The teacher's share of the mixture in 'jsd', between 0 and 1.")
    hard_targets: str = HfArg(default="teacher", help="Answers for the CE: 'teacher' or 'gold'.")
    channels: list[str] = HfArg(
        default_factory=lambda: list(PAIR_CHANNELS),
        help="Channels this run trains: 't2t' (text), 's2t' (speech), 'a2t' (questions about sounds, whose teacher is "
        "the untouched student); a row trains those that it names too.",
    )
    overwrite_output_dir: bool = HfArg(
        default=False, help="Replace an earlier run in `output_dir`: its checkpoints are deleted."
    )
    strict: bool = HfArg(default=False, help="Stop at rows that cannot be trained on, instead of leaving them out.")
    max_rejected_share: float = HfArg(
        default=0.5, help="Stop if a larger share of the rows cannot be trained on; they are listed in any case."
    )
    evaluator: str | None = HfArg(
        default=None,
        help="Evaluator of the held-out questions; see trainer_ext/evaluation/evaluators. Unset: exact_answer where "
        "all have a reference, else word_overlap with the teacher's answers.",
    )
    eval_answers: int = HfArg(
        default=0, help="Held-out questions that the student answers at every evaluation, in text and in speech."
    )
    max_eval_samples: int | None = HfArg(
        default=None, help="Held-out rows of the evaluations during training; unset, all of them."
    )
    learning_rate: float = HfArg(default=5e-6, help="Peak learning rate (paper: 5e-6).")
    num_train_epochs: float = HfArg(default=2.0, help="Passes over the questions (paper: 2).")
    hub_strategy: str = HfArg(
        default="end",
        help="When to push, with `push_to_hub`: 'end', 'every_save' (the weights too), or 'checkpoint' (and all that a "
        "run resumes from, as last-checkpoint/).",
    )
    hub_base_model_id: str | None = HfArg(
        default=None, help="Hub id of the base, where model_name_or_path is a local copy; for card and adapter."
    )
    overwrite_repository: bool = HfArg(
        default=False, help="Replace something else that the repository holds, with `push_to_hub`."
    )
    max_batch_tokens: int | None = HfArg(
        default=None,
        help="Tokens of a micro-batch, all channels together: rows of similar length fill it, instead of "
        "`per_device_train_batch_size` questions.",
    )
    max_length: int | None = HfArg(
        default=2048, help="Longest row in tokens, prompt and response; a longer one is left out."
    )

    def __post_init__(self) -> None:
        self._check_loss()
        self._check_unsupported()
        self._check_schedule()
        # The collator encodes rows; TRL's own preparation would look for text columns.
        self.remove_unused_columns = False
        if self.greater_is_better is None and self.metric_for_best_model is not None:  # type: ignore[has-type]
            # The base class takes every metric but those called loss for a score.
            self.greater_is_better = not self.metric_for_best_model.endswith(LOWER_IS_BETTER)
        self.dataset_kwargs = {**(self.dataset_kwargs or {}), "skip_prepare_dataset": True}  # type: ignore[has-type]
        super().__post_init__()

    @property
    def allowed_rejected_share(self) -> float:
        """The share of rows that may be left out: none under `strict`."""
        return 0.0 if self.strict else self.max_rejected_share

    def _check_loss(self) -> None:
        """Raise ValueError for a loss that cannot be computed."""
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        if not self.kl_weight > 0 and self.teacher_kind != NO_TEACHER:
            raise ValueError(
                f"kl_weight must be above 0, got {self.kl_weight}; to train on hard targets alone set "
                "teacher_kind: none"
            )
        if not 0 < self.beta < 1:
            raise ValueError(f"beta must be between 0 and 1, got {self.beta} (or use forward_kl, reverse_kl)")
        for name, known in (
            ("teacher_kind", TEACHER_KINDS),
            ("divergence", DIVERGENCES),
            ("hard_targets", RESPONSE_COLUMN),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if not self.channels:
            raise ValueError(f"channels is empty: name some of {', '.join(CHANNELS)}")
        check_channels(self.channels, "channels")
        if not 0 <= self.max_rejected_share < 1:
            raise ValueError(f"max_rejected_share is in [0, 1), got {self.max_rejected_share}")

    def _check_schedule(self) -> None:
        """Raise ValueError for a batch, a number of steps or a schedule that would fail after data and models."""
        for name in ("gradient_accumulation_steps", "per_device_train_batch_size", "per_device_eval_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.eval_answers < 0 or (self.max_eval_samples is not None and self.max_eval_samples < 1):
            raise ValueError("eval_answers must be 0 or more, and max_eval_samples 1 or more")
        if self.max_batch_tokens is not None and self.max_batch_tokens < 1:
            raise ValueError(f"max_batch_tokens must be 1 or more, got {self.max_batch_tokens}")
        if self.max_batch_tokens is not None and self.train_sampling_strategy != "random":
            raise ValueError(
                f"max_batch_tokens groups rows by length itself: leave out train_sampling_strategy "
                f"{self.train_sampling_strategy}"
            )
        if self.max_steps == 0:
            raise ValueError("max_steps must be above 0, or -1 for num_train_epochs")
        if self.optim_target_modules and not any(name in str(self.optim) for name in ("galore", "apollo")):
            raise ValueError(f"optim_target_modules is for galore and apollo optimizers, and optim is {self.optim}")
        settings: Any = self.lr_scheduler_kwargs
        if isinstance(settings, str):  # as typed; the base class will read it
            settings = json.loads(settings)
        if settings:
            optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
            try:
                get_scheduler(self.lr_scheduler_type, optimizer, 1, 2, dict(settings))
            except TypeError as error:
                raise ValueError(f"lr_scheduler_kwargs: {error}") from error

    def _check_unsupported(self) -> None:
        """Raise ValueError for arguments of the base classes that this trainer does not support."""
        refuse_unsupported(self, REFUSED)
        if self.hub_strategy not in HUB_STRATEGIES:
            raise ValueError(f"hub_strategy is one of {', '.join(HUB_STRATEGIES)}, got {self.hub_strategy!r}")


@dataclass
class ModelArguments(ModelConfig):
    """TRL's `ModelConfig` (student, LoRA, quantization) and the teacher."""

    teacher_model_name_or_path: str | None = HfArg(
        default=None, help="The frozen text LLM: answers the questions of a new data set, and the KL's teacher."
    )
    teacher_model_revision: str = HfArg(default="main", help="Branch, tag or commit of the teacher.")
    teacher_dtype: str | None = HfArg(default=None, help="Precision of the teacher; unset, the student's `dtype`.")
    teacher_load_in_4bit: bool = HfArg(default=False, help="Load the teacher in 4-bit NF4 (bitsandbytes).")
    teacher_device_map: str | None = HfArg(
        default=None,
        help="Place of the teacher: unset, beside the student; a device ('cuda:1', 'cpu'); 'auto', spread over free "
        "devices; 'offload': layers stay in host memory and are copied to the student's device one at a time.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_unsupported(self, MODEL_REFUSED)
        if self.teacher_load_in_4bit and self.teacher_device_map == "offload":
            raise ValueError(
                "teacher_load_in_4bit and teacher_device_map 'offload' exclude each other: bitsandbytes keeps its "
                "weights on the device. Offload the teacher unquantized, or leave it in 4-bit beside the student"
            )
        if self.model_name_or_path is None:
            raise ValueError("model_name_or_path is not set: it names the speech LLM to train")
        if (self.load_in_4bit or self.load_in_8bit) and not self.use_peft:
            raise ValueError(
                "a quantized student cannot be trained itself; set use_peft (QLoRA), or load it unquantized"
            )

    @property
    def teacher(self) -> TeacherSettings | None:
        """Settings of the text LLM; None where none is named."""
        if self.teacher_model_name_or_path is None:
            return None
        return TeacherSettings(
            self.teacher_model_name_or_path,
            self.teacher_model_revision,
            self.teacher_dtype or self.dtype,
            self.teacher_load_in_4bit,
            self.teacher_device_map,
        )
