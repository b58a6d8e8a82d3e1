"""Peak memory of a training process, in bytes, from the run's arguments and two config.json.

total = weights + gradients + optimizer states + teacher + (activations and loss, at their largest) + context
"""

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from trainer_ext.arguments import CrossModalDistillConfig, ModelArguments
from trainer_ext.loading.student import load_peft_config, read_dtype
from trainer_ext.loss.alignment import IGNORE_INDEX
from trainer_ext.loss.buffers import estimate_loss_bytes
from trainer_ext.loss.divergences import TRITON_CODES
from trainer_ext.memory.activations import Activations, measure_activations
from trainer_ext.memory.sharding import ONE_PROCESS, Sharding
from trainer_ext.students.base import StudentArchitecture

# Parts in memory before training starts.
WEIGHTS = ("language model", "embeddings and head", "audio tower", "adapters", "teacher")
CUDA_CONTEXT = 2**29  # kernels, cuBLAS workspaces and fragmentation of the allocator
NF4_BLOCK = 64  # weights that share a scale
# Copies of a parameter that an optimizer keeps; two by default.
STATES = {"adafactor": 0.025, "schedule_free_sgd": 1, "sgd": 0, "ademamix": 3, "lion": 1, "rmsprop": 1, "adagrad": 1}
# Bytes of a copy's element; by default those of the parameter. Quantized states have a float32 scale per block of 256.
STATE_BYTES = {"8bit": 1 + 4 / 256, "4bit": 0.5 + 4 / 128, "32bit": 4, "bnb": 4, "adafactor": 4}
STORED_BYTES_PER_ID = 14  # int64 id, float16 log-probability, float32 copy


@dataclass(frozen=True)
class Lengths:
    """The largest micro-batch of a process."""

    tokens: int  # of the student's rows, all channels, no padding
    scored: int  # response tokens among them
    questions: int
    teacher_tokens: int  # of the teacher's rows, padding included
    teacher_scored: int
    input_bytes: int  # features, ids and the rest of a batch

    @classmethod
    def from_batch(cls, batch: dict[str, Any]) -> "Lengths":
        """Measure a batch of `PairCollator`."""
        teacher_ids = batch.get("teacher_input_ids")
        return cls(
            tokens=int(batch["attention_mask"].sum()),
            scored=int((batch["labels"] != IGNORE_INDEX).sum()),
            questions=len(batch["example_ids"]),
            teacher_tokens=0 if teacher_ids is None else teacher_ids.numel(),
            teacher_scored=sum(batch["response_lengths"]),
            input_bytes=sum(value.nbytes for value in batch.values() if isinstance(value, Tensor)),
        )


@dataclass(frozen=True)
class TokenParameters:
    """Weights that every token, and that every scored token, is multiplied with; input of the time estimate."""

    student: int
    student_head: int
    student_dequantized: int  # of the student's, those stored in 4 bits
    teacher: int
    teacher_head: int
    teacher_dequantized: int


@dataclass
class MemoryPlan:
    """Bytes by purpose, in the order of the table."""

    parts: dict[str, int]
    lengths: Lengths
    token_parameters: TokenParameters
    # By phase of a step; the largest is a part.
    phases: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Precision:
    """Precision of a run's weights and products."""

    weights: torch.dtype
    computing: torch.dtype  # of the layers' inputs and of the weights they use
    half: bool  # products are in half precision, by autocast or by the weights
    casts_weights: bool  # layers use bfloat16 copies of their weights instead of autocast

    @classmethod
    def of_run(
        cls,
        model: ModelArguments,
        training: CrossModalDistillConfig,
        student: PretrainedConfig,
        sharding: Sharding,
    ) -> "Precision":
        weights = read_dtype(model.dtype, student)
        if training.bf16 and sharding.keeps_masters_apart:
            weights = torch.bfloat16
        casts = training.bf16 and sharding.casts_weights
        computing = torch.bfloat16 if casts else weights
        return cls(weights, computing, training.bf16 or weights.itemsize == 2, casts)


