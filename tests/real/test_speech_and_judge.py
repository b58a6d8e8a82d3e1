"""Tests with a real recognizer, human speech and a real language model as the judge.

Needs whisper-tiny.en, human/ (clips with transcripts) and smollm2-135m-instruct in $CROSSMODAL_KD_REAL.
"""

import re

import pytest
from datasets import Dataset

from data_builders.audio import encode_speech, read_speech
from data_builders.outcomes import Rejected
from tests.support.answered import answered
from tests.support.real import find_real
from tests.support.servers import serve_teacher
from trainer_ext.evaluation.benchmarks.base import SPEECH_FEATURE, Benchmark, LoadedBenchmark
from trainer_ext.evaluation.clip_errors import FreeRecognizer, measure_clips
from trainer_ext.evaluation.conditions import apply_condition
from trainer_ext.evaluation.evaluators.base import EvaluatorSettings, load_evaluator
from trainer_ext.evaluation.items import Item
from trainer_ext.evaluation.judge import JudgeSettings, ServerJudge

pytestmark = pytest.mark.real


def read_human(folder) -> dict[str, str]:
    """Return file name -> transcript."""
    lines = [line for file in folder.glob("*.transcription") for line in file.read_text().splitlines()]
    found = [re.fullmatch(r"(?:<s>)?\s*(.*?)\s*(?:</s>)?\s*\(([^)]+)\)", line) for line in lines]
    return {match[2]: match[1] for match in found if match and (folder / f"{match[2]}.wav").exists()}


def test_a_recognizer_understands_people_and_not_noise(tmp_path):
    """Prevents: a word error rate that says nothing about the recordings."""
    folder = find_real("human")
    recognizer = FreeRecognizer("whisper", str(find_real("whisper-tiny.en")))
    spoken = read_human(folder)
    assert len(spoken) >= 5
    items = [Item(name, name, "human", "all", text) for name, text in spoken.items()]
    cells = [{"bytes": encode_speech(read_speech(str(folder / f"{name}.wav"), name)), "path": None} for name in spoken]
    clips = Dataset.from_dict({"clip": cells}).cast_column("clip", SPEECH_FEATURE)
    benchmark = Benchmark("human", "here", ("test",), ("text", "speech"), "word_error_rate", dict, ())
    loaded = LoadedBenchmark(benchmark, items, clips)
    rates = [
        measure_clips(apply_condition(loaded, condition) if condition else loaded, recognizer, tmp_path, 0).value
        for condition in (None, "noise=10", "noise=-10")
    ]
    print("word error rate plain, at 10 dB, at -10 dB:", rates)
    assert rates[0] < 15
    assert rates[0] <= rates[1] < rates[2]
    assert rates[2] > 50


def test_a_real_model_judges_or_its_reply_is_reported(tmp_path):
    """Prevents: a client that works with a fake alone; this judge is too small to be right, and must not break it."""
    model = str(find_real("smollm2-135m-instruct"))
    with serve_teacher(model) as server:
        judge = ServerJudge(JudgeSettings(server.url, model, in_flight=2), tmp_path / "judge.sqlite")
        answers = [answered("Paris is the capital of France.", question="What is the capital of France?", number=1)]
        answers.append(answered("Bananas.", question="Who wrote Hamlet?", number=2))
        settings = EvaluatorSettings(judge=judge)
        scores = load_evaluator("open_rating", settings).evaluate(answers)
        print(scores)
        assert len(scores) == 2
        for score in scores:
            assert isinstance(score, Rejected) or 0.2 <= score.share <= 1
        judged = [score for score in scores if not isinstance(score, Rejected)]
        again = load_evaluator("open_rating", settings).evaluate(answers)
        assert [score for score in again if not isinstance(score, Rejected)][: len(judged)] == judged
        judge.close()
