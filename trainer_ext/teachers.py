"""The frozen text LLM: how it is asked, and what it thinks of the response tokens.

It reads every question once, as text, whatever the channels that question trains.
"""

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from data_builders.schema import DEFAULT_SYSTEM
from trainer_ext.alignment import gather_response_states, pair_with_teacher
from trainer_ext.losses import TeacherSignal


class TeacherPrompts:
    """How the teacher is asked: its own tokenizer and chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(cls, name_or_path: str, revision: str | None = None) -> "TeacherPrompts":
        return cls(AutoTokenizer.from_pretrained(name_or_path, revision=revision))

    def encode_prompt(self, question: str, system: str) -> list[int]:
        """Token ids of the question, up to where the answer starts."""
        messages = [
            {"role": "system", "content": system or DEFAULT_SYSTEM},
            {"role": "user", "content": question},
        ]
        return self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True
        )["input_ids"]

    def check_same_response(self, row_id: str, response: str, student_ids: list[int]) -> None:
        """Refuse a response that the two tokenizers write differently: its distributions could not be compared.

        Raises:
            ValueError: names the row and the first token they disagree on.
        """
        ids = [
            *self.tokenizer.encode(response, add_special_tokens=False),
            self.tokenizer.eos_token_id,
        ]
        if ids == student_ids:
            return
        length = min(len(ids), len(student_ids))
        at = next((i for i in range(length) if ids[i] != student_ids[i]), length)
        teacher_token = (
            self.tokenizer.convert_ids_to_tokens(ids[at]) if at < len(ids) else "nothing"
        )
        raise ValueError(
            f"row {row_id}: the teacher's and the student's tokenizers disagree on response token {at}: "
            f"the student's id {student_ids[at] if at < len(student_ids) else 'none'}, "
            f"the teacher's {ids[at] if at < len(ids) else 'none'} ({teacher_token!r}). Distillation compares token by "
            "token: choose a teacher of the student's own tokenizer family, or train with kl_weight 0."
        )


class LiveTeacher:
    """A causal LM in memory, in eval mode, without gradients."""

    def __init__(self, model: PreTrainedModel, prompts: TeacherPrompts) -> None:
        self.model = model.eval().requires_grad_(False)
        self.prompts = prompts

    @classmethod
    def from_pretrained(
        cls, name_or_path: str, prompts: TeacherPrompts, **from_pretrained
    ) -> "LiveTeacher":
        """Load any causal LM; keyword arguments go to `from_pretrained`."""
        return cls(AutoModelForCausalLM.from_pretrained(name_or_path, **from_pretrained), prompts)

    @property
    def head(self) -> nn.Linear:
        return self.model.get_output_embeddings()

    @torch.no_grad()
    def signal(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        teacher_labels: Tensor,
        labels: Tensor,
        question_of_row: Tensor,
    ) -> TeacherSignal:
        """The teacher's states at the student's N response tokens, in the student's order.

        Args:
            input_ids, attention_mask, teacher_labels: (Q, T'), one row per question.
            labels: (B, T), the student's, one row per question and channel.
            question_of_row: (B,), which question each student row asks.
        """
        hidden = self.model.base_model(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False
        ).last_hidden_state
        states = gather_response_states(hidden, teacher_labels)
        return TeacherSignal(
            states[pair_with_teacher(labels, teacher_labels, question_of_row)], self.head.weight
        )