def plan_run(
    model: ModelArguments,
    training: CrossModalDistillConfig,
    family: StudentArchitecture,
    student: PretrainedConfig,
    teacher: PretrainedConfig | None,
    lengths: Lengths,
    sharding: Sharding = ONE_PROCESS,
    soft_targets_k: int = 64,
    on_cuda: bool = True,
    context: int = CUDA_CONTEXT,
) -> MemoryPlan:
    """Plan the memory of one process at its peak.

    Args:
        family: the student's, or its class.
        student, teacher: configs; no teacher for any kind but a model in memory.
        on_cuda: False for a CPU, where the loss works in other buffers.
        context: bytes that are taken before the first tensor.
    """
    precision = Precision.of_run(model, training, student, sharding)
    empty_model = family.make_empty_model(student, precision.weights)
    if family.unloaded_module is not None:
        empty_model.set_submodule(family.unloaded_module, nn.Module())
    weights = count_weights(empty_model, model, family)
    peft_config = load_peft_config(model, family)
    trained = list_trained(empty_model, peft_config, family)
    adapter_bytes = sum(p.nbytes for p in trained) if peft_config is not None else 0
    config = student.get_text_config()
    live_teacher = config if training.teacher_kind == "self" else teacher and teacher.get_text_config()
    teacher_bytes, teacher_parameters = (0, 0) if teacher is None else count_teacher(teacher, model)
    phases = list_phases(
        measure_layers(model, training, family, student, precision, lengths.tokens),
        lengths,
        config,
        live_teacher,
        estimate_loss_bytes(
            lengths.scored,
            lengths.teacher_scored if live_teacher is not None else None,
            config.vocab_size,
            config.hidden_size,
            trains_head=peft_config is None,
            half_precision=precision.half,
            copies_head=precision.half and precision.computing.itemsize == 4,
            in_kernels=on_cuda and training.divergence in TRITON_CODES,
        ),
        state_bytes=2 if precision.half else 4,
        soft_targets_k=soft_targets_k if training.teacher_kind == "stored" else 0,
    )
    optimizer_bytes = count_states(
        trained, empty_model, training.optim, training.optim_args, sharding.keeps_masters_apart
    )
    parts = {
        **{name: sharding.weights(size) for name, size in weights.items()},
        "adapters": adapter_bytes,
        "gathered weights": sharding.gathered(empty_model, family, precision.computing.itemsize),
        "gradients": sharding.gradients(sum(parameter.nbytes for parameter in trained)),
        "optimizer states": sharding.optimizer(optimizer_bytes),
        "teacher": teacher_bytes,
        "activations and loss": max(phases.values()),
        "context": context,
    }
    layers = empty_model.get_submodule(f"{family.language_module}.layers").parameters()
    parameters = sum(p.numel() for p in layers if peft_config is None or not p.requires_grad)
    token_parameters = TokenParameters(
        student=parameters,
        student_head=config.vocab_size * config.hidden_size,
        student_dequantized=parameters if model.load_in_4bit else 0,
        teacher=parameters if live_teacher is config else teacher_parameters,
        teacher_head=live_teacher.vocab_size * live_teacher.hidden_size if live_teacher else 0,
        teacher_dequantized=teacher_parameters if model.teacher_load_in_4bit else 0,
    )
    used = {name: int(size) for name, size in parts.items() if size}
    return MemoryPlan(used, lengths, token_parameters, phases)


