"""pocketsphinx with a language model of the questions at hand: does this clip say its own question, or another one?

It verifies within a closed set and recognizes nothing else: the decoder knows the words of some fifty questions. Right
clips have a word error rate of about 0.1; wrong, cut, silent and noisy ones a high one. The US-English acoustic model
comes with the package. For word error rates that are comparable with other work, use Whisper.
"""

import itertools
import math
import re
from collections import Counter
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, ClassVar

import numpy as np

from data_builders.arguments import VerificationArguments
from data_builders.schema import SPEECH_RATE_HZ

SILENCE_SECONDS = 0.3  # at both ends, for the decoder's noise estimate
PEAK = 0.5
# Digital silence breaks the decoder's noise tracking: without dither, right clips had a WER of 0.46 instead of 0.10.
DITHER = 10 ** (-50 / 20)
DISCOUNT = 0.5  # subtracted from every bigram count, for unseen bigrams
BEAMS = {
    "beam": 1e-80,
    "wbeam": 1e-60,
    "pbeam": 1e-80,
    "lpbeam": 1e-60,
    "lponlybeam": 1e-40,
    "wip": 0.2,
}
# Sentences added to a small set: a language model of one question would find it in any clip.
SMALL_SET = 20
OTHER_SENTENCES = (
    "the birch canoe slid on the smooth planks", "glue the sheet to the dark blue background",
    "it is easy to tell the depth of a well", "these days a chicken leg is a rare dish",
    "rice is often served in round bowls", "the juice of lemons makes fine punch",
    "the box was thrown beside the parked truck", "the hogs were fed chopped corn and garbage",
    "four hours of steady work faced us", "a large size in stockings is hard to sell",
    "the boy was there when the sun rose", "a rod is used to catch pink salmon",
    "the source of the huge river is the clear spring", "kick the ball straight and follow through",
    "help the woman get back to her feet", "a pot of tea helps to pass the evening",
    "smoky fires lack flame and heat", "the soft cushion broke the man's fall",
    "the salt breeze came across from the sea", "the girl at the booth sold fifty bonds",
)  # fmt: skip


class PocketsphinxRecognizer:
    """Builds one decoder per set of sentences, with their words alone in dictionary and language model."""

    name = "pocketsphinx"
    # Sets of 25 and of 100 give the same word error rates; loading a decoder takes 10 ms.
    set_size: ClassVar[int | None] = 50
    english_only: ClassVar[bool] = True

    def __init__(self) -> None:
        import pocketsphinx

        self._make_decoder = pocketsphinx.Decoder
        dictionary = Path(pocketsphinx.get_model_path()) / "en-us" / "cmudict-en-us.dict"
        self._pronunciations: dict[str, list[str]] = {}
        for line in dictionary.read_text().splitlines():
            word = line.split(None, 1)[0].split("(")[0]  # "read(2)" is another way to say "read"
            self._pronunciations.setdefault(word, []).append(line)

    @classmethod
    def from_arguments(cls, arguments: VerificationArguments, language: str) -> "PocketsphinxRecognizer":
        return cls()

    def transcribe(self, clips: list[np.ndarray], allowed_sentences: list[str]) -> list[str]:
        """Return a transcript of each clip (n,) at 16 kHz, in the words of `allowed_sentences`."""
        others = OTHER_SENTENCES if len(allowed_sentences) < SMALL_SET else ()
        decoder = self._load_decoder([*allowed_sentences, *others])
        return [decode(decoder, clip) for clip in clips]

    def _load_decoder(self, sentences: list[str]) -> Any:
        """Build the decoder of these sentences; words without a pronunciation are left out."""
        split = [re.findall(r"[a-z']+", sentence.lower()) for sentence in sentences]
        known = [[word for word in words if word in self._pronunciations] for words in split]
        spoken = sorted({word for words in known for word in words})
        lines = [line for word in spoken for line in self._pronunciations[word]]
        with (
            NamedTemporaryFile("w", suffix=".lm") as bigrams,
            NamedTemporaryFile("w", suffix=".dict") as dictionary,
        ):
            bigrams.write(write_bigrams([words for words in known if words]))
            dictionary.write("\n".join(lines) + "\n")
            bigrams.flush()
            dictionary.flush()
            return self._make_decoder(
                lm=bigrams.name,
                dict=dictionary.name,
                samprate=SPEECH_RATE_HZ,
                loglevel="FATAL",
                **BEAMS,
            )

    def close(self) -> None:
        """Free nothing: decoders are freed with each call."""


def decode(decoder: Any, clip: np.ndarray) -> str:
    """Return the transcript of a clip (n,); empty where nothing was recognized."""
    decoder.reinit_feat()  # else a transcript depends on the clips before it
    decoder.start_utt()
    decoder.process_raw(prepare(clip).tobytes(), full_utt=True)
    decoder.end_utt()
    hypothesis = decoder.hyp()
    return hypothesis.hypstr if hypothesis else ""


def prepare(clip: np.ndarray) -> np.ndarray:
    """Return the PCM16 samples of a clip (n,): normalized, dithered, between two pauses."""
    pause = np.zeros(int(SILENCE_SECONDS * SPEECH_RATE_HZ), np.float32)
    noise = np.random.default_rng(0).normal(0, DITHER, len(clip) + 2 * len(pause))
    samples = np.concatenate([pause, clip, pause]) + noise
    return (samples * (PEAK / max(np.abs(samples).max(), 10 * DITHER)) * 32767).astype(np.int16)


def write_bigrams(sentences: list[list[str]]) -> str:
    """Return a bigram language model in ARPA format, with absolute discounting."""
    marked = [["<s>", *words, "</s>"] for words in sentences]
    words = Counter(word for sentence in marked for word in sentence)
    pairs = Counter(pair for sentence in marked for pair in itertools.pairwise(sentence))
    followers = Counter(first for first, _ in pairs)
    total = sum(words.values())
    lines = ["\\data\\", f"ngram 1={len(words)}", f"ngram 2={len(pairs)}", "", "\\1-grams:"]
    for word, count in words.items():
        log_prob = -99.0 if word == "<s>" else math.log10(count / total)
        back_off = math.log10(DISCOUNT * followers[word] / count) if followers[word] else 0.0
        lines.append(f"{log_prob:.4f}\t{word}\t{back_off:.4f}")
    lines += ["", "\\2-grams:"]
    for (first, second), count in pairs.items():
        lines.append(f"{math.log10((count - DISCOUNT) / words[first]):.4f}\t{first} {second}")
    return "\n".join([*lines, "", "\\end\\", ""])
