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

from trainer_ext.adapters import load_peft_config
from trainer_ext.alignment import IGNORED
from trainer_ext.arguments import CrossModalDistillConfig, ModelArguments
from trainer_ext.elementwise import BLOCK_LOGITS
from trainer_ext.losses import CHUNK_ROWS
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
    def of_batch(cls, batch: dict[str, Any]) -> "Lengths":
        """Of what `PairCollator` returns."""
        asked = batch.get("teacher_input_ids")
        scored = sum(batch["response_lengths"])
        return cls(
            tokens=int(batch["attention_mask"].sum()),
            scored=int((batch["labels"] != IGNORED).sum()),
            questions=len(batch["row_ids"]),
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
    unfolded_parameters: int
    teacher_parameters: int
    teacher_head_parameters: int
    unfolded_teacher_parameters: int
    details: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
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
    dtype = find_dtype(model.dtype, student)
    skeleton = family.make_skeleton(student, dtype)
    skeleton.set_submodule(family.left_out_module, nn.Module())
    for name in family.frozen_modules:
        skeleton.get_submodule(name).requires_grad_(False)
    weights = count_weights(skeleton, model, family)
    peft_config = load_peft_config(model, family)
    if peft_config is None:
        for name, parameter in skeleton.named_parameters():
            parameter.requires_grad_(not name.startswith(tuple(family.frozen_modules)))
        trained = {p: dtype.itemsize for p in skeleton.parameters() if p.requires_grad}
        adapters = 0
    else:
        adapted = get_peft_model(skeleton, peft_config, low_cpu_mem_usage=True)
        trained = {p: 4 for p in adapted.parameters() if p.requires_grad}
        adapters = sum(4 * parameter.numel() for parameter in trained)
    gradients = sum(parameter.numel() * size for parameter, size in trained.items())
    states = sum(p.numel() * bytes_of_states(training.optim, size) for p, size in trained.items())

    config = student.get_text_config()
    head_trained = peft_config is None
    met = skeleton.get_submodule(f"{family.language_module}.layers").parameters()  # by every token
    parameters = sum(p.numel() for p in met if not (peft_config and p.requires_grad))
    half = dtype.itemsize == 2
    two, three = (
        measure_layers(number, model, training, family, student, dtype, lengths.tokens)
        for number in (2, 3)
    )
    activations = two.extrapolate(three, config.num_hidden_layers - 2)
    teacher_bytes, teacher_layers = 0, 0
    if teacher is not None:
        teacher_bytes, teacher_layers = count_teacher(teacher, model)
    state_bytes = 2 if half or training.bf16 else 4
    loss = count_loss(
        lengths, config, teacher, head_trained, state_bytes if training.bf16 or half else 4, on_cuda
    )
    phases = list_phases(
        activations,
        lengths,
        config,
        teacher,
        training.teacher_kind,
        loss,
        state_bytes,
        soft_targets_k,
    )
    parts = {
        **{name: sharding.weights(size) for name, size in weights.items()},
        "adapters": adapters,
        "gathered weights": sharding.gathered(
            skeleton, family, 2 if training.bf16 else dtype.itemsize
        ),
        "gradients": sharding.gradients(gradients),
        "optimizer states": sharding.optimizer(int(states)),
        "teacher": teacher_bytes,
        "activations and loss": max(phases.values()),
        "context": context,
    }
    return Plan(
        {name: int(size) for name, size in parts.items() if size},
        lengths,
        student_parameters=parameters,
        head_parameters=config.vocab_size * config.hidden_size,
        unfolded_parameters=parameters if model.load_in_4bit else 0,
        teacher_parameters=teacher_layers,
        teacher_head_parameters=teacher.vocab_size * teacher.hidden_size if teacher else 0,
        unfolded_teacher_parameters=teacher_layers if model.teacher_load_in_4bit else 0,
        details=phases,
    )


def measure_layers(
    number: int,
    model: ModelArguments,
    training: CrossModalDistillConfig,
    family: Any,
    student: PretrainedConfig,
    dtype: torch.dtype,
    tokens: int,
) -> Activations:
    """What so many layers of the student keep of a micro-batch."""
    short = copy.deepcopy(student)
    config: Any = short.get_text_config()
    config.num_hidden_layers = number
    config.layer_types = config.layer_types[:number]
    skeleton = family.make_skeleton(short, dtype)
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
        autocast=training.bf16,
        checkpointing=bool(training.activation_checkpointing),
        quantised=model.load_in_4bit,
    )


