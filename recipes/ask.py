"""Ask a student, in writing or by voice, with its adapter and without.

    question or clip -> answer as it is written, the untouched model's beside it -> with --speak, a spoken one too

    python recipes/ask.py --adapter outputs/tiny --question "What is two plus three?"
    python recipes/ask.py --adapter outputs/omni7b_qlora --audio question.mp3 --load_in_4bit
    python recipes/ask.py --model_name_or_path outputs/omni7b_speaking --audio question.wav --speak answer.wav

Clips may have any format, rate and number of channels that soundfile reads. One that is too long for the model, or too
short for a single audio token, is refused and never cut.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from accelerate import PartialState
from transformers import TextStreamer

from data_builders.audio import read_speech
from data_builders.schema import SPEECH_RATE_HZ
from trainer_ext.arguments import ModelArguments
from trainer_ext.evaluation.answers import make_greedy, move_inputs, pad_prompts
from trainer_ext.export.merge import read_base_name
from trainer_ext.loading.adapter import load_adapter
from trainer_ext.loading.student import choose_attention, make_quantization, read_dtype
from trainer_ext.parser import RecipeParser
from trainer_ext.progress import keep_libraries_quiet
from trainer_ext.students.qwen2_5_omni import SPEAKING_SYSTEM, SPOKEN_RATE_HZ
from trainer_ext.students.registry import load_student_family


@dataclass
class AskArguments:
    """Who is asked what, and how the answer comes."""

    question: str | None = field(default=None, metadata={"help": "The question, in writing."})
    audio: str | None = field(default=None, metadata={"help": "The question, as a sound file."})
    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "A student, whole or untouched. Unset: what the adapter was trained on."},
    )
    model_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the model."}
    )
    adapter: str | None = field(
        default=None, metadata={"help": "An adapter: the answers with and without it are shown."}
    )
    system: str = field(
        default="", metadata={"help": "System prompt; unset, the one that was trained with."}
    )
    max_new_tokens: int = field(default=256, metadata={"help": "Longest answer, in tokens."})
    dtype: str = field(default="auto", metadata={"help": "Precision of the weights."})
    load_in_4bit: bool = field(default=False, metadata={"help": "Load the model in NF4."})
    speak: str | None = field(
        default=None,
        metadata={"help": "A WAV file to write the spoken answer to; wants the full model."},
    )

    def __post_init__(self) -> None:
        if (self.question is None) == (self.audio is None):
            raise ValueError(
                "ask by --question (in writing) or by --audio (a sound file), one of them"
            )
        if self.model_name_or_path is None and self.adapter is None:
            raise ValueError("name whom to ask by --model_name_or_path, --adapter, or both")


def main() -> None:
    keep_libraries_quiet()
    parser = RecipeParser((AskArguments,))
    (arguments,) = parser.parse_args_and_config()
    try:
        ask(arguments)
    except (ValueError, OSError) as error:  # OSError: no such model
        parser.error(str(error))


def ask(arguments: AskArguments) -> None:
    """Encode, load, answer; the cheapest to refuse comes first."""
    base, revision = arguments.model_name_or_path, arguments.model_revision
    if base is None:
        base, revision = read_base_name(arguments.adapter)
    if base is None:
        raise ValueError(
            f"{arguments.adapter} is no adapter (there is no adapter_config.json): name a whole model by "
            "--model_name_or_path"
        )
    family = load_student_family(base, revision)
    inputs = encode(family, arguments)  # before gigabytes are loaded
    model, thinker = load(family, base, revision, arguments)
    inputs = move_inputs(inputs, thinker)
    if arguments.adapter is not None:
        print("untouched: ", end="", flush=True)
        with thinker.disable_adapter():
            answer(thinker, family, inputs, arguments.max_new_tokens)
        print("trained:   ", end="", flush=True)
    if arguments.speak is None:
        answer(thinker, family, inputs, arguments.max_new_tokens)
        return
    samples = family.speak(
        model,
        inputs,
        thinker_max_new_tokens=arguments.max_new_tokens,
        thinker_streamer=make_streamer(family),
    )
    soundfile.write(arguments.speak, samples, SPOKEN_RATE_HZ)
    print(f"spoken in {len(samples) / SPOKEN_RATE_HZ:.1f} s: {arguments.speak}")


def encode(family: Any, arguments: AskArguments) -> dict[str, torch.Tensor]:
    """What the model takes of the question.

    Raises:
        ValueError: the clip cannot be read, or is too long or too short.
    """
    system = arguments.system or (SPEAKING_SYSTEM if arguments.speak else "")
    clips = []
    if arguments.audio is None:
        prompt = family.encode_text_prompt(arguments.question, system)
    else:
        clips = [read_clip(arguments.audio, family.max_speech_seconds)]
        prompt = family.encode_speech_prompt(len(clips[0]), system)
    return pad_prompts(family, [prompt], clips)


def read_clip(file: str, max_seconds: float) -> np.ndarray:
    """Samples (n,) of a file that is there and not too long."""
    if not Path(file).is_file():
        raise ValueError(f"there is no file {file}")
    samples = read_speech(file, file)
    seconds = len(samples) / SPEECH_RATE_HZ
    if seconds > max_seconds:
        raise ValueError(
            f"{file} is {seconds:.0f} s long, and the model takes {max_seconds:g} s at most: ask by a shorter clip "
            "(it is never cut)"
        )
    return samples


def load(family: Any, base: str, revision: str | None, arguments: AskArguments) -> tuple[Any, Any]:
    """The model to generate with, and its thinker with the adapter on; without --speak they are one."""
    device = PartialState().device
    dtype = read_dtype(arguments.dtype, family.config)
    quantization = None
    if arguments.load_in_4bit:
        student = ModelArguments(
            base, dtype=str(dtype).removeprefix("torch."),
            load_in_4bit=True, use_peft=True, use_bnb_nested_quant=True,
        )  # fmt: skip
        quantization = make_quantization(student, family)
    how = {
        "revision": revision,
        "dtype": dtype,
        "attn_implementation": choose_attention(device, dtype),
        "quantization_config": quantization,
        "device_map": {"": device},
    }
    if arguments.speak is None:
        model = thinker = family.load_model(base, **how)
    else:
        if quantization is not None:
            raise ValueError("--speak wants the whole model: leave out --load_in_4bit")
        model = family.load_speaking_model(base, **how)
        thinker = model.thinker
    if arguments.adapter is not None:
        thinker = load_adapter(thinker, arguments.adapter)
        if arguments.speak is not None:
            model.thinker = thinker
    return model.eval(), thinker.eval()


@torch.no_grad()
def answer(thinker: Any, family: Any, inputs: dict[str, torch.Tensor], max_new_tokens: int) -> None:
    """Write the answer to the terminal, token by token."""
    thinker.generate(
        **inputs,
        generation_config=make_greedy(family, max_new_tokens),
        streamer=make_streamer(family),
    )


def make_streamer(family: Any) -> TextStreamer:
    """Writes tokens to the terminal as they come."""
    return TextStreamer(family.tokenizer, skip_prompt=True, skip_special_tokens=True)


if __name__ == "__main__":
    main()
