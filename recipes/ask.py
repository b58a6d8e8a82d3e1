"""Ask a student, in writing or by voice, with its adapter and without.

    question or clip -> written answer, the untouched model's beside it -> with --speak, a spoken one too

    python recipes/ask.py --adapter outputs/tiny --question "What is two plus three?"
    python recipes/ask.py --adapter outputs/omni7b_qlora --audio question.mp3 --load_in_4bit
    python recipes/ask.py --model_name_or_path outputs/omni7b_speaking --audio question.wav --speak answer.wav

Clips may have any format, rate and number of channels that soundfile reads. A clip that is too long for the model, or
too short for a single audio token, is refused and never cut.
"""

from trainer_ext.early_answers import answer_early

answer_early(__name__, __file__)  # the imports below take seconds

from dataclasses import dataclass

import soundfile
import torch
from transformers import PreTrainedModel, TextStreamer
from transformers.hf_argparser import HfArg

from trainer_ext.command_line import run_command
from trainer_ext.evaluation.asking import encode_question, read_clip
from trainer_ext.evaluation.generation import greedy_config, move_inputs
from trainer_ext.export.merge import read_base_name
from trainer_ext.loading.adapter import load_adapter
from trainer_ext.loading.student import inference_options
from trainer_ext.parser import RecipeParser
from trainer_ext.progress import keep_libraries_quiet
from trainer_ext.students.base import SpeakingFamily, StudentFamily
from trainer_ext.students.registry import load_student_family


@dataclass
class AskArguments:
    """The question, the model, and the form of the answer."""

    question: str | None = HfArg(default=None, help="The question, in writing.")
    audio: str | None = HfArg(default=None, help="The question, as a sound file.")
    model_name_or_path: str | None = HfArg(
        default=None, help="A student, trained or untouched. Unset: the base model of the adapter."
    )
    model_revision: str | None = HfArg(default=None, help="Branch, tag or commit of the model.")
    adapter: str | None = HfArg(default=None, help="An adapter: the answers with and without it are shown.")
    adapter_revision: str | None = HfArg(default=None, help="Branch, tag or commit of an adapter on the Hub.")
    system: str = HfArg(default="", help="System prompt; unset, the one of training.")
    max_new_tokens: int = HfArg(default=256, help="Longest answer, in tokens.")
    dtype: str = HfArg(default="auto", help="Precision of the weights.")
    load_in_4bit: bool = HfArg(default=False, help="Load the model in NF4.")
    speak: str | None = HfArg(default=None, help="A WAV file for the spoken answer; needs the full model.")

    def __post_init__(self) -> None:
        if (self.question is None) == (self.audio is None):
            raise ValueError("ask by --question (in writing) or by --audio (a sound file), one of them")
        if self.model_name_or_path is None and self.adapter is None:
            raise ValueError("name the model by --model_name_or_path, --adapter, or both")


def main() -> None:
    keep_libraries_quiet()
    parser = RecipeParser((AskArguments,))
    (arguments,) = parser.parse_args_and_config()
    ask(arguments)


def ask(arguments: AskArguments) -> None:
    """Encode the question, load the model, print the answer; cheap checks come first."""
    base, revision = arguments.model_name_or_path, arguments.model_revision
    if base is None:
        base, revision = read_base_name(arguments.adapter, arguments.adapter_revision)
    if base is None:
        raise ValueError(
            f"{arguments.adapter} is no adapter (there is no adapter_config.json): name a full model by "
            "--model_name_or_path"
        )
    family = load_student_family(base, revision)
    if arguments.speak is not None and not isinstance(family, SpeakingFamily):
        raise ValueError(f"{base} cannot speak: its family has text output alone")
    system = arguments.system
    if arguments.speak is not None and not system:
        system = family.speaking_system
    clip = None if arguments.audio is None else read_clip(arguments.audio, family.max_speech_seconds)
    inputs = encode_question(family, arguments.question, clip, system)  # before gigabytes are loaded
    model, student = load(family, base, revision, arguments)
    inputs = move_inputs(inputs, student)
    if arguments.adapter is not None:
        print("untouched: ", end="", flush=True)
        with student.disable_adapter():
            answer(student, family, inputs, arguments.max_new_tokens)
        print("trained:   ", end="", flush=True)
    if arguments.speak is None:
        answer(student, family, inputs, arguments.max_new_tokens)
        return
    samples = family.speak(model, inputs, arguments.max_new_tokens, make_streamer(family))
    soundfile.write(arguments.speak, samples, family.spoken_rate_hz)
    print(f"spoken in {len(samples) / family.spoken_rate_hz:.1f} s: {arguments.speak}")


def load(
    family: StudentFamily, base: str, revision: str | None, arguments: AskArguments
) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Return the model to generate with, and its student with the adapter; without --speak they are the same."""
    if arguments.speak is not None and arguments.load_in_4bit:
        raise ValueError("--speak needs the full model: leave out --load_in_4bit")
    options = inference_options(family, arguments.dtype, revision, arguments.load_in_4bit)
    if arguments.speak is None:
        model = student = family.load_model(base, **options)
    else:
        model = family.load_speaking_model(base, **options)
        student = family.get_student(model)
    if arguments.adapter is not None:
        student = load_adapter(student, arguments.adapter, arguments.adapter_revision)
        if arguments.speak is not None:
            family.set_student(model, student)
    return model.eval(), student.eval()


@torch.no_grad()
def answer(
    student: PreTrainedModel, family: StudentFamily, inputs: dict[str, torch.Tensor], max_new_tokens: int
) -> None:
    """Print the answer, token by token."""
    student.generate(
        **inputs,
        generation_config=greedy_config(family, max_new_tokens),
        streamer=make_streamer(family),
    )


def make_streamer(family: StudentFamily) -> TextStreamer:
    """Return a streamer that prints tokens as they are generated."""
    return TextStreamer(family.tokenizer, skip_prompt=True, skip_special_tokens=True)


if __name__ == "__main__":
    run_command(main)
