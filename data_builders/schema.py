"""Columns of the data sets. A row is one question as text and, unless it trains text alone, as speech.

| column           | type                  | meaning                                                            |
|------------------|-----------------------|--------------------------------------------------------------------|
| id               | string                | stable hash of source, question, system prompt, recording number   |
| source           | string                | origin of the question; reports are broken down by it              |
| source_id        | string                | the question's `id` in its source, or else its row number there    |
| system           | string, may be empty  | system prompt, read as text in both channels                       |
| question         | string                | the question as text                                               |
| spoken_text      | string or null        | the question as it is read out: numbers and signs as words         |
| gold_response    | string or null        | the answer that the source came with                               |
| reference        | string or null        | last words of a correct answer; exact_answer compares with them    |
| teacher_response | string or null        | the teacher's own answer                                           |
| teacher          | string or null        | model @ revision and generation settings of `teacher_response`     |
| speech           | Audio, 16 kHz mono    | the question spoken; null where there is none                      |
| voice            | string or null        | the voice, in the engine's own notation                            |
| speech_engine    | string or null        | the TTS engine and its model                                       |
| speech_seconds   | float32 or null       | length of `speech`                                                 |
| transcript       | string or null        | `speech` as an independent recognizer transcribed it               |
| wer              | float32 or null       | word error rate of `transcript` against `spoken_text`              |
| similarity       | float32 or null       | cosine of the sentence embeddings of `transcript` and `question`   |
| noisy_speech     | Audio or null         | `speech` after `augmentation`                                      |
| augmentation     | string or null        | the effects that made `noisy_speech`                               |
| noisy_wer        | float32 or null       | as `wer`, of `noisy_speech`                                        |
| channels         | list of string        | channels that the row trains: "t2t" (text), "s2t" (speech), "a2t"  |

A row that trains a2t trains no other channel: it asks a written question about a sound.

| column           | type                  | meaning                                                            |
|------------------|-----------------------|--------------------------------------------------------------------|
| audio            | Audio or null         | the sound that `question` asks about                               |
| audio_seconds    | float32 or null       | length of `audio`                                                  |

Soft targets are a second table with the same ids: the teacher's distribution at every response token (T of them), in at
most 5 bytes per kept id and 4 per token and temperature.

| column           | type                  | meaning                                                            |
|------------------|-----------------------|--------------------------------------------------------------------|
| id               | string                | id of the row                                                      |
| question_hash    | string                | hash of system prompt and question                                 |
| prompt_hash      | string                | hash of the teacher's prompt token ids                             |
| response_hash    | string                | hash of the response's token ids                                   |
| teacher          | string                | model @ revision                                                   |
| scoring_backend  | string                | "model in <precision>" or "server"                                 |
| tokenizer_hash   | string                | hash of the vocabulary that the ids are from                       |
| vocab_size       | int32                 | ids the softmax is over (a server's is over all of its own)        |
| k                | int32                 | kept ids per token                                                 |
| temperatures     | list of float32       | temperatures with a known mass of the rest                         |
| ids_low, ids_high| lists of uint16, uint8| T x k ids, likeliest first: id = low + 65536 * high                |
| log_probs        | list of float16       | T x k, at temperature 1                                            |
| log_tails        | list of float32       | T x temperatures, log of the mass of all other ids                 |

Speech is stored as FLAC bytes (PCM16) inside the `Audio` column and read undecoded, with soundfile. Neither writing nor
reading needs torchcodec, and a truncated or damaged clip is an error instead of a shorter clip.
"""

import hashlib
from typing import NamedTuple

import numpy as np
from datasets import Audio, Features, List, Value

SPEECH_RATE_HZ = 16_000
PAIR_CHANNELS = ("t2t", "s2t")  # one question in writing and in speech
SOUND_CHANNEL = "a2t"
CHANNELS = (*PAIR_CHANNELS, SOUND_CHANNEL)
# Columns of the clip that a channel asks with, and of its length.
CLIP_COLUMNS = {"s2t": ("speech", "speech_seconds"), SOUND_CHANNEL: ("audio", "audio_seconds")}
# hard_targets -> the column of the responses that the cross-entropy is computed on.
RESPONSE_COLUMN = {"teacher": "teacher_response", "gold": "gold_response"}

FEATURES = Features(
    {
        "id": Value("string"),
        "source": Value("string"),
        "source_id": Value("string"),
        "system": Value("string"),
        "question": Value("string"),
        "spoken_text": Value("string"),
        "gold_response": Value("string"),
        "reference": Value("string"),
        "teacher_response": Value("string"),
        "teacher": Value("string"),
        "speech": Audio(sampling_rate=SPEECH_RATE_HZ, decode=False),
        "voice": Value("string"),
        "speech_engine": Value("string"),
        "speech_seconds": Value("float32"),
        "transcript": Value("string"),
        "wer": Value("float32"),
        "similarity": Value("float32"),
        "noisy_speech": Audio(sampling_rate=SPEECH_RATE_HZ, decode=False),
        "augmentation": Value("string"),
        "noisy_wer": Value("float32"),
        "channels": List(Value("string")),
    }
)

# Beside FEATURES, in data sets with sounds.
SOUND_FEATURES = Features(
    {"audio": Audio(sampling_rate=SPEECH_RATE_HZ, decode=False), "audio_seconds": Value("float32")}
)

SOFT_TARGET_FEATURES = Features(
    {
        "id": Value("string"),
        "question_hash": Value("string"),
        "prompt_hash": Value("string"),
        "response_hash": Value("string"),
        "teacher": Value("string"),
        "scoring_backend": Value("string"),
        "tokenizer_hash": Value("string"),
        "vocab_size": Value("int32"),
        "k": Value("int32"),
        "temperatures": List(Value("float32")),
        "ids_low": List(Value("uint16")),
        "ids_high": List(Value("uint8")),
        "log_probs": List(Value("float16")),
        "log_tails": List(Value("float32")),
    }
)


class SoftTarget(NamedTuple):
    """The soft targets of one row, at T response tokens."""

    ids: np.ndarray  # (T, k), likeliest first
    log_probs: np.ndarray  # (T, k), at temperature 1
    log_tails: np.ndarray  # (T, temperatures), log of the mass of all other ids


def make_row_id(source: str, question: str, system: str = "", recording: int = 0) -> str:
    """Return a stable id; recordings of one question differ in their number alone."""
    asked = f"{source}\0{question}\0{recording}" + (f"\0{system}" if system else "")
    return hashlib.sha256(asked.encode()).hexdigest()[:16]


def check_channels(channels: list[str], where: str, known: tuple[str, ...] = CHANNELS) -> None:
    """Raise ValueError for a channel outside the known ones; the message starts with `where`."""
    for channel in channels:
        if channel not in known:
            raise ValueError(f"{where}: unknown channel {channel!r}; a channel is one of {', '.join(known)}")
