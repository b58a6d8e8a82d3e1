"""What a run puts where, in bytes, from its arguments and two config.json.

total = weights + gradients + optimizer states + teacher + (activations and loss, at their largest) + context
"""

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig

from trainer_ext.arguments import CrossModalDistillConfig, ModelArguments
from trainer_ext.loading.student import load_peft_config, read_dtype
from trainer_ext.loss.alignment import IGNORE_INDEX
from trainer_ext.loss.chunk_torch import BLOCK_LOGITS
from trainer_ext.loss.distillation import CHUNK_ROWS
from trainer_ext.memory.activations import Activations, measure_activations
from trainer_ext.memory.sharding import ONE_PROCESS, Sharding

# Parts that are there before training starts.
WEIGHTS = ("language model", "embeddings and head", "audio tower", "adapters", "teacher")
CUDA_CONTEXT = 2**29  # kernels, cuBLAS workspaces and what the allocator cannot use
NF4_BLOCK = 64  # weights that share a scale
# Bytes of an optimizer's states a trained parameter; others keep two copies in the parameter's own precision.
STATE_BYTES = {"8bit": 2 + 2 * 4 / 256, "32bit": 8, "adafactor": 0.1, "sgd": 0}


@dataclass(frozen=True)
class Lengths:
    """The largest micro-batch of a process."""

    tokens: int  # of the student's rows, all channels, no padding
    scored: int  # response tokens among them
    questions: int
    teacher_tokens: int  # of the teacher's rows, padding included
    teacher_scored: int
    input_bytes: int  # features, ids and what else a batch brings

    @classmethod
    def from_batch(cls, batch: dict[str, Any]) -> "Lengths":
        """Of what `PairCollator` returns."""
        asked = batch.get("teacher_input_ids")
        scored = sum(batch["response_lengths"])
        return cls(
            tokens=int(batch["attention_mask"].sum()),
            scored=int((batch["labels"] != IGNORE_INDEX).sum()),
            questions=len(batch["example_ids"]),
            teacher_tokens=0 if asked is None else asked.numel(),
            teacher_scored=scored,
            input_bytes=sum(value.nbytes for value in batch.values() if isinstance(value, Tensor)),
        )


@dataclass
class Plan:
    """Bytes by purpose, in the order of the table."""

    parts: dict[str, int]
    lengths: Lengths
    # Weights that every token meets, and that every scored token meets; of them those unfolded from 4 bits.
    student_parameters: int
    head_parameters: int
    dequantized_parameters: int
    teacher_parameters: int
    teacher_head_parameters: int
    dequantized_teacher_parameters: int
    # By phase of a step; the largest is a part.
    details: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        return sum(self.parts.values())


