"""Tests of recipes/eval_speech.py as a command."""

import json
import sys

import pytest
import yaml
from peft import LoraConfig, PeftModel

from tests.support.judge_server import JudgeServer
from tests.support.lab import ROOT, STUDENT, TEACHER
from tests.support.processes import run
from tests.support.published_sets import (
    read_clips,
    write_big_bench_audio,
    write_mmar,
    write_mmau,
    write_voicebench,
)
from tests.support.run_script import run_script
from tests.support.tiny_whisper import save_tiny_whisper
from trainer_ext.evaluation.benchmarks.registry import BENCHMARKS, OVERALL

BASE = ["--model_name_or_path", STUDENT, "--dtype", "float32"]


@pytest.fixture
def evaluate(monkeypatch, capsys):
    return lambda *words: run_script("eval_speech.py", [*BASE, *words], monkeypatch, capsys)


@pytest.fixture(scope="module")
def run_config(questions_file, tmp_path_factory):
    """A training config of the small data set."""
    folder = tmp_path_factory.mktemp("config")
    config = yaml.safe_load((ROOT / "recipes" / "configs" / "tiny.yaml").read_text())
    config |= {"questions": str(questions_file), "cache_dir": str(folder / "data")}
    (folder / "small.yaml").write_text(yaml.safe_dump(config))
    return str(folder / "small.yaml")


@pytest.fixture(scope="module")
def adapter(family, tmp_path_factory):
    """An adapter that makes answers worse."""
    folder = tmp_path_factory.mktemp("adapter") / "worse"
    config = LoraConfig(target_modules=family.lora_target_modules, r=4, init_lora_weights=False)
    PeftModel(family.load_model(STUDENT, dtype="float32"), config).save_pretrained(str(folder))
    return str(folder)


def test_base_adapter_and_teacher_are_asked_the_held_out_questions(evaluate, run_config, adapter, tmp_path):
    """Prevents: an evaluation of other rows than the run held out, and a second run that asks everything again."""
    words = ["--run_config", run_config, "--evaluator", "exact_answer", "--adapters", adapter]
    words += ["--teacher_model_name_or_path", TEACHER, "--output_dir", str(tmp_path / "eval"), "--max_items", "9"]
    words += ["--judge_free", "true"]
    said, error = evaluate(*words)
    assert error == ""
    report = json.loads((tmp_path / "eval" / "report.json").read_text())
    cells = {(line["model"], line["modality"]): line["value"] for line in report["scores"] if line["group"] == "all"}
    assert cells.keys() == {
        ("base", "text"), ("base", "speech"), ("worse", "text"), ("worse", "speech"), ("teacher", "text"),
    }  # fmt: skip
    assert cells["teacher", "text"] == 100
    assert cells["base", "text"] > cells["worse", "text"]
    for name in ("report.md", "scores.png", "lengths.png", "index.html", "scores.jsonl"):
        assert (tmp_path / "eval" / name).stat().st_size > 0
    judge_free = {(line["model"], line["name"]): line for line in report["judge_free"]}
    assert judge_free["worse", "misalignment"]["change"]["value"] != 0
    assert judge_free["worse", "forgetting"]["value"] > judge_free["base", "forgetting"]["value"] > 0
    made = [*(tmp_path / "eval" / "answers").rglob("*.jsonl"), *(tmp_path / "eval" / "divergences").rglob("*.json")]
    answers = {file: file.stat().st_mtime_ns for file in made}
    assert len(answers) == 5 + 2
    again, error = evaluate(*words, "--stages", "scores", "report")
    assert error == ""
    assert again.split("scores, percent")[1] == said.split("scores, percent")[1]
    assert {file: file.stat().st_mtime_ns for file in answers} == answers


def test_a_published_subset_is_answered_scored_and_judged(evaluate, pairs, tmp_path):
    """Prevents: a harness that loads a benchmark and cannot ask it."""
    rows = list({row["question"]: row for row in pairs["test"]}.values())[:3]
    folder = write_voicebench(tmp_path / "voicebench", rows, read_clips(rows))
    words = ["--benchmarks", "voicebench/openbookqa", "voicebench/bbh", "voicebench/ifeval", "voicebench/commoneval"]
    words += ["voicebench/advbench", "--benchmark_folders", f"voicebench={folder}", "--max_new_tokens", "24"]
    words += ["--output_dir", str(tmp_path / "eval")]
    said, error = evaluate(*words)
    assert error == ""
    assert "voicebench/commoneval is not scored: it needs a judge" in said
    report = json.loads((tmp_path / "eval" / "report.json").read_text())
    assert "voicebench/commoneval" in report["not_scored"]
    lines = {line["benchmark"]: line for line in report["scores"] if line["group"] == "all"}
    assert "value" not in lines["voicebench/commoneval"]
    assert lines["voicebench/openbookqa"]["guessed"] == 100  # the lab's student knows no letters
    with JudgeServer(lambda *_: "4") as server:
        said, error = evaluate(*words, "--judge_base_url", server.url, "--judge_model", "judge")
        assert error == ""
    report = json.loads((tmp_path / "eval" / "report.json").read_text())
    judged = [line["value"] for line in report["scores"] if line["benchmark"] == "voicebench/commoneval"]
    assert judged == [80, 80]


