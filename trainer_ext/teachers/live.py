"""Any causal LM in memory as the teacher: whole or in 4-bit, beside the student, on another device, or offloaded."""

import torch
from accelerate import PartialState, cpu_offload
from accelerate.utils import align_module_device
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled, is_fsdp_enabled

from trainer_ext.loss.alignment import gather_response_states
from trainer_ext.loss.teacher_targets import LiveTargets
from trainer_ext.teachers.prompts import TeacherPromptEncoder

OFFLOAD = "offload"


class LiveTeacher:
    """A frozen causal LM. It reads every question once, as text, whatever the channels that question trains.

    Args:
        model: in eval mode and without gradients from here on.
        reader: its own tokenizer and chat template.

    Raises:
        ValueError: its logits are not its last states times its head (soft-capped, scaled or shifted ones).
    """

    kind = "model"

    def __init__(self, model: PreTrainedModel, reader: TeacherPromptEncoder) -> None:
        self.model = model.eval().requires_grad_(False)
        self.reader = reader
        self.head = read_head(model)  # (V_t, H_t)
        self.check_head()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str,
        revision: str | None = None,
        dtype: str | torch.dtype | None = None,
        load_in_4bit: bool = False,
        device_map: str | None = None,
    ) -> "LiveTeacher":
        """Load model and tokenizer.

        Args:
            load_in_4bit: NF4 with double quantization by bitsandbytes; the head stays whole.
            device_map: None for this process's device; another one ("cuda:1", "cpu"); "auto" to spread it over what is
                free; "offload" to keep it in the host's memory, each layer visiting this process's device.
        """
        if is_deepspeed_zero3_enabled():
            raise ValueError(
                "under ZeRO-3 the teacher would be shared among the processes, and the loss could not read it: load it "
                "within trainer_ext.loading.zero3.without_zero3_init(args), as recipes/s2t_t2t.py does"
            )
        if is_fsdp_enabled():
            raise ValueError(
                "fsdp_cpu_ram_efficient_loading is on: every process but the first would get an empty teacher, which "
                "nothing fills. Set it to false (recipes/accelerate/fsdp2.yaml), or use teacher_kind 'stored'"
            )
        model = load_causal_lm(name_or_path, revision, dtype, load_in_4bit, device_map)
        reader = TeacherPromptEncoder.from_pretrained(name_or_path, revision)
        if device_map != OFFLOAD:
            return cls(model, reader)
        teacher = cls(model, reader)
        cpu_offload(model.base_model, execution_device=PartialState().device)
        return teacher

    def attach(self, student: nn.Module, device: torch.device, temperature: float) -> None:
        """Bring the head to the student's device, where the loss reads it; the model stays where it was loaded."""
        self.head = self.head.to(device)

    @torch.no_grad()
    def signal(self, asked: dict[str, Tensor], rows: Tensor) -> LiveTargets:
        """The states of the response tokens alone leave the teacher, (M, H_t)."""
        return LiveTargets(
            rows,
            gather_response_states(
                self.read(asked["teacher_input_ids"], asked["teacher_attention_mask"]),
                asked["teacher_labels"],
            ).to(self.head.device),
            self.head,
        )

    def read(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Last hidden states on the device of the inputs: (Q, T'), (Q, T') -> (Q, T', H_t)."""
        at = self.model.device
        if at.type == "meta":  # offloaded: accelerate's hooks bring inputs and layers together
            at = input_ids.device
        hidden = self.model.base_model(
            input_ids=input_ids.to(at), attention_mask=attention_mask.to(at), use_cache=False
        )
        return hidden.last_hidden_state.to(input_ids.device)

    @torch.no_grad()
    def check_head(self) -> None:
        """Compare the model's own logits of a few tokens with states times head."""
        ids = torch.arange(1, 5, device=self.model.device)[None]
        theirs = self.model(input_ids=ids, use_cache=False).logits[0].float()
        states = self.read(ids, torch.ones_like(ids))[0]
        ours = (states.to(self.head.device, self.head.dtype) @ self.head.T).float()
        # Equal but for the order of summation; the gentlest of soft caps moves the largest logit by more.
        slack = 1e-4 if self.head.dtype == torch.float32 else 1e-2
        if (ours - theirs.to(ours.device)).abs().max() > slack * theirs.abs().max():
            raise ValueError(
                f"{self.model.name_or_path} changes its logits after the head (soft-capping, a scale or a bias), which "
                "this loss does not follow; choose another teacher, or store its soft targets from a server"
            )


def load_causal_lm(
    name_or_path: str,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    load_in_4bit: bool = False,
    device_map: str | None = None,
) -> PreTrainedModel:
    """A causal LM where `LiveTeacher.from_pretrained` wants it; one to be offloaded is left on the CPU."""
    device = PartialState().device
    return AutoModelForCausalLM.from_pretrained(
        name_or_path,
        revision=revision,
        dtype=dtype,
        quantization_config=quantize_to_nf4(dtype) if load_in_4bit else None,
        device_map={"": "cpu"} if device_map == OFFLOAD else device_map or {"": device},
    )


def read_head(model: PreTrainedModel) -> Tensor:
    """The output embedding (V_t, H_t) on the model's own device, also where it is offloaded."""
    module = model.get_output_embeddings()
    with align_module_device(module):
        return module.weight.detach()


def quantize_to_nf4(dtype: str | torch.dtype | None) -> BitsAndBytesConfig:
    """QLoRA's 4-bit NormalFloat, computed with in the model's own precision."""
    if dtype in (None, "auto"):
        dtype = torch.bfloat16
    compute = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )
