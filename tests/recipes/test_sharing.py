"""Tests of sharing, with a real server: a run that pushes, what arrives, and what a stranger can do with it."""

import json
import re
import shlex
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from tests.support.hub.client import environment, talk_to
from tests.support.hub.server import HubServer
from tests.support.hub.tokens import READ, WRITE
from tests.support.lab import LAB, TEACHER, write_every
from tests.support.processes import run, run_recipe
from tests.support.run_script import run_script

FEW_STEPS = ["--max_steps", "3", "--logging_steps", "1", "--save_steps", "2", "--save_total_limit", "2"]
BASE, ADAPTER = "tester/lab-student", "tester/my-adapter"
LOGITS = """
import torch
from peft import PeftModel
from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker
def logits(base, adapter, revision=None):
    model = PeftModel.from_pretrained(Thinker.from_pretrained(base), adapter, revision=revision).eval()
    with torch.no_grad():
        return model(input_ids=torch.arange(1, 30)[None]).logits
"""


@dataclass
class SharedRun:
    """A run that pushed, and the server."""

    hub: HubServer
    output: Path
    stdout: str
    stderr: str
    command_lines: set[bytes]

    @property
    def files(self) -> dict[str, bytes]:
        return self.hub.files(ADAPTER)

    @property
    def card(self) -> str:
        return self.files["README.md"].decode()


@pytest.fixture(scope="module")
def few_questions(tmp_path_factory) -> str:
    """Return every twentieth question of the lab."""
    return str(write_every(20, tmp_path_factory.mktemp("questions") / "questions.jsonl"))


def run_words(folder: Path, questions: str, name: str, *more: str) -> list[str]:
    named = ["--questions", questions, "--teacher_model_name_or_path", TEACHER]
    places = ["--output_dir", str(folder / name), "--cache_dir", str(folder / "data")]
    return [*FEW_STEPS, *named, *places, "--push_to_hub", *more]


@pytest.fixture(scope="module")
def shared(tmp_path_factory, few_questions):
    """Run `accelerate launch` with a base of the Hub, pushes at every save, and logging at DEBUG."""
    folder = tmp_path_factory.mktemp("shared")
    words = run_words(folder, few_questions, "my-adapter", "--hub_strategy", "every_save")
    words += ["--config", "recipes/configs/tiny.yaml", "--model_name_or_path", BASE]
    with HubServer(folder / "hub") as hub:
        base = hub.add_folder(BASE, LAB / "student")
        hub.add_file(base, "README.md", b"---\nlicense: apache-2.0\n---\n# The lab's student\n")
        seen: set[bytes] = set()
        stop = threading.Event()
        watcher = threading.Thread(target=watch_command_lines, args=(seen, stop))
        watcher.start()
        variables = environment(hub, home=folder / "home")
        done = run(
            ["accelerate", "launch", "recipes/s2t_t2t.py", *words], **variables, HF_DEBUG="1", HF_HUB_VERBOSITY="debug"
        )
        stop.set()
        watcher.join()
        yield SharedRun(hub, folder / "my-adapter", done.stdout, done.stderr, seen)


def watch_command_lines(seen: set[bytes], stop: threading.Event) -> None:
    """Collect the command lines of all processes."""
    while not stop.wait(0.5):
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                seen.add(file.read_bytes())
            except OSError:  # it has ended
                continue


def test_one_line_runs_from_nothing_to_a_pushed_adapter_with_its_report(shared):
    """Prevents: a README command that fails, a report without scores, a repository that is not what is on disk."""
    output, files = shared.output, shared.files
    assert "exact_answer on held-out questions" in shared.stdout
    report = json.loads((output / "report.json").read_text())
    assert report["steps"] == 3
    assert report["after"]["all"]["teacher_text"] > 90
    assert yaml.safe_load((output / "resolved.yaml").read_text())["max_steps"] == 3
    assert [commit.title for commit in shared.hub.find(ADAPTER).log] == [
        "Training in progress, step 2",
        *(["Training in progress, step 3"] if len(shared.hub.find(ADAPTER).log) == 3 else []),
        "End of training",
    ]
    for name in ("adapter_model.safetensors", "adapter_config.json", "report.json", "scores.png", "tokenizer.json"):
        assert files[name] == (output / name).read_bytes(), name
    assert "preprocessor_config.json" in files
    assert not [name for name in files if re.search(r"training_args|optimizer|checkpoint|_answers|run\.json", name)]