def test_every_benchmark_is_asked_and_scored(evaluate, pairs, tmp_path):
    """Prevents: a benchmark that loads and cannot be asked or scored, for other columns, clips or modalities."""
    rows = list({row["question"]: row for row in pairs["test"]}.values())[:1]
    clips = read_clips(rows)
    original, revised = write_mmau(tmp_path / "mmau", clips)
    folders = {
        "voicebench": write_voicebench(tmp_path / "voicebench", rows, clips),
        "mmau_mini_original": original,
        "mmau_mini_v05.15.25": revised,
        "mmar": write_mmar(tmp_path / "mmar", clips),
        "big_bench_audio": write_big_bench_audio(tmp_path / "big", clips),
    }
    words = ["--benchmarks", *folders, "--benchmark_folders", *(f"{name}={place}" for name, place in folders.items())]
    words += ["--max_new_tokens", "4", "--output_dir", str(tmp_path / "eval"), "--judge_model", "judge"]
    with JudgeServer(lambda _, prompt: "Yes" if "reference" in prompt else "3") as server:
        _, error = evaluate(*words, "--judge_base_url", server.url)
    assert error == ""
    report = json.loads((tmp_path / "eval" / "report.json").read_text())
    scored = {(line["benchmark"], line["modality"]) for line in report["scores"] if "value" in line}
    wanted = {(name, modality) for name, benchmark in BENCHMARKS.items() for modality in benchmark.modalities}
    if "voicebench/ifeval" in report["not_scored"]:  # nltk's sentence splitter is not on this machine
        wanted = {place for place in wanted if place[0] != "voicebench/ifeval"}
    assert scored == wanted
    names = {line["name"] for line in report["overall"]}
    assert names == (set() if report["not_scored"] else set(OVERALL))


