"""`CrossModalDistillTrainer`: TRL's SFT trainer on batches of pairs."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftConfig, PeftModel
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer import TRAINING_ARGS_NAME
from trl import SFTTrainer

from trainer_ext.arguments import NO_TEACHER, CrossModalDistillConfig
from trainer_ext.channel_meter import ChannelMeter
from trainer_ext.checkpoints.callback import CompleteCheckpointCallback
from trainer_ext.checkpoints.resume import resolve_resume
from trainer_ext.collator import PairCollator
from trainer_ext.hub.model_card import RunFacts, write_model_card
from trainer_ext.loading.adapter import check_keys
from trainer_ext.loss.alignment import response_rows
from trainer_ext.loss.objective import Objective
from trainer_ext.pair_batch import PairBatch
from trainer_ext.row_validation import prepare_rows
from trainer_ext.students.base import StudentFamily
from trainer_ext.students.distill_forward import DistillRequest, install_distill_forward
from trainer_ext.teachers.base import Teacher


class CrossModalDistillTrainer(SFTTrainer):
    """Distills a text LLM into a speech LLM through the channels t2t and s2t (arXiv 2509.14930).

    One step, with B student rows of T tokens, Q questions, N response tokens of the student, M of the teacher:

        rows -> PairCollator -> PairBatch             input_ids (B, T), features, teacher_* (Q, T')     collator.py
        teacher.targets(teacher_inputs, index)        hidden states (M, H_t) and head, or top-k         teachers/
        student(model_inputs, distill=request)        packed (1, S), hidden states (N, H)               students/
        distillation_loss                             CE + kl_weight * temperature^2 * D, (N,)          loss/
        sum / response tokens of the global batch     scalar, backward                                  here

    Args:
        model: the student, loaded by its family.
        args: the configuration.
        family: the student's family (`trainer_ext.load_student_family`).
        teacher: of the kind that `args.teacher_kind` names; None for "none".
        train_dataset: rows of the data contract (data_builders/schema.py), speech undecoded.
        eval_dataset: rows like them; the loss on them is logged with the prefix `eval_`.
        peft_config: the adapter to train; None trains the model itself, frozen modules apart.

    Attributes:
        train_lengths: the student's tokens of every row of `train_dataset`, all channels together.
        run_facts: facts for the model card; a recipe adds data set and scores.

    Raises:
        ValueError: a row or an argument that cannot be trained on; see `row_validation.check_rows`.
        FloatingPointError: while training, when a loss is not finite; names step, channels and row ids.
    """

    _tag_names = ["trl", "cross-modal-distillation", "speech"]
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: PreTrainedModel,
        args: CrossModalDistillConfig,
        family: StudentFamily,
        teacher: Teacher | None,
        train_dataset: Dataset,
        eval_dataset: Dataset | None = None,
        peft_config: PeftConfig | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        kind = NO_TEACHER if teacher is None else teacher.kind
        if kind != args.teacher_kind:
            raise ValueError(
                f"teacher_kind is {args.teacher_kind!r}, but the teacher given is {kind!r}: give the trainer a "
                "teacher of that kind, or change teacher_kind"
            )
        encoder = None if teacher is None else teacher.encoder
        train_dataset, self.train_lengths = prepare_rows(train_dataset, family, encoder, args)
        if eval_dataset is not None:
            eval_dataset, _ = prepare_rows(eval_dataset, family, encoder, args)
        super().__init__(
            model=model,
            args=args,
            data_collator=PairCollator(family, encoder, tuple(args.channels), args.hard_targets, args.max_length),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=family.tokenizer,
            peft_config=peft_config,
            callbacks=callbacks,
        )
        self.add_callback(CompleteCheckpointCallback(args, self.accelerator))
        self.is_adapted = isinstance(self.model, PeftModel)
        base_model = self.model.get_base_model() if self.is_adapted else self.model
        install_distill_forward(base_model, family.packed_inputs)
        for parameter in self.model.parameters():
            # TRL casts adapters of a quantized model to bfloat16, in which Adam's small steps are rounded away.
            if self.is_adapted and parameter.requires_grad:
                parameter.data = parameter.data.float()
        self.family = family
        self.teacher = teacher
        self.objective = Objective(args.kl_weight, args.temperature, args.divergence, args.beta)
        if teacher is not None:
            teacher.attach(self.model, self.accelerator.device, args.temperature)
        self.meters = {mode: ChannelMeter(self.accelerator.device) for mode in ("train", "eval")}
        self.run_facts = RunFacts(base_model.name_or_path, self.is_adapted)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the mean of CE + kl_weight * temperature^2 * D over the response tokens of the global batch.

        `num_items_in_batch` counts the tokens of all accumulation steps and processes. The sum over this batch's tokens
        is divided by it, and multiplied by the number of processes because DDP averages their gradients.
        """
        batch = PairBatch.split(inputs)
        targets = None
        if self.teacher is not None:
            targets = self.teacher.targets(batch.teacher_inputs, batch.teacher_index())
        request = DistillRequest(batch.labels, targets, self.objective)
        output = model(**batch.model_inputs, distill=request)
        assert request.parts is not None
        rows = response_rows(batch.labels)  # (N,)
        batch.check_finite(request.parts, rows, self.state.global_step + 1)
        mode = "train" if self.model.training else "eval"
        self.meters[mode].update(request.parts, batch.channel_index[rows])
        if num_items_in_batch is None:
            loss = output.total / max(len(rows), 1)
        else:
            loss = output.total / num_items_in_batch
            if self.args.average_tokens_across_devices:
                loss = loss * self.accelerator.num_processes
        return (loss, output) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the loss parts of each channel, averaged over the tokens since the last log: `s2t/ce`, ..."""
        mode = "train" if self.model.training else "eval"
        means = self.meters[mode].read_and_reset(lambda sums: self.accelerator.reduce(sums, reduction="sum"))
        self._metrics[mode].update({name: [mean] for name, mean in means.items()})
        super().log(logs, start_time)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train; `resume_from_checkpoint=True` takes the newest complete checkpoint, if there is one."""
        checkpoint = resolve_resume(resume_from_checkpoint, self.args.output_dir)
        return super().train(resume_from_checkpoint=checkpoint, **kwargs)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write the card of this run from `run_facts` instead of TRL's draft."""
        if self.is_world_process_zero():
            folder = Path(self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            write_model_card(folder, self.run_facts, self.args, self.family)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Refuse adapters with other keys, and load a full model as its class does.

        `save_pretrained` writes the names of published checkpoints ("model.layers.0", in memory
        "model.language_model.layers.0"). The base class compares names literally, finds none, and continues from
        untrained weights with a warning.
        """
        if self.is_adapted:
            check_keys(self.model, resume_from_checkpoint)
        if self.is_adapted or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            saved = self.family.load_model(resume_from_checkpoint, dtype=self.model.dtype)
            self.model.load_state_dict(saved.state_dict())

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save the feature extractor beside the tokenizer, a full model with the weights left on disk, and no pickle.

        training_args.bin, a pickle that would be pushed to the Hub, is removed.
        """
        if self.args.should_save and not self.is_adapted:
            trained = self.model.state_dict() if state_dict is None else state_dict
            state_dict = {**trained, **self.family.load_unloaded_weights(self.model)}
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            self.family.save_pretrained(str(folder))
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