def test_the_card_has_the_facts_of_the_run_and_no_place_of_this_machine(shared):
    """Prevents: cards that nobody can check: no base model for the model tree, no revisions, no versions."""
    data, card = ModelCard(shared.card).data, shared.card
    report = json.loads(shared.files["report.json"])
    found = {(r.metric_name.split(", ")[1], r.metric_value) for r in data.eval_results}
    assert found == {(name, report["after"]["all"][name]) for name in ("text", "speech")}
    assert (data.base_model, data.library_name, data.license) == (BASE, "peft", "apache-2.0")
    assert f"`{BASE}` apache-2.0" in card
    assert data.to_dict()["base_model_relation"] == "adapter"
    commit = shared.hub.find(BASE).head.oid
    assert f"{BASE} at {commit}" in card
    for fact in ("| steps | 3 |", "| lora_alpha | 128 |", "peft 0", "x86_64 CPU", "arxiv", "Safety", "Licenses"):
        assert fact in card, fact
    line = next(s for s in report["scores"] if (s["model"], s["modality"], s["group"]) == ("after", "speech", "all"))
    assert f"{line['value']:.1f} [{line['low']:.1f}, {line['high']:.1f}]" in card
    assert all(f"]({name})" in card for name in ("scores.png", "gaps.png", "loss.png"))
    assert all(name in shared.files for name in re.findall(r"!\[.*?\]\((.*?)\)", card))
    texts = {name: content for name, content in shared.files.items() if name.endswith((".md", ".json", ".yaml"))}
    assert not [name for name, content in texts.items() if str(shared.output.parent).encode() in content]


def test_the_token_is_in_no_file_log_or_process_list(shared):
    """Prevents: a token that anyone can read."""
    everything = [shared.stdout.encode(), shared.stderr.encode(), *shared.files.values(), *shared.command_lines]
    everything += [file.read_bytes() for file in shared.output.rglob("*") if file.is_file()]
    assert any(b"s2t_t2t.py" in line for line in shared.command_lines)
    assert not any(WRITE.encode() in content for content in everything)


def test_a_stranger_loads_either_revision_by_id(shared, tmp_path):
    """Prevents: an adapter that loads with warnings and acts untrained; a pinned revision that gives the newest."""
    first = shared.hub.find(ADAPTER).log[0].oid
    checkpoint, final = shared.output / "checkpoint-2", shared.output
    script = LOGITS + (
        f"new, old = logits('{BASE}', '{ADAPTER}'), logits('{BASE}', '{ADAPTER}', '{first}')\n"
        f"assert torch.equal(new, logits('{LAB}/student', '{final}'))\n"
        f"assert torch.equal(old, logits('{LAB}/student', '{checkpoint}'))\n"
        "assert not torch.equal(new, old)\n"
    )
    run([sys.executable, "-c", script], **environment(shared.hub, token=None, home=tmp_path))


def test_every_snippet_of_the_card_runs(shared, tmp_path, monkeypatch, capsys):
    """Prevents: a card whose code nobody has tried. `vllm serve` alone is left out: it needs a GPU."""
    blocks = re.findall(r"```python\n(.*?)```", shared.card, re.S)
    script = (
        "\n".join(blocks) + "\nimport torch\nassert student(input_ids=torch.arange(1, 9)[None]).logits.isfinite().all()"
    )
    run([sys.executable, "-c", script], **environment(shared.hub, token=None, home=tmp_path))
    commands = [
        line
        for block in re.findall(r"```bash\n(.*?)```", shared.card, re.S)
        for line in block.splitlines()
        if not line.startswith("vllm serve")
    ]
    assert len(commands) == 4
    with talk_to(shared.hub, monkeypatch):
        for command in commands:
            _, recipe, *words = shlex.split(command)
            if "--output_dir" in words:
                words[-1] = str(tmp_path / words[-1])
            _, error = run_script(Path(recipe).name, words, monkeypatch, capsys)
            assert error == "", command
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    assert f'vllm serve "{BASE}" --enable-lora' in shared.card