def test_harder_recordings_give_a_curve(evaluate, run_config, tmp_path):
    """Prevents: a robustness figure that lowers the plain score, or asks the written question again."""
    words = ["--run_config", run_config, "--evaluator", "exact_answer", "--max_items", "4"]
    words += ["--conditions", "noise=0", "speed=1.5", "voice=en-us+f3/160/50", "--output_dir", str(tmp_path / "eval")]
    whisper = save_tiny_whisper(tmp_path / "whisper")
    words += ["--recognizer", "whisper", "--recognizer_model", whisper]
    _, error = evaluate(*words)
    assert error == ""
    report = json.loads((tmp_path / "eval" / "report.json").read_text())
    assert {(line["condition"], line.get("snr_db")) for line in report["robustness"]} == {
        ("", None), ("noise 0 dB", 0.0), ("speed 1.5", None), ("voice en-us+f3/160/50", None),
    }  # fmt: skip
    errors = {line["condition"]: line["value"] for line in report["clip_errors"]}
    assert errors.keys() == {line["condition"] for line in report["robustness"]}
    assert all("word_error_rate" in line for line in report["robustness"])
    assert (tmp_path / "eval" / "word_errors.png").exists()
    assert len([line for line in report["scores"] if line["modality"] == "text" and line["group"] == "all"]) == 1
    assert (tmp_path / "eval" / "robustness.png").exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--benchmarks", "voicebanch"], "benchmarks: unknown 'voicebanch'"),
        ([], "name what to ask: benchmarks, run_config or dataset_name"),
        (["--run_config", "nowhere.yaml"], "run_config and dataset_name need an evaluator"),
        (["--run_config", "nowhere.yaml", "--evaluator", "exact_answer"], "there is no file nowhere.yaml"),
        (["--benchmarks", "voicebench/bbh", "--protocol", "loose"], "protocol must be one of voicebench, strict"),
        (["--benchmarks", "voicebench/bbh", "--evaluator", "bleu"], "evaluator: unknown 'bleu'"),
        (["--benchmarks", "voicebench/bbh", "--judge_model", "j"], "judge_base_url and judge_model go together"),
        (["--benchmarks", "voicebench/bbh", "--conditions", "rain"], "conditions: 'rain' is unknown"),
        (["--benchmarks", "mmar"], "give a copy by --benchmark_folders mmar=PATH"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_loaded(evaluate, words, problem):
    """Prevents: a typo that is found after a model of 15 GB is in memory."""
    _, error = evaluate(*words)
    assert problem in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.slow
def test_two_processes_answer_as_one(run_config, tmp_path):
    """Prevents: questions that two processes both ask, or neither."""
    words = ["--run_config", run_config, "--evaluator", "exact_answer", "--batch_size", "4", "--output_dir"]
    run(["torchrun", "--nproc_per_node", "2", "recipes/eval_speech.py", *BASE, *words, str(tmp_path / "two")])
    run([sys.executable, "recipes/eval_speech.py", *BASE, *words, str(tmp_path / "one")])
    one, two = (json.loads((tmp_path / name / "report.json").read_text())["scores"] for name in ("one", "two"))
    assert one == two


def test_a_full_model_s_voice_is_compared_with_what_it_writes(
    tiny_omni, adapter, run_config, monkeypatch, capsys, tmp_path
):
    """Prevents: a tuned model whose voice is garbled, unnoticed, because its text is scored alone."""
    whisper = save_tiny_whisper(tmp_path / "whisper")
    words = ["--model_name_or_path", str(tiny_omni), "--dtype", "float32", "--run_config", run_config]
    words += ["--evaluator", "exact_answer", "--max_items", "2", "--max_new_tokens", "6", "--spoken_answers", "2"]
    words += ["--output_dir", str(tmp_path / "eval"), "--recognizer", "whisper", "--recognizer_model", whisper]
    said, error = run_script("eval_speech.py", words, monkeypatch, capsys)
    assert error == ""
    report = json.loads((tmp_path / "eval" / "report.json").read_text())
    (line,) = report["spoken_answers"]
    assert line["model"] == "base"
    assert line["value"] > 0  # random weights
    assert len(list((tmp_path / "eval" / "spoken").glob("base-*/*.wav"))) == line["questions"]
    assert "word error rate of spoken against written answers" in said


def test_what_is_named_is_asked_and_nothing_else(monkeypatch, capsys, tmp_path):
    """Prevents: a command that names a server and a benchmark, and evaluates the tiny lab with them."""
    words = ["--server_base_url", "http://127.0.0.1:9/v1", "--server_model", "m", "--benchmarks", "voicebench/bbh"]
    words += ["--benchmark_folders", f"voicebench={tmp_path / 'nowhere'}", "--output_dir", str(tmp_path / "eval")]
    _, error = run_script("eval_speech.py", words, monkeypatch, capsys)
    assert "voicebench/bbh: the data set" in error
    assert not (tmp_path / "eval").exists()


def test_own_data_s_evaluator_is_not_that_of_a_benchmark(evaluate, run_config, pairs, tmp_path):
    """Prevents: VoiceBench by exact answers, because a run's questions are asked beside it."""
    rows = list({row["question"]: row for row in pairs["test"]}.values())[:2]
    folder = write_voicebench(tmp_path / "voicebench", rows, read_clips(rows))
    words = ["--benchmarks", "voicebench/bbh", "--benchmark_folders", f"voicebench={folder}", "--max_items", "2"]
    words += ["--run_config", run_config, "--evaluator", "exact_answer", "--output_dir", str(tmp_path / "eval")]
    _, error = evaluate(*words, "--max_new_tokens", "8")
    assert error == ""
    report = json.loads((tmp_path / "eval" / "report.json").read_text())
    assert {name: facts["evaluator"] for name, facts in report["benchmarks"].items()} == {
        "voicebench/bbh": "bbh", "small": "exact_answer",
    }  # fmt: skip
    assert report["overall"] == []  # of whole subsets alone


def test_what_would_fail_after_the_answers_is_found_before(evaluate, run_config, tmp_path):
    """Prevents: hours of answers and no report, for a judge, a reference or an adapter that was never there."""
    (tmp_path / "mine.jsonl").write_text('{"q": "Which animal barks?"}\n')
    own = ["--dataset_name", str(tmp_path / "mine.jsonl"), "--columns", "question=q"]
    lab = ["--run_config", run_config, "--evaluator", "exact_answer"]
    for words, problem in [
        ([*own, "--evaluator", "exact_answer"], "1 of 1 items have no reference"),
        ([*lab, "--judge_base_url", "http://u:secret@127.0.0.1:9/v1", "--judge_model", "j"], "cannot be reached"),
        ([*lab, "--adapters", str(tmp_path / "nowhere")], "nowhere"),
        ([*lab, "--recognizer", "pocketsphinx"], "chooses among given sentences"),
        ([*lab, "--recognizer", "whisper", "--spoken_answers", "2"], "cannot speak"),
    ]:
        _, error = evaluate(*words, "--output_dir", str(tmp_path / "eval"))
        assert problem in error
        assert "secret" not in error
    assert not list((tmp_path / "eval").rglob("*.jsonl"))