def plan_run(
    model: ModelArguments,
    training: CrossModalDistillConfig,
    family: Any,
    student: PretrainedConfig,
    teacher: PretrainedConfig | None,
    lengths: Lengths,
    sharding: Sharding = ONE_PROCESS,
    soft_targets_k: int = 64,
    on_cuda: bool = True,
    context: int = CUDA_CONTEXT,
) -> Plan:
    """The memory of one process at its peak.

    Args:
        family: the student's; its class will do.
        student: its config.
        teacher: the config of a teacher in memory; None for any other kind.
        on_cuda: else on a CPU, where the loss works in other buffers.
        context: bytes that are taken before the first tensor.
    """
    dtype = read_dtype(model.dtype, student)
    if training.bf16 and sharding.keeps_masters_apart:
        dtype = torch.bfloat16
    skeleton = family.make_empty_model(student, dtype)
    skeleton.set_submodule(family.unloaded_module, nn.Module())
    weights = count_weights(skeleton, model, family)
    peft_config = load_peft_config(model, family)
    trained = list_trained(skeleton, peft_config, family)
    adapters = sum(p.nbytes for p in trained) if peft_config is not None else 0
    config = student.get_text_config()
    met = skeleton.get_submodule(f"{family.language_module}.layers").parameters()  # by every token
    parameters = sum(p.numel() for p in met if peft_config is None or not p.requires_grad)
    # Of the layers and of the loss: bfloat16 weights, copies of them, or autocast.
    halves = training.bf16 or dtype.itemsize == 2
    casts = training.bf16 and sharding.casts_weights
    computing = torch.bfloat16 if casts else dtype
    two, three = (
        measure_layers(number, model, training, family, student, computing, casts, lengths.tokens)
        for number in (2, 3)
    )
    teacher_bytes, teacher_layers = (0, 0) if teacher is None else count_teacher(teacher, model)
    reader = teacher.get_text_config() if teacher is not None else None
    if training.teacher_kind == "self":
        reader = config
    loss = count_loss(
        lengths,
        config,
        reader,
        head_trained=peft_config is None,
        halves=halves,
        head_copied=halves and computing.itemsize == 4,
        on_cuda=on_cuda,
    )
    phases = list_phases(
        two.extrapolate(three, config.num_hidden_layers - 2),
        lengths,
        config,
        reader,
        loss,
        state_bytes=2 if halves else 4,
        soft_targets_k=soft_targets_k if training.teacher_kind == "stored" else 0,
    )
    parts = {
        **{name: sharding.weights(size) for name, size in weights.items()},
        "adapters": adapters,
        "gathered weights": sharding.gathered(skeleton, family, computing.itemsize),
        "gradients": sharding.gradients(sum(parameter.nbytes for parameter in trained)),
        "optimizer states": sharding.optimizer(
            count_states(trained, skeleton, training.optim, sharding.keeps_masters_apart)
        ),
        "teacher": teacher_bytes,
        "activations and loss": max(phases.values()),
        "context": context,
    }
    return Plan(
        {name: int(size) for name, size in parts.items() if size},
        lengths,
        student_parameters=parameters,
        head_parameters=config.vocab_size * config.hidden_size,
        dequantized_parameters=parameters if model.load_in_4bit else 0,
        teacher_parameters=parameters if reader is config else teacher_layers,
        teacher_head_parameters=reader.vocab_size * reader.hidden_size if reader else 0,
        dequantized_teacher_parameters=teacher_layers if model.teacher_load_in_4bit else 0,
        details=phases,
    )


