"""Tests of data sets, soft targets, models and reports on a real server: pushed, and loaded back by a stranger."""

import hashlib
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, SpaceCard
from peft import LoraConfig, get_peft_model

from data_builders.storage.dataset_folder import load_dataset_folder
from tests.support.hub.client import environment, talk_to
from tests.support.hub.server import HubServer
from tests.support.lab import STUDENT, TEACHER, write_every
from tests.support.processes import run
from tests.support.run_script import run_script
from trainer_ext.arguments import CrossModalDistillConfig
from trainer_ext.hub.model_card import name_base, write_model_card
from trainer_ext.hub.run_facts import RunFacts
from trainer_ext.students.registry import load_student_family
from trainer_ext.teachers.stored import SoftTargets

DATA, SOFT = "tester/spoken", "tester/soft"
READ_BACK = """
import hashlib, json, sys
from datasets import Audio, load_dataset
def digest(rows):
    rows = rows.cast_column("speech", Audio(decode=False))
    return hashlib.sha256(b"".join(row["speech"]["bytes"] + row["id"].encode() for row in rows)).hexdigest()
name, revision = sys.argv[1], sys.argv[2] or None
plain = load_dataset(name, split="train", revision=revision)
streamed = load_dataset(name, split="train", revision=revision, streaming=True)
print(json.dumps([digest(plain), digest(streamed), sorted(plain.features), str(plain.features["speech"])]))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Return a hub with a data set that a build has pushed, and its folder."""
    folder = tmp_path_factory.mktemp("built")
    questions = write_every(25, folder / "questions.jsonl")
    words = ["--config", "recipes/configs/data/tiny.yaml", "--cache_dir", str(folder / "cache")]
    words += ["--questions", str(questions), "--teacher_model_name_or_path", TEACHER]
    words += ["--push_to_hub", "true", "--hub_dataset_id", "spoken", "--output_dir", str(folder / "data")]
    with HubServer(folder / "hub") as hub:
        done = run([sys.executable, "recipes/build_data.py", *words], **environment(hub, home=folder / "home"))
        assert "tester/spoken/commit/" in done.stdout
        yield hub, folder / "data", words


def read_back(hub: HubServer, home: Path, revision: str = "") -> list:
    done = run([sys.executable, "-c", READ_BACK, DATA, revision], **environment(hub, token=None, home=home))
    return json.loads(done.stdout)


def test_a_data_set_is_loaded_back_plain_and_streaming_with_its_bytes(built, tmp_path):
    """Prevents: clips that come back in another coding, rejected rows on the Hub, columns that nobody finds."""
    hub, folder, _ = built
    files = hub.files(DATA, "dataset")
    assert len(hub.find(DATA, "dataset").log) == 1
    assert {path.split("/")[0] for path in files} == {"README.md", "manifest.json", "data", "images"}
    assert all((folder / path).read_bytes() == content for path, content in files.items() if path != "README.md")
    plain, streamed, columns, speech = read_back(hub, tmp_path)
    ours = load_dataset_folder(str(folder))["train"]
    assert plain == streamed
    assert columns == sorted(ours.features)
    assert speech == str(ours.features["speech"]).replace("decode=False", "decode=True")
    joined = b"".join(row["speech"]["bytes"] + row["id"].encode() for row in ours)
    assert plain == hashlib.sha256(joined).hexdigest()
    snippet = re.findall(r"```python\n(.*?)```", files["README.md"].decode(), re.S)[0]
    assert f'load_dataset("{DATA}"' in snippet
    variables = environment(hub, token=None, home=tmp_path)
    done = run([sys.executable, "-c", f"{snippet}\nprint(len(samples), rate_hz)"], **variables)
    assert done.stdout.split()[1] == "16000"


def test_a_pinned_revision_is_the_old_data(built, tmp_path, monkeypatch, capsys):
    """Prevents: a run that cannot be repeated, because its data set has moved on."""
    hub, folder, words = built
    first = hub.find(DATA, "dataset").head.oid
    before = read_back(hub, tmp_path / "a")[0]
    with talk_to(hub, monkeypatch):
        changed = [*words, "--max_rows", "10", "--overwrite_output_dir", "true", "--output_dir", str(tmp_path / "data")]
        _, error = run_script("build_data.py", changed, monkeypatch, capsys)
    assert error == ""
    assert read_back(hub, tmp_path / "b")[0] != before
    assert read_back(hub, tmp_path / "c", first)[0] == before
    words = ["--config", "recipes/configs/tiny.yaml", "--dataset_name", DATA, "--output_dir", str(tmp_path / "run")]
    with talk_to(hub, monkeypatch):
        newest, _ = run_script("s2t_t2t.py", [*words, "--dry_run"], monkeypatch, capsys)
        pinned, _ = run_script("s2t_t2t.py", [*words, "--dataset_revision", first, "--dry_run"], monkeypatch, capsys)
    rows = len(load_dataset_folder(str(folder))["train"])
    assert re.search(rf"kept +{rows}\b", pinned)
    assert not re.search(rf"kept +{rows}\b", newest)


