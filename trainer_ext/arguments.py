"""What a run can be told about its training and its models, with the paper's values as defaults."""

from dataclasses import dataclass, field

from trl import ModelConfig, SFTConfig

from data_builders.schema import CHANNELS, RESPONSE_COLUMN, check_channels
from trainer_ext.loss.divergences import DIVERGENCES

NO_TEACHER = "none"  # plain CE on hard targets
TEACHER_KINDS = ("model", "self", "stored", NO_TEACHER)


@dataclass
class CrossModalDistillConfig(SFTConfig):
    """`SFTConfig` with the loss of cross-modal distillation. A batch counts questions, not rows.

    Values are the paper's (section 4.1) where it states them; it does not state batch size, optimizer or lengths.
    """

    teacher_kind: str = field(
        default="model",
        metadata={
            "help": "Whom to learn from: 'model' (a text LLM in memory), 'self' (the student, adapters off), 'stored' "
            "(soft targets made by recipes/cache_teacher.py) or 'none' (CE on hard targets alone)."
        },
    )
    temperature: float = field(
        default=2.0, metadata={"help": "tau: both softmaxes of the divergence are taken at it."}
    )
    kl_weight: float = field(
        default=0.5,
        metadata={
            "help": "lambda: weight of temperature^2 * divergence beside the CE; unused without a teacher."
        },
    )
    divergence: str = field(
        default="forward_kl",
        metadata={"help": f"Student from teacher: {', '.join(DIVERGENCES)} (paper: forward_kl)."},
    )
    beta: float = field(
        default=0.5,
        metadata={"help": "The teacher's share of the mixture in 'jsd', between 0 and 1."},
    )
    hard_targets: str = field(
        default="teacher",
        metadata={"help": "Whose answers the CE is against: 'teacher' or 'gold'."},
    )
    channels: list[str] = field(
        default_factory=lambda: list(CHANNELS),
        metadata={
            "help": "Channels this run trains: 't2t', 's2t' or both; a row trains those that it names too."
        },
    )
    learning_rate: float = field(
        default=5e-6, metadata={"help": "Peak learning rate (paper: 5e-6)."}
    )
    num_train_epochs: float = field(
        default=2.0, metadata={"help": "Passes over the questions (paper: 2)."}
    )
    hub_strategy: str = field(
        default="end",
        metadata={"help": "When to push, with `push_to_hub`: 'end' alone, see the error."},
    )
    max_length: int | None = field(
        default=2048,
        metadata={"help": "Longest row in tokens, prompt and response; a longer one is an error."},
    )

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        if self.teacher_kind not in TEACHER_KINDS:
            raise ValueError(
                f"teacher_kind must be one of {', '.join(TEACHER_KINDS)}, got {self.teacher_kind!r}"
            )
        if not self.kl_weight > 0 and self.teacher_kind != NO_TEACHER:
            raise ValueError(
                f"kl_weight must be above 0, got {self.kl_weight}; to train on hard targets alone set "
                "teacher_kind: none"
            )
        if self.divergence not in DIVERGENCES:
            raise ValueError(
                f"divergence must be one of {', '.join(DIVERGENCES)}, got {self.divergence!r}"
            )
        if not 0 < self.beta < 1:
            raise ValueError(
                f"beta must be between 0 and 1, got {self.beta}; its ends are forward_kl and reverse_kl"
            )
        if self.hard_targets not in RESPONSE_COLUMN:
            raise ValueError(
                f"hard_targets must be one of {', '.join(RESPONSE_COLUMN)}, got {self.hard_targets!r}"
            )
        if not self.channels:
            raise ValueError("channels is empty: name 't2t', 's2t' or both")
        check_channels(self.channels, "channels")
        if self.hub_token is not None:
            raise ValueError(
                "hub_token is refused: it would be written to disk with the run's arguments. Set the environment "
                "variable HF_TOKEN or run `hf auth login`."
            )
        if self.push_to_hub and self.hub_strategy != "end":
            raise ValueError(
                f"hub_strategy {self.hub_strategy!r} is refused: pushes during training would carry the pickled "
                "arguments (training_args.bin). Leave it at 'end', or upload a whole checkpoint by `hf upload`."
            )
        if self.trust_remote_code:
            raise ValueError("trust_remote_code is refused: models run transformers' own code")
        if self.packing or self.padding_free:
            raise ValueError(
                "packing and padding_free are refused: rows of a pair meet by their padding"
            )
        # The collator encodes rows; TRL's own preparation would look for text columns.
        self.remove_unused_columns = False
        self.dataset_kwargs = {**(self.dataset_kwargs or {}), "skip_prepare_dataset": True}  # type: ignore[has-type]
        super().__post_init__()


@dataclass
class ModelArguments(ModelConfig):
    """TRL's `ModelConfig` (student, LoRA, quantization) and the teacher."""

    teacher_model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "The frozen text LLM: answers the questions of a new data set, and the KL's teacher."
        },
    )
    teacher_model_revision: str = field(
        default="main", metadata={"help": "Branch, tag or commit of the teacher."}
    )

    teacher_dtype: str | None = field(
        default=None,
        metadata={"help": "Precision of the teacher in memory; unset, the student's `dtype`."},
    )
    teacher_load_in_4bit: bool = field(
        default=False, metadata={"help": "Load the teacher in 4-bit NF4 (bitsandbytes)."}
    )
    teacher_device_map: str | None = field(
        default=None,
        metadata={
            "help": "Where the teacher lives: unset, beside the student; a device ('cuda:1', 'cpu'); 'auto', spread "
            "over what is free; 'offload', in the host's memory, each layer visiting the student's device."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teacher_load_in_4bit and self.teacher_device_map == "offload":
            raise ValueError(
                "teacher_load_in_4bit and teacher_device_map 'offload' exclude each other: bitsandbytes keeps its "
                "weights on the device. Offload the teacher whole, or leave it in 4-bit beside the student"
            )
        if self.model_name_or_path is None:
            raise ValueError("model_name_or_path is not set: which speech LLM is the student?")
        if (self.load_in_4bit or self.load_in_8bit) and not self.use_peft:
            raise ValueError(
                "a quantized student cannot be trained itself; set use_peft (QLoRA), or load it whole"
            )
