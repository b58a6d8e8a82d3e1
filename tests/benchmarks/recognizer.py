"""Word error rates and rejections of the default recognizer: right, noisy, swapped and silent clips of 300 questions.

python tests/benchmarks/recognizer.py                 # questions in the style of Open-Orca
python tests/benchmarks/recognizer.py --lab           # the tiny lab's, which differ by a word
"""

import argparse
import random
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from data_builders.arguments import VerificationArguments  # noqa: E402
from data_builders.audio import resample_speech  # noqa: E402
from data_builders.questions.read import read_questions  # noqa: E402
from data_builders.questions.text_normalization import normalize_for_tts  # noqa: E402
from data_builders.schema import SPEECH_RATE_HZ  # noqa: E402
from data_builders.speech.augmentation import Augmenter  # noqa: E402
from data_builders.speech.tts.espeak import EspeakEngine  # noqa: E402
from data_builders.speech.verification import SpeechCheck, SpeechVerifier  # noqa: E402
from tests.support.open_orca import make_rows  # noqa: E402

QUESTIONS, SET_SIZE, SWAPPED_SHARE = 300, 50, 0.05
VOICES = (
    "en-us/160/45",
    "en-us+f1/175/60",
    "en-gb-x-rp/170/50",
    "en-gb-scotland/165/45",
    "en-029+m7/160/40",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lab", action="store_true")
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes; figures mean nothing")
    options = parser.parse_args()
    questions = sample_questions(options.lab)[: 4 if options.smoke else QUESTIONS]
    engine = EspeakEngine()
    clips = [
        resample_speech(*engine.synthesize(question, VOICES[i % len(VOICES)])) for i, question in enumerate(questions)
    ]
    engine.close()
    arguments = VerificationArguments()
    checker = SpeechVerifier(arguments)
    print("| clips | word error rate | rejected, % | times real time |\n|---|---|---|---|")
    show("right", verify(checker, clips, questions), clips, arguments)
    for snr in (20.0, 10.0, 0.0):
        noise = Augmenter(["noise"], [snr, snr])
        noisy = [noise.apply(clip, str(i)) for i, clip in enumerate(clips)]
        show(f"noise at {snr:g} dB", verify(checker, noisy, questions), noisy, arguments)
    silent = [np.zeros(2 * SPEECH_RATE_HZ, np.float32)] * len(clips)
    show("silence", verify(checker, silent, questions), silent, arguments)
    cut = [clip[: len(clip) // 2] for clip in clips]
    show("first halves", verify(checker, cut, questions), cut, arguments)
    swapped, wrong = swap(clips)
    (checks, seconds) = verify(checker, swapped, questions)
    show(
        "5 % swapped: those",
        ([checks[i] for i in wrong], seconds),
        [swapped[i] for i in wrong],
        arguments,
    )


def sample_questions(lab: bool) -> list[str]:
    if lab:
        file = ROOT / "recipes" / "tiny_lab" / "questions.jsonl"
        found = [prompt["question"] for prompt in read_questions(str(file))]
        return random.Random(0).sample(found, QUESTIONS)
    asked = [row["question"] for row, label in make_rows(5000) if label == "yes"]
    return [normalize_for_tts(question) for question in random.Random(0).sample(asked, QUESTIONS)]


def verify(checker: SpeechVerifier, clips: list[np.ndarray], questions: list[str]) -> tuple[list[SpeechCheck], float]:
    """Return the checks of all clips, in sets of 50, and their seconds."""
    started, checks = time.monotonic(), []
    for start in range(0, len(clips), SET_SIZE):
        some = questions[start : start + SET_SIZE]
        checks += checker.check(clips[start : start + SET_SIZE], some, some, some)
    return checks, time.monotonic() - started


def swap(clips: list[np.ndarray]) -> tuple[list[np.ndarray], list[int]]:
    """Return clips of which one in twenty is swapped, and the swapped indices."""
    wrong = random.Random(1).sample(range(len(clips)), max(2, int(SWAPPED_SHARE * len(clips))))
    swapped = list(clips)
    for here, there in zip(wrong, [*wrong[1:], wrong[0]], strict=True):
        swapped[here] = clips[there]
    return swapped, wrong


def show(
    name: str, heard: tuple[list[SpeechCheck], float], clips: list[np.ndarray], arguments: VerificationArguments
) -> None:
    checks, seconds = heard
    rejected = np.mean([check.reject(arguments.max_wer, arguments.min_similarity) is not None for check in checks])
    rate = np.mean([check.wer for check in checks])
    speed = sum(map(len, clips)) / SPEECH_RATE_HZ / seconds
    print(f"| {name} | {rate:.3f} | {100 * rejected:.1f} | {speed:.0f} |", flush=True)


if __name__ == "__main__":
    main()