def test_soft_targets_are_loaded_by_id(built, tmp_path, monkeypatch, capsys):
    """Prevents: a table of hours of a teacher that only its maker can use."""
    hub, _, _ = built
    folder = tmp_path / "soft"
    words = ["--config", "recipes/configs/tiny_stored.yaml", "--dataset_name", DATA, "--soft_targets_path", str(folder)]
    with talk_to(hub, monkeypatch):
        assert run_script("cache_teacher.py", words, monkeypatch, capsys)[1] == ""
        assert run_script("push.py", [str(folder), "soft"], monkeypatch, capsys)[1] == ""
        family = load_student_family(STUDENT)
        table = SoftTargets.from_pretrained(f"{SOFT}@main", student=family, temperature=2.0, k=64)
    assert (
        table.table.with_format(None)[:]
        == SoftTargets.from_pretrained(str(folder), student=family, temperature=2.0, k=64).table.with_format(None)[:]
    )
    assert set(hub.files(SOFT, "dataset")) == {"README.md", "data-00000-of-00001.arrow", "dataset_info.json"}
    assert "the 64 likeliest ids" in hub.files(SOFT, "dataset")["README.md"].decode().lower()


@pytest.mark.parametrize("target", ["thinker", "omni"])
def test_an_export_is_loaded_by_the_code_of_its_card(hub, tmp_path, tiny_omni, monkeypatch, capsys, target):
    """Prevents: a merged model that only its maker can load; the full one needs the voices of its base."""
    torch.manual_seed(0)
    family = load_student_family(str(tiny_omni))
    config = LoraConfig(target_modules=family.lora_target_modules, init_lora_weights=False)
    model = family.load_model(str(tiny_omni), dtype=torch.float32)
    get_peft_model(model, config).save_pretrained(str(tmp_path / "adapter"))
    words = ["--trained", str(tmp_path / "adapter"), "--base", str(tiny_omni), "--target", target]
    folder = tmp_path / f"my-{target}"
    assert run_script("export_omni.py", [*words, "--output_dir", str(folder)], monkeypatch, capsys)[1] == ""
    assert run_script("push.py", [str(folder), f"my-{target}"], monkeypatch, capsys)[1] == ""
    files = hub.files(f"tester/my-{target}")
    changed = {"README.md", "config.json"}
    assert all(content == (folder / path).read_bytes() for path, content in files.items() if path not in changed)
    assert {path.name for path in folder.iterdir()} - set(files) <= {".gitattributes"}
    assert b"_name_or_path" not in files["config.json"]
    snippet = re.findall(r"```python\n(.*?)```", files["README.md"].decode(), re.S)[0]
    assert f'"tester/my-{target}"' in snippet
    run([sys.executable, "-c", snippet], **environment(hub, token=None, home=tmp_path / "home"))


def test_a_local_base_gets_its_name_on_the_hub(tmp_path):
    """Prevents: a card that calls its base local and public in one breath."""
    facts = RunFacts("student", use_peft=True)
    config = CrossModalDistillConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, bf16=False)
    write_model_card(tmp_path, facts, config, load_student_family(STUDENT))
    named = name_base((tmp_path / "README.md").read_text(), "Qwen/Qwen2.5-Omni-3B")
    public = replace(facts, base_model="Qwen/Qwen2.5-Omni-3B")
    write_model_card(tmp_path, public, config, load_student_family(STUDENT))
    assert ModelCard(named).text == ModelCard((tmp_path / "README.md").read_text()).text
    assert ModelCard(named).data.to_dict() == ModelCard((tmp_path / "README.md").read_text()).data.to_dict()


def test_an_export_for_another_program_does_not_replace_the_adapter(hub, tmp_path, shared_adapter, monkeypatch, capsys):
    """Prevents: names that vLLM alone knows, in place of those that everybody loads."""
    words = ["--trained", str(shared_adapter), "--target", "vllm_adapter", "--output_dir", str(tmp_path / "vllm")]
    assert run_script("export_omni.py", words, monkeypatch, capsys)[1] == ""
    assert run_script("push.py", [str(tmp_path / "vllm"), "first"], monkeypatch, capsys)[1] == ""
    hub.create("tester/mine", README__md="---\ncrossmodal_kd:\n  kind: adapter\n  of: student\n---\n# mine\n")
    _, error = run_script("push.py", [str(tmp_path / "vllm"), "mine"], monkeypatch, capsys)
    assert "holds something else (adapter of student) than vllm_adapter of student" in error


@pytest.fixture
def shared_adapter(tmp_path) -> Path:
    torch.manual_seed(0)
    family = load_student_family(STUDENT)
    config = LoraConfig(target_modules=family.lora_target_modules, init_lora_weights=False)
    get_peft_model(family.load_model(STUDENT, dtype=torch.float32), config).save_pretrained(str(tmp_path / "lora"))
    return tmp_path / "lora"


def test_a_report_is_pushed_as_a_page(hub, monkeypatch, capsys, tmp_path):
    """Prevents: scores without the answers that they are made of."""
    words = ["--dataset_name", str(write_every(60, tmp_path / "q.jsonl")), "--columns", "question=question",
             "reference=reference", "--dataset_split", "train", "--evaluator", "exact_answer",
             "--model_name_or_path", STUDENT, "--output_dir", str(tmp_path / "eval")]  # fmt: skip
    assert run_script("eval_speech.py", words, monkeypatch, capsys)[1] == ""
    _, error = run_script("push.py", [str(tmp_path / "eval"), "my-report"], monkeypatch, capsys)
    assert error == ""
    files = hub.files("tester/my-report", "space")
    assert files["index.html"] == (tmp_path / "eval" / "index.html").read_bytes()
    card = SpaceCard(files["README.md"].decode()).data
    assert (card.sdk, card.app_file) == ("static", "index.html")
    texts = [files[name].decode() for name in ("report.json", "report.md", "index.html", "README.md")]
    assert not any(str(tmp_path) in text for text in texts)
