"""The data contract: one row is one question, asked twice. The only place where columns are named.

| column           | type                  | meaning                                                            |
|------------------|-----------------------|--------------------------------------------------------------------|
| id               | string                | stable hash of source, question and take                           |
| source           | string                | where the question came from; reports are broken down by it        |
| system           | string, may be empty  | system prompt, read as text in both channels                       |
| question         | string                | the question as text                                               |
| spoken           | string or null        | the question as it was read out: numbers and signs as words        |
| gold_response    | string or null        | the answer the source came with                                    |
| reference        | string or null        | the last words of every right answer, for exact scoring            |
| teacher_response | string or null        | the teacher's own answer                                           |
| teacher          | string or null        | model @ revision and generation settings behind `teacher_response` |
| speech           | Audio, 16 kHz mono    | the question spoken; null where there is none                      |
| voice            | string or null        | who spoke, in the engine's own words                               |
| speech_engine    | string or null        | which engine spoke                                                 |
| speech_seconds   | float32 or null       | length of `speech`                                                 |
| heard            | string or null        | what an independent recognizer heard in `speech`                   |
| wer              | float32 or null       | word error rate of `heard` against `spoken`, 0 is perfect          |
| similarity       | float32 or null       | cosine of the sentence embeddings of `heard` and `question`        |
| noisy_speech     | Audio or null         | `speech` as it might sound in real life                            |
| noise            | string or null        | what was done to it                                                |
| noisy_wer        | float32 or null       | as `wer`, of `noisy_speech`                                        |
| channels         | list of string        | which channels the row trains: "t2t" (text), "s2t" (speech)        |

Soft targets are a second table with the same ids: what a teacher thought of every response token (T of them), at most
5 bytes a kept id and 4 a token and temperature.

| column           | type                  | meaning                                                            |
|------------------|-----------------------|--------------------------------------------------------------------|
| id               | string                | the row's                                                          |
| question         | string                | hash of system prompt and question                                 |
| prompt           | string                | hash of the token ids that the teacher read before the response    |
| response         | string                | hash of the response's token ids                                   |
| teacher          | string                | model @ revision                                                   |
| scoring_backend  | string                | how: in memory, and in which precision, or by a server             |
| tokenizer        | string                | hash of the vocabulary that the ids are from                       |
| vocab_size       | int32                 | ids the softmax is over (a server's is over all of its own)        |
| k                | int32                 | kept ids a token                                                   |
| temperatures     | list of float32       | for which the mass of the rest is known                            |
| ids_low, ids_high| lists of uint16, uint8| T x k ids, likeliest first: id = low + 65536 * high                |
| log_probs        | list of float16       | T x k, at temperature 1                                            |
| log_tails        | list of float32       | T x temperatures, log of the mass of all other ids                 |

Speech is kept as FLAC bytes (PCM16) inside the `Audio` column and read undecoded, with soundfile: torchcodec is
needed neither to write nor to read it, and a truncated or damaged clip is an error instead of a shorter clip.
"""

import hashlib
from typing import NamedTuple

import numpy as np
from datasets import Audio, Features, List, Value

SPEECH_RATE_HZ = 16_000
CHANNELS = ("t2t", "s2t")
# hard_targets -> column of the responses that the cross-entropy is computed on.
RESPONSE_COLUMN = {"teacher": "teacher_response", "gold": "gold_response"}

FEATURES = Features(
    {
        "id": Value("string"),
        "source": Value("string"),
        "system": Value("string"),
        "question": Value("string"),
        "spoken": Value("string"),
        "gold_response": Value("string"),
        "reference": Value("string"),
        "teacher_response": Value("string"),
        "teacher": Value("string"),
        "speech": Audio(sampling_rate=SPEECH_RATE_HZ, decode=False),
        "voice": Value("string"),
        "speech_engine": Value("string"),
        "speech_seconds": Value("float32"),
        "heard": Value("string"),
        "wer": Value("float32"),
        "similarity": Value("float32"),
        "noisy_speech": Audio(sampling_rate=SPEECH_RATE_HZ, decode=False),
        "noise": Value("string"),
        "noisy_wer": Value("float32"),
        "channels": List(Value("string")),
    }
)

SOFT_TARGET_FEATURES = Features(
    {
        "id": Value("string"),
        "question": Value("string"),
        "prompt": Value("string"),
        "response": Value("string"),
        "teacher": Value("string"),
        "scoring_backend": Value("string"),
        "tokenizer": Value("string"),
        "vocab_size": Value("int32"),
        "k": Value("int32"),
        "temperatures": List(Value("float32")),
        "ids_low": List(Value("uint16")),
        "ids_high": List(Value("uint8")),
        "log_probs": List(Value("float16")),
        "log_tails": List(Value("float32")),
    }
)


def make_row_id(source: str, question: str, take: int = 0) -> str:
    """A stable id: equal questions of one source differ only by `take`, the number of the recording."""
    return hashlib.sha256(f"{source}\0{question}\0{take}".encode()).hexdigest()[:16]


class SoftTarget(NamedTuple):
    """What is kept of a teacher at T response tokens."""

    ids: np.ndarray  # (T, k), likeliest first
    log_probs: np.ndarray  # (T, k), at temperature 1
    log_tails: np.ndarray  # (T, temperatures), log of the mass of all other ids


def check_channels(channels: list[str], where: str) -> None:
    """Refuse a channel nobody knows."""
    for channel in channels:
        if channel not in CHANNELS:
            raise ValueError(
                f"{where}: unknown channel {channel!r}; a channel is one of {', '.join(CHANNELS)}"
            )
