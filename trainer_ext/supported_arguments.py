"""Every field of `SFTConfig` and TRL's `ModelConfig`: read here, read by the base classes, or refused.

An argument that has no effect on this trainer is refused with the reason, unless it has its default. A test compares
the three lists with the installed versions, so that a new field of a new version is decided on before a release.
"""

import dataclasses
from typing import Any


def names(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


# Training data are prepared by our own collator, from the columns of data_builders/schema.py.
_OUR_COLLATOR = "rows are encoded by this trainer's own collator"
_OUR_LOSS = "the loss is CE + kl_weight * temperature^2 * divergence"
_NO_METRICS = "evaluation computes the loss and its parts alone; scores come from trainer_ext.evaluation"

REFUSED: dict[str, str] = {
    # Loss
    "label_smoothing_factor": _OUR_LOSS,
    "loss_type": _OUR_LOSS,
    "router_aux_loss_coef": _OUR_LOSS,
    "completion_only_loss": "the response alone is scored, always",
    "assistant_only_loss": "the response alone is scored, always",
    "use_liger_kernel": "the loss has kernels of its own",
    "liger_kernel_config": "the loss has kernels of its own",
    "neftune_noise_alpha": "rows are packed into one, so the noise would fall with the batch size",
    # Data
    "dataset_text_field": _OUR_COLLATOR,
    "dataset_num_proc": _OUR_COLLATOR,
    "truncation_mode": "a row is never cut: a cut would go through audio tokens or the answer",
    "shuffle_dataset": "the sampler shuffles, by train_sampling_strategy",
    "packing": "the student packs the rows of a batch itself",
    "packing_strategy": "the student packs the rows of a batch itself",
    "padding_free": "the student packs the rows of a batch itself",
    "eval_packing": "the student packs the rows of a batch itself",
    "pad_to_multiple_of": "the student packs the rows of a batch itself, so there is no padding",
    "label_names": _OUR_COLLATOR,
    "dataloader_persistent_workers": "an evaluation would be given the rows of an earlier one",
    "auto_find_batch_size": "the batch would change in the middle of a run; recipes/plan_memory.py plans one",
    "ignore_data_skip": "a resumed run would see some rows twice and others never",
    # Tokenizer and model
    "chat_template_path": "student and teacher are asked by their own chat templates",
    "eos_token": "the student would be trained on one end of turn and saved with another",
    "pad_token": "padding is the tokenizer's own",
    "model_init_kwargs": "the student is loaded before the trainer",
    "trust_remote_code": "models run transformers' own code",
    "use_cache": "training has no cache of keys and values",
    "parallelism_config": "the packed forward is not sharded over the tokens of a row",
    # Precision
    "fp16": "the gradient of the states is formed before the loss is scaled, and underflows; use bf16, or float32",
    "fp16_full_eval": "it rounds the trained weights before they are saved",
    "bf16_full_eval": "it rounds the trained weights before they are saved",
    # Evaluation
    "prediction_loss_only": _NO_METRICS,
    "eval_do_concat_batches": _NO_METRICS,
    "eval_use_gather_object": _NO_METRICS,
    "eval_accumulation_steps": _NO_METRICS,
    "include_for_metrics": _NO_METRICS,
    "batch_eval_metrics": _NO_METRICS,
    "do_predict": _NO_METRICS,
    "do_train": "a recipe trains always, and the trainer by train()",
    "do_eval": "evaluation during training is asked for by eval_strategy",
    # Saving
    "enable_jit_checkpoint": "a checkpoint at SIGTERM and at SIGINT is saved always",
    "hub_always_push": "a checkpoint whose predecessor is still being pushed is left to the next push",
    "hub_token": "it would be written to disk with the run's arguments. Set the environment variable HF_TOKEN or run "
    "`hf auth login`",
}

READ_HERE = names(
    """
    output_dir seed data_seed remove_unused_columns dataset_kwargs max_length average_tokens_across_devices bf16
    activation_checkpointing train_sampling_strategy length_column_name save_total_limit eval_strategy
    per_device_train_batch_size gradient_accumulation_steps num_train_epochs max_steps
    load_best_model_at_end hub_strategy push_to_hub hub_revision hub_model_id hub_private_repo
    resume_from_checkpoint disable_tqdm optim deepspeed fsdp
    """
)

BASE_CLASSES = names(
    """
    lr_scheduler_type lr_scheduler_kwargs warmup_steps optim_args weight_decay adam_beta1 adam_beta2 adam_epsilon
    optim_target_modules max_grad_norm tf32 activation_checkpointing_kwargs gradient_checkpointing
    gradient_checkpointing_kwargs torch_compile torch_compile_backend torch_compile_mode torch_empty_cache_steps
    logging_strategy logging_steps logging_first_step log_on_each_node logging_nan_inf_filter
    include_num_input_tokens_seen log_level log_level_replica report_to run_name project trackio_space_id
    trackio_bucket_id trackio_static_space_id eval_steps eval_delay per_device_eval_batch_size eval_on_start
    save_only_model save_steps save_on_each_node metric_for_best_model greater_is_better
    restore_callback_states_from_checkpoint full_determinism use_cpu accelerator_config dataloader_drop_last
    dataloader_num_workers dataloader_pin_memory dataloader_prefetch_factor
    dataloader_multiprocessing_context dataloader_in_order ddp_find_unused_parameters ddp_bucket_cap_mb
    ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout fsdp_config debug skip_memory_metrics local_rank
    activation_offloading learning_rate save_strategy
    """
)

# Fields that change where and how often something is written, where it runs, or what it costs, but no weight.
# Evaluation during training is not among them: its data loader draws from the random state that dropout draws from.
WITHOUT_EFFECT_ON_WEIGHTS = names(
    """
    output_dir overwrite_output_dir resume_from_checkpoint do_train do_eval do_predict evaluator strict
    max_rejected_share max_length logging_strategy logging_steps logging_first_step log_on_each_node
    logging_nan_inf_filter include_num_input_tokens_seen log_level log_level_replica disable_tqdm report_to run_name
    project trackio_space_id trackio_bucket_id trackio_static_space_id save_strategy save_steps save_on_each_node
    save_only_model save_total_limit push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push
    hub_revision hub_base_model_id overwrite_repository use_cpu
    dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers
    dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order ddp_bucket_cap_mb
    ddp_broadcast_buffers ddp_static_graph ddp_find_unused_parameters ddp_backend ddp_timeout debug
    skip_memory_metrics local_rank torch_empty_cache_steps activation_checkpointing activation_checkpointing_kwargs
    gradient_checkpointing gradient_checkpointing_kwargs activation_offloading prediction_loss_only
    eval_do_concat_batches eval_use_gather_object eval_accumulation_steps include_for_metrics batch_eval_metrics
    per_device_eval_batch_size restore_callback_states_from_checkpoint remove_unused_columns dataset_kwargs
    length_column_name
    """
)

MODEL_REFUSED: dict[str, str] = {
    "lora_target_parameters": "no student family has parameters outside of modules to adapt",
}
MODEL_READ_HERE = names(
    """
    model_name_or_path model_revision dtype attn_implementation use_peft load_in_8bit load_in_4bit
    use_bnb_nested_quant lora_target_modules
    """
)
MODEL_BASE_CLASSES = names(
    """
    lora_r lora_alpha lora_dropout lora_task_type lora_modules_to_save use_rslora use_dora
    bnb_4bit_quant_type bnb_4bit_quant_storage
    """
)


def refuse_unsupported(arguments: Any, refused: dict[str, str]) -> None:
    """Raise ValueError, naming all of them, for refused fields of a dataclass that are not at their defaults."""
    defaults = {field.name: default_of(field) for field in dataclasses.fields(arguments)}
    given = [name for name in refused if getattr(arguments, name) != defaults[name]]
    if given:
        reasons = "; ".join(f"{name} is refused: {refused[name]}" for name in given)
        raise ValueError(f"{reasons}. Leave {'it' if len(given) == 1 else 'them'} out")


def default_of(field: dataclasses.Field) -> Any:
    """Return the default of a dataclass's field."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
