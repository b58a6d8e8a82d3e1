"""Sounds of the tiny lab: tones, beeps, noise, clicks and beats, with written questions about them."""

import random
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from data_builders.schema import SPEECH_RATE_HZ

COUNTS = ("one", "two", "three", "four", "five")
LOWEST_HZ, OCTAVES = 200, 4
FADE_SAMPLES = 80  # 5 ms, so that a tone does not begin with a click
SILENCE_SECONDS = (0.05, 0.2)


class Sound(NamedTuple):
    """A sound (n,) at 16 kHz, a question about it, the answer, and its last words."""

    family: str
    samples: np.ndarray
    question: str
    answer: str
    reference: str


def make_sound(rng: random.Random, family: str | None = None) -> Sound:
    """Return a sound of a family, or of any one, between two short silences."""
    family = family or rng.choice(list(FAMILIES))
    questions, make = FAMILIES[family]
    samples, answer, reference = make(rng)
    silences = [silence(rng.uniform(*SILENCE_SECONDS)) for _ in range(2)]
    samples = np.concatenate([silences[0], samples, silences[1]]).astype(np.float32)
    return Sound(family, samples, rng.choice(questions), answer[0].upper() + answer[1:], reference)


def tone(hertz: float, seconds: float) -> np.ndarray:
    samples = 0.4 * np.sin(2 * np.pi * hertz * seconds_axis(seconds))
    fade = np.linspace(0, 1, FADE_SAMPLES)
    samples[:FADE_SAMPLES] *= fade
    samples[-FADE_SAMPLES:] *= fade[::-1]
    return samples


def silence(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * SPEECH_RATE_HZ))


def seconds_axis(seconds: float) -> np.ndarray:
    return np.arange(int(seconds * SPEECH_RATE_HZ)) / SPEECH_RATE_HZ


def random_pitch(rng: random.Random) -> float:
    return LOWEST_HZ * 2 ** rng.uniform(0, OCTAVES)


def count_beeps(rng: random.Random) -> tuple[np.ndarray, str, str]:
    count, hertz, seconds = rng.randint(1, len(COUNTS)), random_pitch(rng), rng.uniform(0.12, 0.2)
    beeps = [np.concatenate([tone(hertz, seconds), silence(rng.uniform(0.15, 0.3))]) for _ in range(count)]
    reference = f"{COUNTS[count - 1]} beep{'s' if count > 1 else ''}"
    return np.concatenate(beeps), f"there {'are' if count > 1 else 'is'} {reference}.", reference


def compare_pitches(rng: random.Random) -> tuple[np.ndarray, str, str]:
    low = LOWEST_HZ * 2 ** rng.uniform(0, OCTAVES - 1.5)
    pitches = [low, low * 2 ** rng.uniform(0.5, 1.5)]
    rises = rng.random() < 0.5
    first, second = [tone(hertz, rng.uniform(0.3, 0.5)) for hertz in (pitches if rises else pitches[::-1])]
    reference = "higher" if rises else "lower"
    return np.concatenate([first, silence(rng.uniform(0.1, 0.3)), second]), f"the second is {reference}.", reference


def change_loudness(rng: random.Random) -> tuple[np.ndarray, str, str]:
    samples = tone(random_pitch(rng), rng.uniform(0.8, 1.5))
    rises = rng.random() < 0.5
    samples *= np.linspace(0.05, 1, len(samples))[:: 1 if rises else -1]
    reference = "louder" if rises else "softer"
    return samples, f"it gets {reference}.", reference


def name_source(rng: random.Random) -> tuple[np.ndarray, str, str]:
    reference = rng.choice(("a steady tone", "a beating tone", "noise", "clicks"))
    seconds = rng.uniform(0.8, 1.6)
    samples = tone(random_pitch(rng), seconds)
    if reference == "a beating tone":
        samples *= 0.5 + 0.5 * np.cos(2 * np.pi * rng.uniform(4, 9) * seconds_axis(seconds))
    elif reference == "noise":
        samples = np.random.default_rng(rng.randrange(2**31)).normal(0, 0.1, len(samples))
    elif reference == "clicks":
        samples = silence(seconds)
        samples[:: int(SPEECH_RATE_HZ / rng.uniform(5, 12))] = 0.8
    return samples, f"this is {reference}.", reference


Maker = Callable[[random.Random], tuple[np.ndarray, str, str]]
FAMILIES: dict[str, tuple[tuple[str, ...], Maker]] = {
    "beeps": (("How many beeps are there?", "Count the beeps.", "How many beeps do you hear?"), count_beeps),
    "pitch": (("Is the second tone higher or lower?", "How does the second tone differ?"), compare_pitches),
    "loudness": (("Does it get louder or softer?", "How does the loudness change?"), change_loudness),
    "source": (("What is this sound?", "What do you hear?"), name_source),
}
