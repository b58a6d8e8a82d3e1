"""Tests that run every command and every Python block of the documents."""

import json
import re
import runpy
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.support.lab import ROOT, TEACHER, write_every
from tests.support.processes import run

DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "data_builders" / "README.md",
    ROOT / "trainer_ext" / "README.md",
    ROOT / "recipes" / "README.md",
    ROOT / "recipes" / "RESULTS.md",
    ROOT / "recipes" / "space" / "README.md",
    ROOT / "recipes" / "speech_service" / "README.md",
]
# Set-up and tools: .ci/run and the wheel's test run these.
ENVIRONMENT = ("pip", "python -m venv", "pytest", "ruff", "mypy", ".ci/run")
# Arguments that shrink a documented command to seconds; the command's own come first and lose.
TOY = ["--teacher_model_name_or_path", TEACHER]  # the default config's, named, because the questions are others
FEW_STEPS = ["--max_steps", "2", "--save_strategy", "no", "--logging_steps", "1"]
SMALL = {
    "recipes/s2t_t2t.py": FEW_STEPS,
    "recipes/cache_teacher.py": [],
    "recipes/build_data.py": ["--max_rows", "20"],
    "recipes/plan_memory.py": [],
    "recipes/flat_loop.py": [],
    "recipes/ask.py": [],
    "recipes/export_omni.py": [],
    "recipes/ablations.py": [],
    "recipes/push.py": [],
    "recipes/doctor.py": [],
    "recipes/eval_speech.py": ["--max_items", "3"],
    "tests/benchmarks": ["--smoke"],
}
# Commands that read what the one before has made; a test runs them one after another.
SOUNDS = ("recipes/tiny_lab/make_sounds.py", "recipes/build_sound_data.py", "recipes/configs/tiny_sounds.yaml")
NEEDS = {"GPU", "network"}
ALL_VARIANTS = ["tiny", "tiny_s2t_only", "tiny_t2t_only", "tiny_gold", "tiny_no_kl", "tiny_stored", "tiny_self"]


def label(document: Path) -> str:
    return str(document.relative_to(ROOT))


def read_commands(document: Path) -> list[str]:
    """Return the commands of a document's bash blocks, continued lines joined, without comments other than NEEDS."""
    commands = []
    for block in re.findall(r"```bash\n(.*?)```", document.read_text(), re.S):
        for line in block.replace("\\\n", " ").splitlines():
            command, _, comment = re.sub(r"\s+#", "  #", line).partition("  #")
            for part in command.split("&&"):
                if part.strip() and not part.strip().startswith(". "):
                    need = f"  # {comment.strip()}" if comment.strip() in NEEDS else ""
                    commands.append(" ".join(part.split()) + need)
    return commands


COMMANDS = sorted({command for document in DOCUMENTS[:-1] for command in read_commands(document)})


def is_marked(command: str) -> bool:
    return command.rpartition("# ")[2] in NEEDS