def test_both_revisions_are_measured_by_id(shared, few_questions, monkeypatch, capsys, tmp_path):
    """Prevents: an evaluation that takes the newest adapter for the one that was named."""
    first = shared.hub.find(ADAPTER).log[0].oid
    words = ["--model_name_or_path", BASE, "--adapters", f"{ADAPTER}@{first}", ADAPTER, "--dataset_name", few_questions]
    words += ["--columns", "question=question", "reference=reference", "--dataset_split", "train", "--max_items", "3"]
    words += ["--evaluator", "exact_answer", "--output_dir", str(tmp_path / "eval")]
    with talk_to(shared.hub, monkeypatch):
        _, error = run_script("eval_speech.py", words, monkeypatch, capsys)
    assert error == ""
    models = json.loads((tmp_path / "eval" / "report.json").read_text())["models"].values()
    commits = [model["adapter_fingerprint"] for model in models if model.get("adapter")]
    assert commits == [first, shared.hub.find(ADAPTER).head.oid]


def test_scores_of_an_evaluation_go_into_the_card(shared, monkeypatch, capsys, tmp_path):
    """Prevents: a benchmark's figures that are on nobody's page, or under another name than in the report."""
    report = json.loads((shared.output / "report.json").read_text())
    (tmp_path / "report.json").write_text(json.dumps(report))
    words = [str(shared.output), "scored", "--report", str(tmp_path), "--report_model", "after"]
    with talk_to(shared.hub, monkeypatch):
        assert run_script("push.py", words, monkeypatch, capsys)[1] == ""
    card = ModelCard(shared.hub.files("tester/scored")["README.md"].decode())
    assert len(card.data.eval_results) == 2  # those of the run are in the card already, and not twice
    assert {result.metric_value for result in card.data.eval_results} == {
        report["after"]["all"][name] for name in ("text", "speech")
    }
    assert "## Evaluation of `after`" in card.text


def test_a_dry_run_lists_what_arrives(shared, monkeypatch, capsys):
    """Prevents: surprises in a repository."""
    with talk_to(shared.hub, monkeypatch):
        listed, _ = run_script("push.py", [str(shared.output), "copied", "--dry_run"], monkeypatch, capsys)
        sent, error = run_script("push.py", [str(shared.output), "copied"], monkeypatch, capsys)
    assert error == ""
    sizes = {path: int(size.replace(",", "")) for size, path in re.findall(r"^ *([\d,]+)  (\S+)$", listed, re.M)}
    assert sizes == {path: len(content) for path, content in shared.hub.files("tester/copied").items()}
    assert sum(sizes.values()) == int(re.search(r"([\d,]+) bytes", sent)[1].replace(",", ""))
    copied = shared.hub.files("tester/copied")
    assert copied.pop("README.md").count(b"tester/copied") == shared.files["README.md"].count(b"tester/my-adapter")
    assert copied == {path: content for path, content in shared.files.items() if path != "README.md"}


def test_a_run_that_cannot_push_goes_on_and_names_the_command_that_pushes_later(tmp_path, few_questions):
    """Prevents: a night without report, scores and card, because the Hub was down; or results nobody can publish."""
    words = run_words(tmp_path, few_questions, "mine", "--hub_strategy", "checkpoint")
    with HubServer() as hub:
        hub.refused["commit"] = (403, "storage quota exceeded")
        command = [sys.executable, "recipes/s2t_t2t.py", "--config", "recipes/configs/tiny.yaml", *words]
        done = run(command, check=False, **environment(hub, home=tmp_path / "home"))
        assert done.returncode == 3, done.stderr
        assert "Traceback" not in done.stderr
        assert "not pushed, training goes on: " in done.stderr
        last = done.stderr.strip().splitlines()[-1]
        assert "quota" in last
        for name in ("report.json", "scores.png", "resolved.yaml", "README.md", "adapter_model.safetensors"):
            assert (tmp_path / "mine" / name).stat().st_size > 0
        assert not list(tmp_path.rglob("*.partial"))
        assert WRITE not in done.stdout + done.stderr
        refused = run([sys.executable, "recipes/push.py", str(tmp_path / "mine"), "mine", "--traceback"], check=False,
                      **environment(hub, home=tmp_path / "home"))  # fmt: skip
        assert "Traceback" in refused.stderr
        assert WRITE not in refused.stderr
        later = shlex.split(last.split("push it later by: ")[1])
        hub.refused.clear()
        run([sys.executable, *later[1:]], **environment(hub, home=tmp_path / "home"))
        files = hub.files("tester/mine")
    assert files["adapter_model.safetensors"] == (tmp_path / "mine" / "adapter_model.safetensors").read_bytes()
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "student"  # without its folder


