"""A student family as Protocols: everything that is specific to one speech LLM architecture.

`StudentEncoder` is the half that runs beside the data, in data loader workers; it holds no weights.
`StudentArchitecture` is the model's structure: loading, frozen parts, packing, names.
`SpeakingFamily` is for families that answer by voice as well.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class ExportTarget:
    """One form in which a trained student leaves the project.

    Attributes:
        kind: "student" (merged weights of the student alone), "full_model" (every file of the original, the student's
            weights replaced) or "adapter" (renamed).
        usage: Markdown that shows how the export is loaded, with `{name}` and `{base}`, and `{max_lora_rank}` for vLLM.
        rename: weight name in the base checkpoint -> in a "student" export; module name in memory -> in an "adapter".
        architecture: class name written into config.json of a "student" export.
        served_by_vllm: the adapter must pass vLLM's restrictions.
    """

    kind: str
    usage: str
    rename: Callable[[str], str] = str
    architecture: str | None = None
    pipeline_tag: str = "audio-text-to-text"
    served_by_vllm: bool = False


class StudentEncoder(Protocol):
    """Prompts, responses and audio features of a student."""

    tokenizer: PreTrainedTokenizerBase
    eos_token_id: int

    @property
    def vocab_size(self) -> int:
        """Rows of the output embedding."""
        ...

    @property
    def max_speech_seconds(self) -> float:
        """Longest clip of the model. Row validation refuses longer ones."""
        ...

    def encode_text_prompt(self, question: str, system: str) -> list[int]:
        """Return the token ids of a written question, up to the first token of the response."""
        ...

    def encode_speech_prompt(self, samples: int, system: str) -> list[int]:
        """Return the token ids of a question spoken in so many samples at 16 kHz.

        Raises:
            ValueError: the clip is too short for one audio token.
        """
        ...

    def encode_audio_prompt(self, samples: int, question: str, system: str) -> list[int]:
        """Return the token ids of a clip of so many samples at 16 kHz and a written question about it.

        Raises:
            ValueError: the clip is too short for one audio token.
        """
        ...

    def encode_response(self, response: str) -> list[int]:
        """Return the token ids that the loss scores: the answer and the end of the turn."""
        ...

    def extract_features(self, clips: list[np.ndarray]) -> dict[str, Tensor]:
        """Return the model's audio inputs for clips (n,) at 16 kHz; an empty dict for no clips."""
        ...

    def save_pretrained(self, folder: str) -> None:
        """Write tokenizer, chat template and feature extractor."""
        ...


class StudentArchitecture(Protocol):
    """Structure of a student's model. Its members can be read from the class, without a checkpoint."""

    lora_target_modules: str  # a regex on the language model alone
    frozen_modules: tuple[str, ...]  # unquantized and frozen in every recipe
    head_module: str
    language_module: str
    unloaded_module: str | None  # left on disk; an `UnloadedModule` takes its place
    model_class: str  # name of the transformers class that loads a saved student
    card_note: str  # what a model card must say of this family
    has_default_system: bool  # an empty system prompt is DEFAULT_SYSTEM; otherwise it is left out
    audio_tokens_per_second: float
    padded_clip_seconds: float | None  # every clip has the tokens of one so long; None: of its own length
    feature_bytes_per_second: int
    export_targets: Mapping[str, ExportTarget]

    @staticmethod
    def read_config(config: PretrainedConfig) -> PretrainedConfig:
        """Return the student's part of a checkpoint's config."""
        ...

    @staticmethod
    def make_empty_model(config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        """Build the model with zero-memory placeholder weights, for merging adapters and planning memory."""
        ...

    @staticmethod
    def packed_inputs(positions: Tensor, row_lengths: list[int]) -> dict[str, Any]:
        """Return the language model's arguments for rows packed into one.

        Args:
            positions: (S,), starting at zero in every row.
            row_lengths: tokens of each row, S in all.
        """
        ...

    @staticmethod
    def to_memory_name(checkpoint_name: str) -> str | None:
        """Return the name in memory of a checkpoint's weight; None for weights outside the student."""
        ...

    @staticmethod
    def to_checkpoint_name(memory_name: str) -> str:
        """Return the name in a published checkpoint of a weight in memory."""
        ...


class StudentFamily(StudentEncoder, StudentArchitecture, Protocol):
    """Encoder and architecture of one checkpoint."""

    config: PretrainedConfig

    @classmethod
    def from_pretrained(cls, name_or_path: str, revision: str | None = None) -> "StudentFamily":
        """Load everything but the weights."""
        ...

    def load_model(self, name_or_path: str, **from_pretrained: Any) -> PreTrainedModel:
        """Load the student with its frozen modules frozen; keyword arguments go to `from_pretrained`."""
        ...

    def load_unloaded_weights(self, model: torch.nn.Module) -> dict[str, Tensor]:
        """Read the weights that `load_model` left on disk, by their names in memory."""
        ...


@runtime_checkable
class SpeakingFamily(StudentFamily, Protocol):
    """A family whose full model answers by voice."""

    speaking_system: str  # the system prompt that spoken output needs
    spoken_rate_hz: int

    def load_speaking_model(self, name_or_path: str, **from_pretrained: Any) -> PreTrainedModel:
        """Load the full model.

        Raises:
            ValueError: the checkpoint has no spoken output.
        """
        ...

    def get_student(self, speaking_model: PreTrainedModel) -> PreTrainedModel:
        """Return the student inside a full model."""
        ...

    def set_student(self, speaking_model: PreTrainedModel, student: torch.nn.Module) -> None:
        """Replace the student inside a full model, for instance by its PEFT wrapper."""
        ...

    def speak(
        self, model: PreTrainedModel, inputs: dict[str, Tensor], max_new_tokens: int, streamer: Any
    ) -> np.ndarray:
        """Return the spoken answer to one question, (samples,) float32 at `spoken_rate_hz`; text goes to `streamer`."""
        ...
