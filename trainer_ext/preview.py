"""Rows as a student reads them, before anything is trained."""

import re
from collections.abc import Sequence
from typing import Any

from data_builders.schema import SOUND_CHANNEL, SPEECH_RATE_HZ
from trainer_ext.students.base import StudentEncoder
from trainer_ext.students.encode_row import encode_row

SHOWN = 3
# Audio tokens, of which a clip has hundreds.
REPEATED = re.compile(r"((<[^<>]+>|\[[A-Z_]+\])\2{3})\2*")


def show_prompts(
    rows: Sequence[dict[str, Any]], speech_seconds: Sequence[float], student: StudentEncoder, channels: Sequence[str]
) -> dict[str, int]:
    """Print the first prompts of every channel and their lengths; returns the longest of each, in tokens.

    Args:
        speech_seconds: the length of each row's speech, known or estimated; 0 for none.
    """
    longest = {}
    for channel in channels:
        prompts = []
        for row, spoken in zip(rows, speech_seconds, strict=True):
            seconds = row.get("audio_seconds") if channel == SOUND_CHANNEL else spoken
            if channel in row["channels"] and (channel == "t2t" or seconds):
                prompts.append(encode_row(student, row, channel, round((seconds or 0) * SPEECH_RATE_HZ)))
        lengths = [len(prompt) for prompt in prompts]
        longest[channel] = max(lengths, default=0)
        if prompts:
            mean = sum(lengths) / len(lengths)
            print(f"{channel}: prompts of {mean:.0f} tokens on average, {longest[channel]} at most; the first are")
        for prompt in prompts[:SHOWN]:
            print("  " + repr(REPEATED.sub(r"\2 ... ", student.tokenizer.decode(prompt))))
    return longest
