"""`CrossModalDistillTrainer`: TRL's SFT trainer on batches of pairs."""

import functools
from collections.abc import Mapping
from typing import Any

import torch
from datasets import Dataset
from peft import PeftConfig, PeftModel
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_pt_utils import BatchRebalanceSampler
from transformers.trainer_utils import EvalLoopOutput

from data_builders.schema import CHANNELS, PAIR_CHANNELS, SOUND_CHANNEL
from trainer_ext.arguments import NO_TEACHER, CrossModalDistillConfig
from trainer_ext.channel_meter import PARTS, ChannelMeter
from trainer_ext.collator import PairCollator
from trainer_ext.evaluation.divergences import WITH_STATES
from trainer_ext.evaluation.held_out import AUTOMATIC
from trainer_ext.evaluation.quick_scores import MODALITIES, choose_questions, score_questions
from trainer_ext.hub.run_facts import RunFacts
from trainer_ext.judge_free import JudgeFreeMeter, mean_divergences
from trainer_ext.length_sampler import LengthGroupedSampler, ResumableRebalanceSampler
from trainer_ext.loading.adapter_config import check_peft_config, check_trained_parameters
from trainer_ext.loading.adapter_patterns import check_patterns
from trainer_ext.loss.alignment import gather_response_labels, response_rows
from trainer_ext.loss.distillation import LossParts, grouped_loss
from trainer_ext.loss.objective import Objective
from trainer_ext.loss.teacher_targets import LiveTargets, TokenGroup
from trainer_ext.pair_batch import PairBatch
from trainer_ext.pushing_trainer import PushingTrainer
from trainer_ext.row_validation import prepare_rows
from trainer_ext.run_identity import describe_run
from trainer_ext.students.base import StudentFamily
from trainer_ext.students.distill_forward import (
    DistillOutput,
    DistillRequest,
    HiddenStatesRequest,
    install_distill_forward,
)
from trainer_ext.teachers.base import Teacher
from trainer_ext.teachers.untouched import UntouchedStudent
from trainer_ext.token_budget_sampler import TokenBudgetSampler, check_budget, fill_batches