def list_trained(
    empty_model: PreTrainedModel, peft_config: PeftConfig | None, family: StudentArchitecture
) -> list[nn.Parameter]:
    """Return the trained parameters: float32 adapters, which are attached here, or everything that is not frozen."""
    if peft_config is not None:
        adapted = get_peft_model(empty_model, peft_config, low_cpu_mem_usage=True)
        return [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    for name, parameter in empty_model.named_parameters():
        parameter.requires_grad_(not name.startswith(family.frozen_modules))
    return [parameter for parameter in empty_model.parameters() if parameter.requires_grad]


def measure_layers(
    model: ModelArguments,
    training: CrossModalDistillConfig,
    family: StudentArchitecture,
    student: PretrainedConfig,
    precision: Precision,
    tokens: int,
) -> Activations:
    """Return the activations of all layers: measured with 2 and 3 layers, extrapolated linearly."""
    measured = []
    for layers in (2, 3):
        short = copy.deepcopy(student)
        config: Any = short.get_text_config()
        config.num_hidden_layers = layers
        if types := getattr(config, "layer_types", None):
            config.layer_types = (list(types) * layers)[:layers]  # also of a model with fewer layers
        empty_model = family.make_empty_model(short, precision.computing)
        peft_config = load_peft_config(model, family)
        if peft_config is not None:
            get_peft_model(empty_model, peft_config, low_cpu_mem_usage=True)
        else:
            empty_model.requires_grad_(True)
        activations = measure_activations(
            empty_model.get_submodule(family.language_module),
            family.packed_inputs(torch.arange(tokens), [tokens]),
            config.hidden_size,
            precision.computing,
            autocast=training.bf16 and not precision.casts_weights,
            checkpointing=bool(training.activation_checkpointing),
            quantized=model.load_in_4bit,
        )
        measured.append(activations)
    two, three = measured
    return two.extrapolate(three, student.get_text_config().num_hidden_layers - 2)


def count_weights(empty_model: PreTrainedModel, model: ModelArguments, family: StudentArchitecture) -> dict[str, int]:
    """Return the bytes of the student's weights by part, quantized as the run quantizes them."""
    counted = {"language model": 0, "embeddings and head": 0, "audio tower": 0}
    ends = {empty_model.get_input_embeddings().weight, empty_model.get_output_embeddings().weight}
    unquantized = (*family.frozen_modules, family.head_module)
    seen: set[nn.Parameter] = set()
    for name, module in empty_model.named_modules():
        is_linear = isinstance(module, nn.Linear) and not name.startswith(unquantized)
        for kind, parameter in module.named_parameters(recurse=False):
            if parameter in seen:  # a head that is tied to the embeddings
                continue
            seen.add(parameter)
            if parameter in ends:
                part = "embeddings and head"
            elif name.startswith(family.frozen_modules):
                part = "audio tower"
            else:
                part = "language model"
            counted[part] += count_weight(parameter, is_linear and kind == "weight", model)
    return counted


def count_weight(parameter: nn.Parameter, can_quantize: bool, model: ModelArguments) -> int:
    """Return the bytes of one weight; `can_quantize` if bitsandbytes replaces layers of its kind."""
    if can_quantize and model.load_in_4bit:
        return count_nf4(parameter.numel(), model.use_bnb_nested_quant)
    if can_quantize and model.load_in_8bit:
        return parameter.numel() + 4 * parameter.shape[0]
    return parameter.nbytes


def count_nf4(parameters: int, nested: bool) -> int:
    """Return half a byte per weight plus a scale per 64, in float32 or (nested) in 8 bits with scales of their own."""
    blocks = parameters / NF4_BLOCK
    return int(parameters / 2 + (blocks + 4 * blocks / 256 if nested else 4 * blocks))


def count_states(
    trained: list[nn.Parameter],
    empty_model: PreTrainedModel,
    optimizer: Any,
    optimizer_arguments: str | None,
    masters_apart: bool,
) -> int:
    """Return the bytes that the optimizer keeps: its states, and float32 masters where the weights are not float32."""
    name = str(getattr(optimizer, "value", optimizer))
    states = next((count for key, count in STATES.items() if key in name), 2)
    if name == "sgd" and "momentum" in (optimizer_arguments or ""):
        states = 1
    known = next((size for key, size in STATE_BYTES.items() if key in name), None)
    embeddings = empty_model.get_input_embeddings().weight
    total = 0.0
    for parameter in trained:
        size = (4 if masters_apart else parameter.dtype.itemsize) if known is None else known
        if parameter is embeddings and "8bit" in name:
            size = STATE_BYTES["32bit"]  # transformers configures bitsandbytes so
        total += parameter.numel() * (states * size + (4 if masters_apart else 0))
    return int(total)


def count_teacher(config: PretrainedConfig, model: ModelArguments) -> tuple[int, int]:
    """Return the bytes of a teacher in memory, and the parameters that every token of its rows is multiplied with."""
    dtype = read_dtype(model.teacher_dtype or model.dtype, config)
    with torch.device("meta"):
        teacher = AutoModelForCausalLM.from_config(config, dtype=dtype)
    head = teacher.get_output_embeddings()
    size, layers, seen = 0, 0, set()
    for module in teacher.modules():
        for kind, parameter in module.named_parameters(recurse=False):
            if parameter in seen:
                continue
            seen.add(parameter)
            is_linear = isinstance(module, nn.Linear) and module is not head and kind == "weight"
            layers += parameter.numel() if is_linear else 0
            quantized = is_linear and model.teacher_load_in_4bit
            size += count_nf4(parameter.numel(), nested=True) if quantized else parameter.nbytes
    # Only the head is on the student's device. "auto" may leave all of it there.
    elsewhere = model.teacher_device_map not in (None, "auto", "cuda", "cuda:0")
    return (head.weight.nbytes if elsewhere else size), layers


def list_phases(
    activations: Activations,
    lengths: Lengths,
    config: PretrainedConfig,
    live_teacher: PretrainedConfig | None,
    loss_bytes: int,
    state_bytes: int,
    soft_targets_k: int,
) -> dict[str, int]:
    """Return the bytes in each phase of a step besides weights and optimizer; the largest counts."""
    targets = lengths.teacher_scored * soft_targets_k * STORED_BYTES_PER_ID
    teacher_forward = 0
    if live_teacher is not None:
        targets = lengths.teacher_scored * live_teacher.hidden_size * state_bytes
        # A decoder layer without gradient: its states six times, its MLP's three products.
        width = 6 * live_teacher.hidden_size + 3 * live_teacher.intermediate_size
        teacher_forward = lengths.teacher_tokens * width * state_bytes
    states_grad = lengths.scored * config.hidden_size * state_bytes
    phases = {
        "teacher": teacher_forward,
        "forward": activations.forward,
        "loss": activations.held + loss_bytes,
        "backward": activations.backward + states_grad,
    }
    return {name: lengths.input_bytes + targets + size for name, size in phases.items()}
