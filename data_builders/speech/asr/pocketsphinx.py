"""pocketsphinx with a grammar of the questions at hand: does this clip say its own question, or another one?

It verifies within a closed set and recognizes nothing else: the decoder knows some fifty questions as whole sentences.
A right clip has a word error rate of 0; one that is wrong, cut or silent says another sentence, or none. One that lacks
a few short words may pass. The US-English acoustic model comes with the package. For word error rates that are
comparable with other work, use Whisper.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, ClassVar

import numpy as np

from data_builders.arguments import VerificationArguments
from data_builders.schema import SPEECH_RATE_HZ

GRAMMAR = "sentences"
SILENCE_SECONDS = 0.3  # at both ends, for the decoder's noise estimate
PEAK = 0.5
# Digital silence breaks the decoder's noise tracking: without dither, many right clips fail.
DITHER = 10 ** (-50 / 20)
# Narrower beams reject more right clips, wider ones fewer noisy ones (tests/benchmarks/recognizer.py). `ds`: every
# second frame is scored.
DECODING = {"beam": 1e-60, "wbeam": 1e-40, "pbeam": 1e-60, "ds": 2, "bestpath": False}
# Sentences added to a small set: a grammar of one question would find it in any clip.
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
    """Builds one decoder per set of sentences, with their words alone in its dictionary."""

    name = "pocketsphinx"
    # Loading a decoder takes 10 ms; larger sets are slower.
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
        decoder = self._load_decoder(allowed_sentences)
        return [decode(decoder, clip) for clip in clips]

    def _load_decoder(self, sentences: list[str]) -> Any:
        """Build the decoder of these sentences; words without a pronunciation are left out."""
        known = self._read_words(sentences)
        if len(known) < SMALL_SET:
            known |= self._read_words(OTHER_SENTENCES)
        spoken = sorted({word for words in known for word in words})
        lines = [line for word in spoken for line in self._pronunciations[word]]
        with NamedTemporaryFile("w", suffix=".dict") as dictionary:
            dictionary.write("\n".join(lines) + "\n")
            dictionary.flush()
            decoder = self._make_decoder(
                lm=None, dict=dictionary.name, samprate=SPEECH_RATE_HZ, loglevel="FATAL", **DECODING
            )
        steps, end = list_transitions(sorted(known))
        decoder.add_fsg(GRAMMAR, decoder.create_fsg(GRAMMAR, start_state=0, final_state=end, transitions=steps))
        decoder.activate_search(GRAMMAR)
        return decoder

    def _read_words(self, sentences: Iterable[str]) -> set[tuple[str, ...]]:
        """Return the words of every sentence that have a pronunciation, without sentences that have none."""
        split = (re.findall(r"[a-z']+", sentence.lower()) for sentence in sentences)
        return {tuple(word for word in words if word in self._pronunciations) for words in split} - {()}

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


def list_transitions(sentences: list[tuple[str, ...]]) -> tuple[list[tuple[int, int, float, str]], int]:
    """Return (from, to, probability, word) of a grammar whose paths are the sentences, and its last state."""
    end = 1 + sum(len(words) - 1 for words in sentences)
    transitions: list[tuple[int, int, float, str]] = []
    free = 1
    for words in sentences:
        inner = range(free, free + len(words) - 1)  # the states between this sentence's words
        probabilities = [1 / len(sentences), *(1.0 for _ in inner)]
        transitions += zip([0, *inner], [*inner, end], probabilities, words, strict=True)
        free = inner.stop
    return transitions, end