class CrossModalDistillTrainer(PushingTrainer):
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
        eval_dataset: rows like them, or several sets by name; the loss on them is logged with the prefix `eval_`.
        peft_config: the adapter to train; None trains the model itself, frozen modules apart.

    Attributes:
        checked_rows: the student's tokens of every row of `train_dataset`, and the rows that were left out of it.
        run_facts: facts for the model card; a recipe adds data set and scores.

    Raises:
        ValueError: rows or an argument that cannot be trained on; see `row_validation.prepare_rows`.
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
        eval_dataset: Dataset | Mapping[str, Dataset] | None = None,
        peft_config: PeftConfig | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        kind = NO_TEACHER if teacher is None else teacher.kind
        if kind != args.teacher_kind:
            raise ValueError(
                f"teacher_kind is {args.teacher_kind!r}, but the teacher given is {kind!r}: give the trainer a "
                "teacher of that kind, or change teacher_kind"
            )
        given = model.peft_config.values() if isinstance(model, PeftModel) else [peft_config] if peft_config else []
        for config in given:
            check_peft_config(config)
            if not isinstance(model, PeftModel):
                check_patterns(config, model, "to be trained")
        self.family, self.teacher = family, teacher
        encoder = None if teacher is None else teacher.encoder
        train_dataset, self.checked_rows = prepare_rows(train_dataset, family, encoder, args)
        if args.max_batch_tokens is not None:
            check_budget(self.checked_rows.lengths, train_dataset["id"], args.max_batch_tokens)
        identity = describe_run(args, model, next(iter(given), None), teacher, self.checked_rows.digest)
        eval_dataset = prepare_eval_rows(eval_dataset, family, encoder, args)
        check_best_metric(args, eval_dataset)
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
        self.add_checkpoint_callbacks(identity)
        self.add_push_callback()
        self.is_adapted = isinstance(self.model, PeftModel)
        base_model = self.model.get_base_model() if self.is_adapted else self.model
        check_trained_parameters(base_model, family, self.is_adapted)
        install_distill_forward(base_model, family.packed_inputs)
        for parameter in self.model.parameters():
            # TRL casts adapters of a quantized model to bfloat16, in which Adam's small steps are rounded away.
            if self.is_adapted and parameter.requires_grad:
                parameter.data = parameter.data.float()
        self.objective = Objective(args.kl_weight, args.temperature, args.divergence, args.beta)
        self.untouched: UntouchedStudent | None = None
        if teacher is not None:
            teacher.attach(self.model, self.accelerator.device, args.temperature)
        if teacher is not None and SOUND_CHANNEL in args.channels:
            instead = f"teacher_kind {NO_TEACHER!r}, or channels without {SOUND_CHANNEL!r}"
            self.untouched = UntouchedStudent(self.model, f"channel {SOUND_CHANNEL!r}", instead)
            if self.is_sharded:
                raise ValueError(
                    f"channel {SOUND_CHANNEL!r} is trained with an unsharded student: its processes would wait for "
                    "each other in a batch without sounds"
                )
        self.judge_free = JudgeFreeMeter(self.accelerator.device)
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
        rows = response_rows(batch.labels)  # (N,)
        groups = self._teach(batch, rows)
        if self.model.training or self.is_sharded:
            request = DistillRequest(batch.labels, groups, self.objective)
            total = model(**batch.model_inputs, distill=request).total
            parts = request.parts
            assert parts is not None
        else:
            parts = self._measure_divergences(model, batch, rows, groups)
            total = parts.total
        batch.check_finite(parts, rows, self.state.global_step + 1)
        if self.model.training:
            self.meters["train"].update(parts, batch.channel_index[rows])
        else:
            # By question, so that those that fill the last batch of several processes can be left out.
            sums = self.meters["eval"].sum_by_question(parts, batch, rows)
            self.meters["eval"].add(self.accelerator.gather_for_metrics(sums))
        if num_items_in_batch is None:
            loss = total / max(len(rows), 1)
        else:
            loss = total / num_items_in_batch
            if self.args.average_tokens_across_devices:
                loss = loss * self.accelerator.num_processes
        return (loss, DistillOutput(total=total)) if return_outputs else loss

    def _teach(self, batch: PairBatch, rows: Tensor) -> list[TokenGroup]:
        """Return the batch's response tokens with their teachers: those about sounds, which come last, have another.

        Args:
            rows: (N,), the student row of each response token.
        """
        if self.teacher is None:
            return [TokenGroup(None, None)]
        if self.untouched is None:
            return [TokenGroup(None, self.teacher.targets(batch.teacher_inputs, batch.teacher_index()))]
        sounds = int((batch.channel_index[rows] == CHANNELS.index(SOUND_CHANNEL)).sum())
        groups, pairs = [], len(rows) - sounds
        if pairs or not sounds:
            targets = self.teacher.targets(batch.teacher_inputs, batch.teacher_index()[:pairs])
            groups.append(TokenGroup(pairs, targets))
        if sounds:
            states = self.untouched.hidden_states(*batch.select_sounds())
            same = torch.arange(sounds, device=states.device)
            groups.append(TokenGroup(sounds, LiveTargets(same, states, lm_head_weight=None)))
        return groups

    def _measure_divergences(
        self, model: torch.nn.Module, batch: PairBatch, rows: Tensor, groups: list[TokenGroup]
    ) -> LossParts:
        """Return the loss parts of an evaluation's batch, and add its forgetting and misalignment to their meter.

        One forward serves all three. The head is read outside the model, which only an unsharded one allows.
        """
        hidden_states = model(**batch.model_inputs, distill=HiddenStatesRequest(batch.labels)).hidden_states
        head = self.accelerator.unwrap_model(model).get_output_embeddings().weight
        pairs = groups[0].teacher if batch.teacher_inputs else None
        teacher = pairs if isinstance(pairs, LiveTargets) else None
        sums = self.judge_free.sum_by_question(batch, rows, hidden_states, head, teacher)
        self.judge_free.add(self.accelerator.gather_for_metrics(sums))
        labels = gather_response_labels(batch.labels)
        return grouped_loss(hidden_states, head, labels, groups, self.objective)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the loss parts of each channel, averaged over the tokens since the last log: `s2t/ce`, ..."""
        if self.model.training:
            means = self.meters["train"].read_and_reset(lambda sums: self.accelerator.reduce(sums, reduction="sum"))
            self._metrics["train"].update({name: [mean] for name, mean in means.items()})
        super().log(logs, start_time)

    def evaluation_loop(
        self, dataloader: DataLoader, description: str, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """Evaluate, and return the loss as the mean over all response tokens, with its parts under the same prefix.

        The base class averages over batches, and counts the rows twice that fill the last batch of several processes.

        Raises:
            ValueError: for `predict`, which would return the padded logits of the responses.
        """
        if description == "Prediction":
            raise ValueError(
                "predict() is refused: the student answers by trainer_ext.evaluation.generation, and "
                "evaluate() computes the loss"
            )
        meter = self.meters["eval"]
        meter.reset()
        self.judge_free.reset()
        output = super().evaluation_loop(dataloader, description, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        loss = meter.mean_loss(self.objective)
        means = meter.read_and_reset(lambda sums: sums)  # gathered already
        output.metrics[f"{metric_key_prefix}_loss"] = loss
        means |= mean_divergences(self.judge_free.read())
        means |= self._score_answers(dataloader.dataset)
        output.metrics.update({f"{metric_key_prefix}_{name}": mean for name, mean in means.items()})
        return output

    def _score_answers(self, rows: Dataset) -> dict[str, float]:
        """Return the scores of `eval_answers` of the evaluated questions; every process answers them all."""
        if self.args.eval_answers == 0 or self.is_sharded:
            return {}
        model = self.accelerator.unwrap_model(self.model)
        chosen = choose_questions(rows, self.args.eval_answers)
        return score_questions(model, self.family, chosen, self.args.evaluator, self.args.eval_batch_size)

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        """Return the data loader of an evaluation; rows that are given here are validated like those of training."""
        if isinstance(eval_dataset, Dataset) and eval_dataset not in self._validated_eval_datasets():
            encoder = None if self.teacher is None else self.teacher.encoder
            eval_dataset = prepare_eval_rows(eval_dataset, self.family, encoder, self.args)
        drops_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False  # every row is evaluated
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.args.dataloader_drop_last = drops_last

    def _validated_eval_datasets(self) -> list[Dataset]:
        known = self.eval_dataset
        return list(known.values()) if isinstance(known, Mapping) else [] if known is None else [known]

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        """Return a sampler whose order depends on seed and epoch alone; see length_sampler.py."""
        seed = self._order_seed
        if self.args.max_batch_tokens is not None:
            return TokenBudgetSampler(
                self.token_batches, self.args.world_size, self.args.process_index, seed, self._current_epoch
            )
        if self.args.train_sampling_strategy != "group_by_length":
            sampler = super()._get_train_sampler(train_dataset)
            is_rebalance = isinstance(sampler, BatchRebalanceSampler)
            return ResumableRebalanceSampler(sampler, seed, self._current_epoch) if is_rebalance else sampler
        rows_per_group = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return LengthGroupedSampler(
            self.train_dataset[self.args.length_column_name],
            rows_per_group,
            seed,
            self._current_epoch,
        )

    @functools.cached_property
    def token_batches(self) -> list[list[int]]:
        """The micro-batches of `max_batch_tokens`, of all processes."""
        multiple = self.args.world_size * self.args.gradient_accumulation_steps
        return fill_batches(self.checked_rows.lengths, self.args.max_batch_tokens, multiple, self._order_seed)

    @property
    def _order_seed(self) -> int:
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    def _current_epoch(self) -> int:
        return int((self.state.epoch or 0) + 1e-6)  # it is a sum of fractions


def check_best_metric(args: CrossModalDistillConfig, eval_dataset: Dataset | Mapping[str, Dataset] | None) -> None:
    """Raise ValueError for a `metric_for_best_model` that no evaluation gives; names those that one gives."""
    if args.metric_for_best_model is None or args.eval_strategy == "no":
        return
    prefixes = [f"{name}_" for name in eval_dataset] if isinstance(eval_dataset, Mapping) else [""]
    parts = ["loss", *(f"{channel}/{part}" for channel in args.channels for part in PARTS)]
    if set(PAIR_CHANNELS) <= set(args.channels):
        parts.append("misalignment")
    if "t2t" in args.channels and args.teacher_kind in WITH_STATES:
        parts.append("forgetting")
    if args.eval_answers:
        names = [args.evaluator] if args.evaluator else AUTOMATIC
        parts += [f"{modality}/{name}" for modality in MODALITIES for name in names]
    known = [f"eval_{prefix}{part}" for prefix in prefixes for part in parts]
    if f"eval_{args.metric_for_best_model.removeprefix('eval_')}" not in known:
        raise ValueError(f"metric_for_best_model {args.metric_for_best_model!r} is none of {', '.join(known)}")


def prepare_eval_rows(
    eval_dataset: Dataset | Mapping[str, Dataset] | None, family: StudentFamily, encoder: Any, args: Any
) -> Any:
    """Validate the rows of one data set, or of several by name; see `prepare_rows`."""
    if isinstance(eval_dataset, Mapping):
        return {name: prepare_eval_rows(rows, family, encoder, args) for name, rows in eval_dataset.items()}
    if eval_dataset is None:
        return None
    return prepare_rows(eval_dataset, family, encoder, args, every_channel=False)[0]
