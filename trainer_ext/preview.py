"""Rows as a student reads them, before anything is trained."""

import re
from collections.abc import Sequence
from typing import Any

from data_builders.schema import SPEECH_RATE_HZ
from trainer_ext.students.base import StudentEncoder

SHOWN = 3
# Audio tokens, of which a clip has hundreds.
REPEATED = re.compile(r"((<[^<>]+>)\2{3})\2*")


def show_prompts(
    rows: Sequence[dict[str, Any]], speech_seconds: Sequence[float], student: StudentEncoder, channels: Sequence[str]
) -> dict[str, int]:
    """Print the first prompts of every channel and their lengths; returns the longest of each, in tokens.

    Args:
        speech_seconds: the length of each row's clip, known or estimated; 0 for none.
    """
    longest = {}
    for channel in channels:
        prompts = [
            student.encode_text_prompt(row["question"], row["system"])
            if channel == "t2t"
            else student.encode_speech_prompt(round(seconds * SPEECH_RATE_HZ), row["system"])
            for row, seconds in zip(rows, speech_seconds, strict=True)
            if channel in row["channels"] and (channel == "t2t" or seconds)
        ]
        lengths = [len(prompt) for prompt in prompts]
        longest[channel] = max(lengths, default=0)
        if prompts:
            mean = sum(lengths) / len(lengths)
            print(f"{channel}: prompts of {mean:.0f} tokens on average, {longest[channel]} at most; the first are")
        for prompt in prompts[:SHOWN]:
            print("  " + repr(REPEATED.sub(r"\2 ... ", student.tokenizer.decode(prompt))))
    return longest