RUNNABLE = [c for c in COMMANDS if not is_marked(c) and not c.startswith(ENVIRONMENT) and not c.endswith(SOUNDS)]
# tests/test_benchmarks.py runs benchmarks that are documented without arguments.
BENCHMARKS = [c for c in RUNNABLE if re.fullmatch(r"python tests/benchmarks/\w+\.py", c)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=label)
def test_every_file_it_names_exists(document):
    """Prevents: a path that moved."""
    text = document.read_text()
    named = re.findall(r"(?<![\w/.])((?:recipes|trainer_ext|data_builders|tests)/[\w/.*-]*)", text)
    links = [link for link in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", text) if "://" not in link]
    for path in named:
        path = path.rstrip(".")
        assert list(ROOT.glob(path)) if "*" in path else (ROOT / path).exists(), path
    for link in links:
        assert (document.parent / link).exists(), link
    for link, anchor in re.findall(r"\]\(([^)#:]*)#([\w-]+)\)", text):
        target = (document.parent / link) if link else document
        headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
        anchors = {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
        assert anchor in anchors, f"{link}#{anchor}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=label)
def test_every_python_block_runs(document, tmp_path, monkeypatch):
    """Prevents: an example with a module that moved, an undefined name, or an option that stops it on a CPU."""
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", document.read_text(), re.S)):
        questions = write_every(14, tmp_path / "questions.jsonl")
        block = block.replace("outputs/", f"{tmp_path}/").replace("recipes/tiny_lab/questions.jsonl", str(questions))
        script = tmp_path / f"block_{number}.py"
        script.write_text(block.replace("DataArguments(", f"DataArguments(cache_dir={str(tmp_path)!r}, "))
        monkeypatch.chdir(ROOT)
        runpy.run_path(str(script))


def test_every_command_is_one_that_a_test_runs():
    """Prevents: a command that is neither run by a test nor marked as needing a GPU or a network."""
    for command in RUNNABLE:
        assert script_of(command), command


def script_of(command: str) -> str | None:
    """Return the key of SMALL for a command."""
    return next((script for script in SMALL if script in command), None)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> Path:
    """A folder with what earlier commands of a reader would have made: a run, and reports of finished ablations."""
    folder = tmp_path_factory.mktemp("documents")
    few = ["--questions", str(write_every(20, folder / "my_questions.jsonl")), "--cache_dir", str(folder / "data")]
    words = [*few, *FEW_STEPS, *TOY, "--output_dir", str(folder / "outputs" / "tiny")]
    run([sys.executable, "recipes/s2t_t2t.py", *words])
    data = ["--max_rows", "20", "--cache_dir", str(folder / "data"), "--output_dir", str(folder / "outputs/data/tiny")]
    run([sys.executable, "recipes/build_data.py", *data])
    return folder


def shrink_study(file: Path, folder: Path) -> Path:
    """Write a copy of a study with one variant on a few rows."""
    study = yaml.safe_load(file.read_text())
    study["data"] = {**study.get("data", {}), "max_rows": 30, "cache_dir": str(folder / "data")}
    study["variants"] = dict(list(study["variants"].items())[:1])
    (folder / file.name).write_text(yaml.safe_dump(study))
    return folder / file.name


def write_reports(folder: Path, variants: list[str]) -> None:
    """Write the reports that `ablations.py` would find after an hour of training."""
    scores = {"teacher_text": 1.0, "text": 1.0, "speech": 1.0, "gap": 0.0, "forgetting": 0.0}
    line = {"name": "misalignment", "model": "after", "value": 0.1, "low": 0.1, "high": 0.1}
    report = {"before": {"all": scores}, "after": {"all": scores}, "judge_free": [line]}
    report |= {"peak_memory_gib": 1, "seconds_per_step": 1, "evaluator": "exact_answer"}
    for run_folder in (folder / f"{name}-{seed}" for name in variants for seed in (0, 1, 2)):
        run_folder.mkdir(parents=True, exist_ok=True)
        (run_folder / "report.json").write_text(json.dumps(report))


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in RUNNABLE if c not in BENCHMARKS])
def test_a_command_runs(command, outputs):
    """Prevents: a command whose script, config or argument was renamed."""
    words, script = shlex.split(command), script_of(command)
    assert script is not None
    made, small = outputs / "outputs", [*SMALL[script]]
    if script in ("recipes/s2t_t2t.py", "recipes/cache_teacher.py"):
        small += ["--cache_dir", str(outputs / "data")]
        if "--dataset_name" not in words:
            small += ["--questions", str(outputs / "my_questions.jsonl")]
            small += [] if "--config" in words else TOY
    if script == "recipes/s2t_t2t.py":
        small += ["--output_dir", str(made / "run"), "--overwrite_output_dir", "true"]
        if "recipes/configs/tiny_evaluated.yaml" in words:  # whose best checkpoint is loaded
            small += ["--save_strategy", "steps", "--save_steps", "1", "--eval_steps", "1"]
    if script == "recipes/eval_speech.py":
        small += ["--output_dir", str(made / "eval")]
    if script == "recipes/cache_teacher.py":
        small += ["--soft_targets_path", str(made / "soft")]
    if script == "recipes/build_data.py":
        small += ["--cache_dir", str(outputs / "data"), "--output_dir", str(made / "built")]
        small += ["--overwrite_output_dir", "true"]
    if script == "recipes/ablations.py":
        variants, root = ALL_VARIANTS, outputs / "ablations"
        if "--study" in words:
            study = shrink_study(ROOT / words[words.index("--study") + 1], outputs)
            words[words.index("--study") + 1] = str(study)
            variants, root = list(yaml.safe_load(study.read_text())["variants"]), root / study.stem
        write_reports(root, variants)
        small += ["--output_dir", str(outputs / "ablations")]
    words = [str(outputs / word) if word.startswith("outputs/") else word for word in words]
    launcher, rest = ([sys.executable], words[1:]) if words[0] == "python" else (words[:2], words[2:])
    run([*launcher, *rest, *small], timeout=600)


@pytest.mark.slow
def test_the_commands_of_the_sounds_run_one_after_another(outputs):
    """Prevents: a command whose files the next one looks for in another place."""
    commands = [c for document in DOCUMENTS for c in read_commands(document) if c.endswith(SOUNDS)]
    lab, data, cache = (str(outputs / name) for name in ("sounds", "sound_data", "data"))
    student = ["--model_name_or_path", f"{lab}/sound_student"]
    small = [
        ["--heard", "40", "--steps", "1", "--output_dir", lab],
        ["--dataset_name", f"{lab}/sounds", *student, "--max_items", "40", "--output_dir", data, "--cache_dir", cache],
        ["--sound_dataset_name", data, "--sound_share", "0.02", *student, *FEW_STEPS, "--cache_dir", cache],
    ]
    small[-1] += ["--questions", str(outputs / "my_questions.jsonl"), "--output_dir", str(outputs / "sound_run")]
    for command, fewer in zip(commands, small, strict=True):
        words = shlex.split(command)
        launcher, rest = ([sys.executable], words[1:]) if words[0] == "python" else (words[:2], words[2:])
        run([*launcher, *rest, *fewer], timeout=600)


def test_every_extra_is_named_in_a_document():
    """Prevents: an option whose library nobody is told to install."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    text = "".join(document.read_text() for document in DOCUMENTS)
    assert [extra for extra in extras if f"[{extra}]" not in text] == []


def test_the_readme_is_short():
    """Prevents: a front door that nobody reads to its end."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_no_figure_was_forgotten():
    """Prevents: a placeholder where a measurement should stand."""
    for document in DOCUMENTS:
        assert not re.findall(r"\{[A-Z]+\}", document.read_text())
