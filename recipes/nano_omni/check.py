"""Measure a nano-Omni on held-out questions: answers by voice and in writing, clips repeated, both divergences.

The pages and tables are those of recipes/eval_speech.py.
"""

from pathlib import Path
from typing import Any

from adapt import make_repeats
from datasets import Dataset

from data_builders.causal_lm import TeacherSettings
from trainer_ext.evaluation.answering import Generation
from trainer_ext.evaluation.benchmarks.own_data import make_pairs_benchmark
from trainer_ext.evaluation.evaluators.base import EvaluatorSettings
from trainer_ext.evaluation.judge_free_stage import TextLLM, measure_students
from trainer_ext.evaluation.run import EvaluationPlan, collect_answers, report_answers
from trainer_ext.evaluation.sources.from_arguments import BASE
from trainer_ext.evaluation.sources.student import LoadSettings, SharedStudent
from trainer_ext.evaluation.sources.text_llm import TextLLMSource
from trainer_ext.evaluation.tables import show_scores

QUESTIONS, REPEATED = "held-out questions", "clips to repeat"


def check(
    student: str, adapters: list[str], teacher: str, test: Dataset, folder: Path, max_new_tokens: int, seed: int
) -> dict[str, Any]:
    """Ask the student, with and without each adapter, and write report, pictures and page; returns the report.

    Args:
        teacher: the text LLM, asked in writing, and the one that forgetting is measured against.
        test: rows with answers of the teacher, in voices that were not heard in training.
    """
    shared = SharedStudent(LoadSettings(student))
    students = [shared.make_source(BASE), *(shared.make_source(Path(name).name, name) for name in adapters)]
    settings = TeacherSettings(teacher)
    sources = [*students, TextLLMSource("teacher", settings)]
    questions = make_pairs_benchmark(test, QUESTIONS, "word_overlap", max_new_tokens)
    repeated = make_pairs_benchmark(make_repeats(test), REPEATED, "word_error_rate", max_new_tokens)
    plan = EvaluationPlan(
        benchmarks=[questions, repeated],
        evaluators={QUESTIONS: "word_overlap", REPEATED: "word_error_rate"},
        modalities=["text", "speech"],
        settings=EvaluatorSettings(seed=seed),
        generation=Generation(max_new_tokens, seed),
        base=BASE,
    )
    answers = collect_answers(sources, plan, folder)
    divergences = measure_students(students, [questions], answers, BASE, TextLLM(settings), folder, seed)
    report, _ = report_answers(answers, sources, plan, folder, folder, judge_free=divergences)
    show_scores(report)
    print(f"report, pictures and page: {folder}/index.html")
    return report
