"""Any causal LM in memory as the teacher: unquantized or in 4-bit, beside the student, elsewhere, or offloaded."""

from collections.abc import Iterator
from typing import Any

import torch
from accelerate import PartialState, cpu_offload
from accelerate.utils import align_module_device
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled, is_fsdp_enabled

from data_builders.causal_lm import OFFLOAD, TeacherSettings, load_causal_lm
from trainer_ext.checkpoints.identity import hash_weights
from trainer_ext.loss.alignment import gather_response_states
from trainer_ext.loss.logit_transform import LogitTransform
from trainer_ext.loss.teacher_targets import LiveTargets
from trainer_ext.teachers.prompts import TeacherPromptEncoder

# Names in the configs of transformers.
SCALES = ("logits_scaling", "logit_scale", "output_multiplier", "lm_head_multiplier")
SOFT_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap", "softcap")


class LiveTeacher:
    """A frozen causal LM. It reads every question once, as text, whatever channels the question trains.

    Args:
        model: set to eval mode and frozen.
        encoder: with the model's own tokenizer and chat template.

    Raises:
        ValueError: the model's logits are not its last hidden states times its head, scaled or soft-capped.
    """

    kind = "model"

    def __init__(self, model: PreTrainedModel, encoder: TeacherPromptEncoder) -> None:
        self.model = model.eval().requires_grad_(False)
        self.encoder = encoder
        self.lm_head_weight = read_head(model)  # (V_t, H_t)
        self.transform = self.find_transform()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str,
        revision: str = "main",
        dtype: str | torch.dtype | None = None,
        load_in_4bit: bool = False,
        device_map: str | None = None,
    ) -> "LiveTeacher":
        """Load model and tokenizer; the arguments are those of `TeacherSettings`."""
        return cls.from_settings(TeacherSettings(name_or_path, revision, dtype, load_in_4bit, device_map))

    @classmethod
    def from_settings(cls, settings: TeacherSettings) -> "LiveTeacher":
        """Load model and tokenizer.

        Raises:
            ValueError: ZeRO-3 or FSDP would leave this process without the teacher's weights.
        """
        if is_deepspeed_zero3_enabled():
            raise ValueError(
                "ZeRO-3 would partition the teacher, and the loss needs its full head: load it within "
                "trainer_ext.loading.zero3.without_zero3_init(args), as recipes/s2t_t2t.py does"
            )
        if is_fsdp_enabled():
            raise ValueError(
                "fsdp_cpu_ram_efficient_loading is on: every process but the first would get an empty teacher. Set it "
                "to false (recipes/accelerate/fsdp2.yaml), or use teacher_kind 'stored'"
            )
        model = load_causal_lm(settings)
        teacher = cls(model, TeacherPromptEncoder.from_pretrained(settings.name_or_path, settings.revision))
        if settings.device_map == OFFLOAD:
            cpu_offload(model.base_model, execution_device=PartialState().device)
        return teacher

    def describe(self) -> dict[str, Any]:
        return {"weights": hash_weights(self.model), "dtype": str(self.lm_head_weight.dtype)}

    def attach(self, student: nn.Module, device: torch.device, temperature: float) -> None:
        """Move the head to the student's device, where the loss reads it; the model stays where it was loaded."""
        self.lm_head_weight = self.lm_head_weight.to(device)

    @torch.no_grad()
    def targets(self, teacher_inputs: dict[str, Tensor], teacher_index: Tensor) -> LiveTargets:
        hidden_states = gather_response_states(  # (M, H_t)
            self.forward(teacher_inputs["teacher_input_ids"], teacher_inputs["teacher_attention_mask"]),
            teacher_inputs["teacher_labels"],
        )
        head = self.lm_head_weight
        return LiveTargets(teacher_index, hidden_states.to(head.device), head, self.transform)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the last hidden states on the device of the inputs: (Q, T'), (Q, T') -> (Q, T', H_t)."""
        device = self.model.device
        if device.type == "meta":  # offloaded: accelerate's hooks move inputs and layers together
            device = input_ids.device
        hidden = self.model.base_model(
            input_ids=input_ids.to(device), attention_mask=attention_mask.to(device), use_cache=False
        )
        return hidden.last_hidden_state.to(input_ids.device)

    @torch.no_grad()
    def find_transform(self) -> LogitTransform:
        """Return what turns hidden states times head into the model's own logits, seen on a few tokens."""
        ids = torch.arange(1, 5, device=self.model.device)[None]
        expected = self.model(input_ids=ids, use_cache=False).logits[0].float()
        hidden_states = self.forward(ids, torch.ones_like(ids))[0]
        weight = self.lm_head_weight
        expected = expected.to(weight.device)
        product = (hidden_states.to(weight.device, weight.dtype) @ weight.T).float()
        # Equal up to the order of summation; even a gentle soft cap moves the largest logit by more.
        tolerance = 1e-4 if weight.dtype == torch.float32 else 1e-2
        for transform in list_transforms(self.model.config):
            logits = transform.apply_(product.clone())
            if (logits - expected).abs().max() <= tolerance * expected.abs().max():
                return transform
        raise ValueError(
            f"{self.model.name_or_path} changes its logits after the head by more than a scale or a soft cap of its "
            "config, which this loss does not compute; choose another teacher, or store its soft targets from a server"
        )


def read_head(model: PreTrainedModel) -> Tensor:
    """Return the output embedding (V_t, H_t) on the model's own device, also where it is offloaded."""
    module = model.get_output_embeddings()
    with align_module_device(module):
        return module.weight.detach()


def list_transforms(config: PretrainedConfig) -> Iterator[LogitTransform]:
    """Yield every transform that the numbers of a config can mean, none last.

    Granite divides by its `logits_scaling`, other models multiply by theirs. Small logits do not show a soft cap.
    """
    text = config.get_text_config()
    scales = [float(value) for name in SCALES if (value := getattr(text, name, None))]
    caps = [float(value) for name in SOFT_CAPS if (value := getattr(text, name, None))]
    for scale in (*scales, *(1 / scale for scale in scales), 1.0):
        for cap in (*caps, None):
            yield LogitTransform(scale, cap)
