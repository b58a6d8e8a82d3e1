"""Arguments of make_omni.py."""

from dataclasses import dataclass

from transformers.hf_argparser import HfArg


@dataclass(frozen=True)
class OmniArguments:
    """The parts of a speech LLM, the data that it learns to hear by, and how long it trains."""

    text_model_name_or_path: str | None = HfArg(
        default=None, help="A Llama- or Qwen2-like chat model: Hub id or folder. It is the teacher later."
    )
    speech_encoder_name_or_path: str | None = HfArg(
        default=None, help="A Whisper, or a Qwen2.5-Omni, whose tower brings its projector: Hub id or folder."
    )
    extra_layers: int = HfArg(
        default=2, help="Layers to add to the encoder, which `align` trains; they start as the identity."
    )
    dataset_names: list[str] = HfArg(
        default_factory=list, help="Data sets of build_data.py with answers by the text model: folders or Hub ids."
    )
    output_dir: str = HfArg(default="outputs/nano", help="Has a folder for each stage: graft, align, adapt, check.")
    overwrite_output_dir: bool = HfArg(default=False, help="Run stages again that were made with other settings.")
    align_steps: int = HfArg(default=2500, help="Steps of the CTC training; 0 leaves the stage out.")
    align_batch_size: int = HfArg(default=16, help="Clips of a step of the CTC training.")
    align_learning_rate: float = HfArg(default=1e-3, help="Peak learning rate of the CTC training.")
    adapt_steps: int = HfArg(default=600, help="Steps of the adaptation to speech; 0 leaves the stage out.")
    adapt_batch_size: int = HfArg(default=8, help="Rows of a step of the adaptation.")
    adapt_learning_rate: float = HfArg(default=1e-4, help="Peak learning rate of the adaptation.")
    adapt_repeat_share: float = HfArg(default=0.4, help="Share of the adaptation's rows that are clips to repeat.")
    adapt_text_share: float = HfArg(default=0.1, help="Share of the adaptation's rows that are asked in writing.")
    activation_checkpointing: bool = HfArg(
        default=True,
        help="Recompute the adaptation's activations in the backward pass: less memory, a third more time.",
    )
    max_new_tokens: int = HfArg(default=32, help="Longest answer of the check, in tokens.")
    adapters: list[str] = HfArg(
        default_factory=list, help="Adapters of s2t_t2t.py on the adapted model, measured beside it."
    )
    bf16: bool = HfArg(
        default=False, help="Train in bfloat16 autocast: on a GPU, or a CPU with avx512_bf16 or amx_bf16."
    )
    seed: int = HfArg(default=0, help="Seed of tasks and order.")

    def __post_init__(self) -> None:
        for name in ("text_model_name_or_path", "speech_encoder_name_or_path", "dataset_names"):
            if not getattr(self, name):
                raise ValueError(f"set `{name}`, or name a recipe by --config")
        for name in ("extra_layers", "align_steps", "adapt_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        for name in ("align_batch_size", "adapt_batch_size", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        shares = self.adapt_repeat_share, self.adapt_text_share
        if min(shares) < 0 or sum(shares) >= 1:
            raise ValueError("adapt_repeat_share and adapt_text_share must be 0 or more, and below 1 together")
