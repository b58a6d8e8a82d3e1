"""`CrossModalDistillTrainer`: TRL's SFT trainer on batches of pairs.

rows -> PairCollator -> batch of pairs -> teacher's states + student's forward -> loss per response token
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftConfig, PeftModel
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints
from transformers.utils import logging
from trl import SFTTrainer

from data_builders.schema import CHANNELS
from trainer_ext.arguments import NO_TEACHER, CrossModalDistillConfig
from trainer_ext.checkpoints.complete import (
    find_corruption,
    find_last_complete_checkpoint,
    write_manifest,
)
from trainer_ext.collator import PairCollator
from trainer_ext.loading.adapter import check_keys
from trainer_ext.loss.alignment import pair_with_teacher, response_rows
from trainer_ext.loss.distillation import LossParts
from trainer_ext.loss.teacher_targets import Objective
from trainer_ext.row_validation import check_rows
from trainer_ext.students.distill_forward import DistillRequest, install_distill_forward
from trainer_ext.teachers.base import Teacher

logger = logging.get_logger(__name__)

PARTS = ("ce", "kl", "accuracy", "entropy")
BY_LENGTH = ("group_by_length", "batch_rebalance")  # values of `train_sampling_strategy`


class CrossModalDistillTrainer(SFTTrainer):
    """Distils a text LLM into a speech LLM through the channels t2t and s2t (arXiv 2509.14930).

    Besides `compute_loss` and `log` it overrides `train` and `_save_checkpoint` (checkpoints are whole or ignored),
    `_load_from_checkpoint` and `_load_best_model` (weights by the names under which they are saved),
    `_save` (feature extractor beside the tokenizer, no pickled arguments) and `create_model_card` (written once, by
    the recipe, when there are results to tell).

    Args:
        model: the student, loaded by its family.
        args: the configuration.
        family: the student's family (`trainer_ext.load_student_family`).
        teacher: whom to learn from, of the kind that `args.teacher_kind` names; None for "none".
        train_dataset: rows of the data contract (data_builders/schema.py), speech undecoded.
        eval_dataset: rows like them; the loss on them is logged with the prefix `eval_`.
        peft_config: the adapter to train; None trains the model itself, frozen modules apart.

    Attributes:
        train_lengths: the tokens that every row of `train_dataset` costs the student, all channels together.

    Raises:
        ValueError: a row or an argument that could not be trained on; see `checks.check_rows`.
        FloatingPointError: while training, when a loss is not finite; names step, channels and row ids.
    """

    _tag_names = ["trl", "cross-modal-distillation", "speech"]
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: PreTrainedModel,
        args: CrossModalDistillConfig,
        family: Any,
        teacher: Teacher | None,
        train_dataset: Dataset,
        eval_dataset: Dataset | None = None,
        peft_config: PeftConfig | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        given = NO_TEACHER if teacher is None else teacher.kind
        if given != args.teacher_kind:
            raise ValueError(
                f"teacher_kind is {args.teacher_kind!r}, but the teacher given is {given!r}: give the trainer a "
                "teacher of that kind, or change teacher_kind"
            )
        reader = None if teacher is None else teacher.reader

        def prepare(dataset: Dataset) -> tuple[Dataset, list[int]]:
            lengths = check_rows(
                dataset, family, reader, args.channels, args.hard_targets, args.max_length
            )
            if args.train_sampling_strategy in BY_LENGTH:
                dataset = add_lengths(dataset, args.length_column_name, lengths)
            return keep_trained_rows(dataset, lengths), [length for length in lengths if length]

        train_dataset, self.train_lengths = prepare(train_dataset)
        collator = PairCollator(
            family, reader, tuple(args.channels), args.hard_targets, args.max_length
        )
        super().__init__(
            model=model,
            args=args,
            data_collator=collator,
            train_dataset=train_dataset,
            eval_dataset=None if eval_dataset is None else prepare(eval_dataset)[0],
            processing_class=family.tokenizer,
            peft_config=peft_config,
            callbacks=callbacks,
        )
        adapted = isinstance(self.model, PeftModel)
        install_distill_forward(self.model.get_base_model() if adapted else self.model, family.pack)
        for parameter in self.model.parameters():
            # TRL casts adapters of a quantized model to bfloat16, in which Adam's small steps are rounded away.
            if adapted and parameter.requires_grad:
                parameter.data = parameter.data.float()
        self.family = family
        self.teacher = teacher
        self.objective = Objective(args.kl_weight, args.temperature, args.divergence, args.beta)
        if teacher is not None:
            teacher.attach(self.model, self.accelerator.device, args.temperature)
        self._sums = {mode: self._empty_sums() for mode in ("train", "eval")}

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Mean over the response tokens of the global batch of CE + kl_weight * temperature^2 * divergence.

        `num_items_in_batch` counts the tokens of all accumulation steps and processes, so the sum over this batch's
        tokens is divided by it, and multiplied by the number of processes because DDP averages their gradients.
        """
        batch = dict(inputs)
        example_ids, labels = batch.pop("example_ids"), batch.pop("labels")
        channel, question_index, response_lengths = (
            torch.tensor(batch.pop(key), device=labels.device)
            for key in ("channel", "question_index", "response_lengths")
        )
        asked = {key: batch.pop(key) for key in list(batch) if key.startswith("teacher_")}
        signal = None
        if self.teacher is not None:
            paired = pair_with_teacher(labels, response_lengths, question_index)
            signal = self.teacher.signal(asked, paired)
        request = DistillRequest(labels, signal, self.objective)
        output = model(**batch, distill=request)
        parts = request.parts
        assert parts is not None
        rows = response_rows(labels)  # (N,)
        if not torch.isfinite(parts.total):
            raise FloatingPointError(
                self._describe_bad_rows(parts, rows, channel, question_index, example_ids)
            )
        self._add_to_sums(parts, channel[rows])
        if num_items_in_batch is None:
            loss = output.total / max(len(rows), 1)
        else:
            loss = output.total / num_items_in_batch
            if self.args.average_tokens_across_devices:
                loss = loss * self.accelerator.num_processes
        return (loss, output) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what each channel's loss is made of, averaged over the tokens since the last log: `s2t/ce`, ..."""
        mode = "train" if self.model.training else "eval"
        sums = self.accelerator.reduce(self._sums[mode], reduction="sum")  # (channels, 1 + parts)
        for channel, (tokens, *parts) in zip(CHANNELS, sums.tolist(), strict=True):
            if tokens:
                for name, part in zip(PARTS, parts, strict=True):
                    self._metrics[mode][f"{channel}/{name}"] = [part / tokens]
        self._sums[mode] = self._empty_sums()
        super().log(logs, start_time)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train; `resume_from_checkpoint=True` takes the newest whole checkpoint, or starts afresh if there is none."""
        if resume_from_checkpoint is True:
            checkpoint, skipped = find_last_complete_checkpoint(Path(self.args.output_dir))
            for line in skipped:
                logger.warning(line)
            if checkpoint is None:
                logger.warning(
                    f"no whole checkpoint in {self.args.output_dir}: training starts from the beginning"
                )
            resume_from_checkpoint = None if checkpoint is None else str(checkpoint)
        elif resume_from_checkpoint and (damage := find_corruption(Path(resume_from_checkpoint))):
            raise ValueError(f"cannot resume from {resume_from_checkpoint}: {damage}")
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Save finite weights, then write the manifest, and only then delete older checkpoints.

        Raises:
            FloatingPointError: a gradient was not finite although the loss was; what was saved before is kept.
        """
        spoiled = find_not_finite(model)
        # Under sharding a process sees its own part; if any of them stops, all do.
        found = torch.tensor(float(spoiled is not None), device=self.accelerator.device)
        if self.accelerator.reduce(found, reduction="sum") > 0:
            raise FloatingPointError(
                f"after step {self.state.global_step} {spoiled or 'a weight of another process'} is not finite, so "
                "nothing is saved. Lower the learning rate or set max_grad_norm; the last whole checkpoint can be "
                "resumed from."
            )
        folder = Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save and folder.exists():  # left by a save that was killed
            shutil.rmtree(folder)
        self.accelerator.wait_for_everyone()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            write_manifest(folder)
            rotate_checkpoints(
                output_dir=self.args.output_dir,
                save_total_limit=limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """As the base class, but adapters must fit, and a model without adapters is read as its class reads it."""
        if isinstance(self.model, PeftModel):
            check_keys(self.model, resume_from_checkpoint)
        if not self._reads_own_weights():
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        # `save_pretrained` writes the names of published checkpoints ("model.layers.0" for what is
        # "model.language_model.layers.0" in memory). The base class compares names literally, finds none, and goes on
        # from the untrained weights with a warning.
        saved = self.family.load_model(resume_from_checkpoint, dtype=self.model.dtype)
        self.model.load_state_dict(saved.state_dict())

    def _load_best_model(self) -> None:
        """As the base class, with `_load_from_checkpoint`'s way of reading."""
        if self._reads_own_weights():
            self._load_from_checkpoint(self.state.best_model_checkpoint)
        else:
            super()._load_best_model()

    def _reads_own_weights(self) -> bool:
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        return not isinstance(self.model, PeftModel) and not sharded

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None
    ) -> None:
        """Model, tokenizer and feature extractor; no training_args.bin, a pickle that would be pushed to the Hub.

        A model without adapters is saved whole, with what the student left on disk.
        """
        if self.args.should_save and not isinstance(self.model, PeftModel):
            trained = self.model.state_dict() if state_dict is None else state_dict
            state_dict = {**trained, **self.family.load_unloaded_weights(self.model)}
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            self.family.save_pretrained(str(folder))
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the recipe writes the card from the run's results (`card.write_card`)."""

    def _empty_sums(self) -> Tensor:
        return torch.zeros(
            len(CHANNELS), 1 + len(PARTS), dtype=torch.float64, device=self.accelerator.device
        )

    def _add_to_sums(self, parts: LossParts, channel: Tensor) -> None:
        """Add the tokens of this batch, (N,) each, to the sums of their channels."""
        sums = self._sums["train" if self.model.training else "eval"]
        values = torch.stack(
            [
                torch.ones_like(parts.ce),
                parts.ce,
                parts.kl,
                parts.correct.to(parts.ce.dtype),
                parts.entropy,
            ],
            dim=1,
        )
        sums.index_add_(0, channel, values.detach().to(sums.dtype))

    def _describe_bad_rows(
        self,
        parts: LossParts,
        rows: Tensor,
        channel: Tensor,
        question_index: Tensor,
        example_ids: list[str],
    ) -> str:
        bad = rows[~(torch.isfinite(parts.ce) & torch.isfinite(parts.kl))].unique().tolist()
        named = [
            f"{CHANNELS[channel[row]]} of row {example_ids[question_index[row]]}" for row in bad
        ]
        return (
            f"the loss is not finite in step {self.state.global_step + 1}: {', '.join(named)}. The run stops "
            "before the weights are touched; look at these rows' speech and answers, or lower the learning rate. The "
            "last whole checkpoint can be resumed from."
        )


def find_not_finite(model: torch.nn.Module) -> str | None:
    """The first trained weight with a NaN or an infinity, in this process's part of it."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = parameter.to_local() if isinstance(parameter, DTensor) else parameter
            if not torch.isfinite(part).all():
                return name
    return None


def keep_trained_rows(dataset: Dataset, lengths: list[int]) -> Dataset:
    """The rows that train at least one channel of the run, those that cost the student tokens."""
    wanted = [number for number, length in enumerate(lengths) if length]
    return dataset if len(wanted) == len(dataset) else dataset.select(wanted)


def add_lengths(dataset: Dataset, column: str, lengths: list[int]) -> Dataset:
    """The lengths that a sampler groups rows by, unless the data set brings its own."""
    return dataset if column in dataset.column_names else dataset.add_column(column, lengths)