def list_trained(skeleton: Any, peft_config: Any, family: Any) -> list[nn.Parameter]:
    """What the run trains: adapters, which are hung on the skeleton here, in float32; or all that is not frozen."""
    if peft_config is not None:
        adapted = get_peft_model(skeleton, peft_config, low_cpu_mem_usage=True)
        return [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    for name, parameter in skeleton.named_parameters():
        parameter.requires_grad_(not name.startswith(family.frozen_modules))
    return [parameter for parameter in skeleton.parameters() if parameter.requires_grad]


def measure_layers(
    number: int,
    model: ModelArguments,
    training: CrossModalDistillConfig,
    family: Any,
    student: PretrainedConfig,
    dtype: torch.dtype,
    casts: bool,
    tokens: int,
) -> Activations:
    """What so many layers of the student keep of a micro-batch; under autocast in bf16 runs, unless `casts`."""
    short = copy.deepcopy(student)
    config: Any = short.get_text_config()
    config.num_hidden_layers = number
    config.layer_types = config.layer_types[:number]
    skeleton = family.make_empty_model(short, dtype)
    peft_config = load_peft_config(model, family)
    if peft_config is not None:
        get_peft_model(skeleton, peft_config, low_cpu_mem_usage=True)
    else:
        skeleton.requires_grad_(True)
    return measure_activations(
        skeleton.get_submodule(family.language_module),
        config.hidden_size,
        tokens,
        dtype,
        autocast=training.bf16 and not casts,
        checkpointing=bool(training.activation_checkpointing),
        quantized=model.load_in_4bit,
    )


def count_weights(skeleton: Any, model: ModelArguments, family: Any) -> dict[str, int]:
    """Bytes of the student's weights by part, quantized as the run quantizes them."""
    counted = {"language model": 0, "embeddings and head": 0, "audio tower": 0}
    ends = {skeleton.get_input_embeddings().weight, skeleton.get_output_embeddings().weight}
    whole = (*family.frozen_modules, family.head_module)
    for name, module in skeleton.named_modules():
        linear = isinstance(module, nn.Linear) and not name.startswith(whole)
        for kind, parameter in module.named_parameters(recurse=False):
            if parameter in ends:
                part = "embeddings and head"
            elif name.startswith(family.frozen_modules):
                part = "audio tower"
            else:
                part = "language model"
            quantized = linear and kind == "weight"
            counted[part] += bytes_of_weight(parameter, quantized, model)
    return counted


def bytes_of_weight(parameter: nn.Parameter, quantized: bool, model: ModelArguments) -> int:
    """Of one weight; `quantized` if bitsandbytes takes layers like its own."""
    if quantized and model.load_in_4bit:
        return bytes_in_nf4(parameter.numel(), model.use_bnb_nested_quant)
    if quantized and model.load_in_8bit:
        return parameter.numel() + 4 * parameter.shape[0]
    return parameter.nbytes


def bytes_in_nf4(parameters: int, nested: bool) -> int:
    """Half a byte a weight, and a scale for every 64, in float32 or (nested) in 8 bits with scales of their own."""
    blocks = parameters / NF4_BLOCK
    return int(parameters / 2 + (blocks + 4 * blocks / 256 if nested else 4 * blocks))


def count_states(
    trained: list[nn.Parameter], skeleton: Any, optimizer: str, masters_apart: bool
) -> int:
    """Bytes that the optimizer keeps: its states, and float32 masters where weights are not."""
    name = str(getattr(optimizer, "value", optimizer))
    known = next((size for key, size in STATE_BYTES.items() if key in name), None)
    embeddings = skeleton.get_input_embeddings().weight
    total = 0.0
    for parameter in trained:
        size = 2 * (4 if masters_apart else parameter.dtype.itemsize) if known is None else known
        if parameter is embeddings and "8bit" in name:
            size = STATE_BYTES["32bit"]  # transformers asks bitsandbytes for it
        total += parameter.numel() * (size + (4 if masters_apart else 0))
    return int(total)


def count_teacher(config: PretrainedConfig, model: ModelArguments) -> tuple[int, int]:
    """Bytes of a teacher in memory, and parameters that every token of its rows meets."""
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
            linear = isinstance(module, nn.Linear) and module is not head and kind == "weight"
            layers += parameter.numel() if linear else 0
            quantized = linear and model.teacher_load_in_4bit
            size += bytes_in_nf4(parameter.numel(), nested=True) if quantized else parameter.nbytes
    elsewhere = model.teacher_device_map is not None  # its head alone is beside the student's
    return (head.weight.nbytes if elsewhere else size), layers


def count_loss(
    lengths: Lengths,
    config: PretrainedConfig,
    reader: PretrainedConfig | None,
    head_trained: bool,
    halves: bool,
    head_copied: bool,
    on_cuda: bool,
) -> int:
    """Buffers of `losses.distillation_loss`, gradients of states and head included.

    Args:
        reader: config of whoever reads live, a teacher or the student itself; None for stored soft targets or none.
        halves: heads are multiplied with in half precision.
        head_copied: and are kept in float32.
    """
    rows, most = lengths.scored, CHUNK_ROWS // 2
    if reader is not None:
        most = CHUNK_ROWS * rows // (rows + lengths.teacher_scored)
    chunk = -(-rows // -(-rows // most))
    reader_chunk = 0 if reader is None else -(-chunk * lengths.teacher_scored // rows)
    buffers = 4 * config.vocab_size * (chunk + reader_chunk)
    head_bytes = 2 if halves else 4
    if halves:
        buffers += 2 * config.vocab_size * chunk
    blocks = 0 if on_cuda else 4 * 4 * max(BLOCK_LOGITS["cpu"], config.vocab_size)
    states = rows * config.hidden_size * (head_bytes + 4)
    head = config.vocab_size * config.hidden_size
    gradient = head * (4 + head_bytes) if head_trained else 0
    copy_of_head = 2 * head if head_copied else 0
    return buffers + min(blocks, 16 * config.vocab_size * chunk) + states + gradient + copy_of_head


def list_phases(
    activations: Activations,
    lengths: Lengths,
    config: PretrainedConfig,
    reader: PretrainedConfig | None,
    loss: int,
    state_bytes: int,
    soft_targets_k: int,
) -> dict[str, int]:
    """What lives besides weights and optimizer in each phase of a step; the largest counts."""
    signal = lengths.teacher_scored * soft_targets_k * 14
    reading = 0
    if reader is not None:
        signal = lengths.teacher_scored * reader.hidden_size * state_bytes
        # A decoder layer without gradient: its states a few times, its MLP's three products.
        width = 6 * reader.hidden_size + 3 * reader.intermediate_size
        reading = lengths.teacher_tokens * width * state_bytes
    states = lengths.scored * config.hidden_size * state_bytes
    return {
        name: lengths.input_bytes + signal + size
        for name, size in {
            "teacher": reading,
            "forward": activations.forward,
            "loss": activations.held + loss,
            "backward": activations.backward + states,
        }.items()
    }