def find_dtype(named: str | torch.dtype | None, config: PretrainedConfig) -> torch.dtype:
    """The precision that weights are loaded in; "auto" and nothing mean the checkpoint's own."""
    if isinstance(named, torch.dtype):
        return named
    if named in (None, "auto"):
        own = config.dtype or getattr(config.get_text_config(), "dtype", None)
        return own if isinstance(own, torch.dtype) else torch.bfloat16
    return getattr(torch, str(named))


def count_weights(skeleton: Any, model: ModelArguments, family: Any) -> dict[str, int]:
    """Bytes of the student's weights by part, quantised as the run quantises them."""
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
            quantised = linear and kind == "weight"
            counted[part] += bytes_of_weight(parameter, quantised, model)
    return counted


def bytes_of_weight(parameter: nn.Parameter, quantised: bool, model: ModelArguments) -> int:
    if quantised and model.load_in_4bit:
        return bytes_in_nf4(parameter.numel(), model.use_bnb_nested_quant)
    if quantised and model.load_in_8bit:
        return parameter.numel() + 4 * parameter.shape[0]
    return parameter.nbytes


def bytes_in_nf4(parameters: int, nested: bool) -> int:
    """Half a byte a weight, and a scale for every 64, in float32 or (nested) in 8 bits with scales of their own."""
    blocks = parameters / NF4_BLOCK
    return int(parameters / 2 + (blocks + 4 * blocks / 256 if nested else 4 * blocks))


def bytes_of_states(optimizer: str, parameter_bytes: int) -> float:
    name = str(getattr(optimizer, "value", optimizer))
    return next((size for key, size in STATE_BYTES.items() if key in name), 2 * parameter_bytes)


def count_teacher(config: PretrainedConfig, model: ModelArguments) -> tuple[int, int]:
    """Bytes of a teacher in memory, and parameters that every token of its rows meets."""
    dtype = find_dtype(model.teacher_dtype or model.dtype, config)
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
            quantised = linear and model.teacher_load_in_4bit
            size += bytes_in_nf4(parameter.numel(), nested=True) if quantised else parameter.nbytes
    offloaded = model.teacher_device_map in ("offload", "cpu")
    return (head.weight.nbytes if offloaded else size), layers


def count_loss(
    lengths: Lengths,
    config: PretrainedConfig,
    teacher: PretrainedConfig | None,
    head_trained: bool,
    head_bytes: int,
    on_cuda: bool,
) -> int:
    """Buffers of `losses.distillation_loss`, gradients of states and head included."""
    rows, most = lengths.scored, CHUNK_ROWS // 2
    if teacher is not None:
        most = CHUNK_ROWS * rows // (rows + lengths.teacher_scored)
    chunk = -(-rows // -(-rows // most))
    teacher_chunk = 0 if teacher is None else -(-chunk * lengths.teacher_scored // rows)
    buffers = 4 * config.vocab_size * (chunk + teacher_chunk)
    if head_bytes < 4:
        buffers += head_bytes * config.vocab_size * chunk
    blocks = 0 if on_cuda else 4 * 4 * max(BLOCK_LOGITS["cpu"], config.vocab_size)
    states = lengths.scored * config.hidden_size * (head_bytes + 4)
    head = config.vocab_size * config.hidden_size * (4 + head_bytes) if head_trained else 0
    return buffers + min(blocks, 16 * config.vocab_size * chunk) + states + head


def list_phases(
    activations: Activations,
    lengths: Lengths,
    config: PretrainedConfig,
    teacher: PretrainedConfig | None,
    teacher_kind: str,
    loss: int,
    state_bytes: int,
    soft_targets_k: int,
) -> dict[str, int]:
    """What lives besides weights and optimizer in each phase of a step; the largest counts."""
    reader = teacher.get_text_config() if teacher is not None else config
    asked = teacher is not None or teacher_kind == "self"
    signal = lengths.teacher_scored * reader.hidden_size * state_bytes if asked else 0
    if teacher_kind == "stored":
        signal = lengths.teacher_scored * soft_targets_k * 14
    # A decoder layer without gradient: its states a few times, its MLP's three products.
    reading = lengths.teacher_tokens * (6 * reader.hidden_size + 3 * reader.intermediate_size)
    return {
        name: lengths.input_bytes + size
        for name, size in {
            "teacher": signal + reading * state_bytes if asked else 0,
            "forward": signal + activations.forward,
            "loss": signal + activations.held + loss,
            "backward": signal
            + activations.backward
            + lengths.scored * config.hidden_size * state_bytes,
        }.items()
    }