@pytest.mark.parametrize(
    ("token", "private", "message"),
    [
        (READ, False, "may only read: make one that may write at"),
        (None, True, "not logged in to the Hub: run `hf auth login`"),
    ],
)
def test_rights_are_checked_before_training(hub, monkeypatch, capsys, tmp_path, token, private, message):
    """Prevents: a token whose missing right is found in the morning."""
    hub.create("tester/mine", private=private)
    monkeypatch.setenv("HF_TOKEN", token or "")
    words = ["--config", "recipes/configs/tiny.yaml", "--output_dir", str(tmp_path / "mine"), "--push_to_hub"]
    output, error = run_script("s2t_t2t.py", words, monkeypatch, capsys)
    assert message in error
    assert "student" not in output
    assert error.count("\n") == 1


def test_a_push_carries_nothing_that_lies_in_the_folder_by_chance(hub, monkeypatch, capsys, tmp_path, shared):
    """Prevents: .env, trackers' logs and notes on the Hub."""
    folder = tmp_path / "run"
    folder.mkdir()
    for file in shared.output.iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    for name in (".env", "wandb/log.json", "runs/x.json", "notes.md", "optimizer.pt", "training_args.bin"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("secret")
    _, error = run_script("push.py", [str(folder), "mine"], monkeypatch, capsys)
    assert error == ""
    assert not any(content == b"secret" for content in hub.files("tester/mine").values())


@pytest.mark.slow
def test_a_run_goes_on_from_its_checkpoint_on_the_hub(tmp_path, few_questions):
    """Prevents: a last-checkpoint that does not resume, because its files were changed or left out on the way."""
    words = run_words(tmp_path, few_questions, "mine", "--hub_strategy", "checkpoint", "--save_steps", "1")
    config = ["--config", "recipes/configs/tiny.yaml"]
    with HubServer() as hub:
        variables = environment(hub, home=tmp_path / "home")
        run([sys.executable, "recipes/s2t_t2t.py", *config, *words], **variables)
        first = hub.find("tester/mine").log[0]
        pulled = {path: hub.store.read(blob) for path, blob in first.files.items()}
    step = int(first.title.rpartition(" ")[2])
    assert step < 3
    assert not [path for path in pulled if "training_args" in path]
    folder = tmp_path / f"checkpoint-{step}"
    for path, content in pulled.items():
        if path.startswith("last-checkpoint/"):
            (folder / Path(path).name).parent.mkdir(exist_ok=True)
            (folder / Path(path).name).write_bytes(content)
    again = [word for word in run_words(tmp_path, few_questions, "again") if word != "--push_to_hub"]
    done = run([sys.executable, "recipes/s2t_t2t.py", *config, *again, "--resume_from_checkpoint", str(folder)])
    assert f"step {step} of 3" in done.stdout
    name = "adapter_model.safetensors"
    assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "mine" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_full_fine_tune_is_pushed_at_every_save_and_loaded_by_id(tmp_path, few_questions, processes):
    """Prevents: shards of which an index promises more than there is, or two processes that both push."""
    words = run_words(tmp_path, few_questions, "full", "--hub_strategy", "every_save", "--save_only_model", "true")
    with HubServer() as hub:
        variables = environment(hub, home=tmp_path / "home")
        done = run_recipe("s2t_t2t.py", ["--config", "recipes/configs/tiny_full.yaml", *words], processes, **variables)
        assert "pushed to " in done.stdout
        titles = [commit.title for commit in hub.find("tester/full").log]
        script = (
            "import torch\nfrom transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker\n"
            f"a, b = (Thinker.from_pretrained(name).state_dict() for name in ('tester/full', '{tmp_path}/full'))\n"
            "assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)\n"
        )
        run([sys.executable, "-c", script], **{**variables, "HF_TOKEN": ""})
    assert titles[0].startswith("Training in progress")
    assert titles[-1] == "End of training"
    assert len(titles) <= 3
