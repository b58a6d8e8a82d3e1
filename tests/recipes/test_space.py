"""Tests of recipes/space: the page over HTTP, with many users, and in a real browser."""

import ast
import io
import json
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import soundfile
import torch
from huggingface_hub import SpaceCard
from peft import LoraConfig, get_peft_model

from tests.support.bad_clips import write_bad_clips
from tests.support.hub.client import environment, talk_to
from tests.support.lab import LAB, ROOT, STUDENT
from tests.support.run_script import run_script
from tests.support.servers import serve_page
from trainer_ext.evaluation.generation import encode_prompts, generate_greedily
from trainer_ext.students.registry import load_student_family

APP = ROOT / "recipes" / "space" / "app.py"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
REPORT = "| model | text |\n|---|---|\n| after | 98.7 |\n"
PAGE = "<!doctype html><title>answers</title><p id='here'>every answer</p>"


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    """An adapter whose answers are other ones, with a report and a page of answers in its folder."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("adapter") / "mine"
    family = load_student_family(STUDENT)
    config = LoraConfig(target_modules=family.lora_target_modules, init_lora_weights=False, lora_alpha=64)
    get_peft_model(family.load_model(STUDENT, dtype=torch.float32), config).save_pretrained(str(folder))
    (folder / "report.md").write_text(REPORT)
    (folder / "_answers").mkdir()
    (folder / "_answers" / "index.html").write_text(PAGE)
    return folder


@pytest.fixture(scope="module")
def address(adapter):
    with serve_page(APP, "--adapter", str(adapter), "--max_new_tokens", "24") as server:
        yield server.endpoint


def ask(address: str, question: str, clip: str | None = None) -> list[str]:
    """Return note, base's answer and adapter's answer."""
    client = pytest.importorskip("gradio_client")
    with_clip = None if clip is None else client.handle_file(clip)
    note, base, adapted = client.Client(address, verbose=False).predict(question, with_clip, api_name="/ask")
    return [note["value"] if isinstance(note, dict) and "value" in note else "", base, adapted]


def expected_answers(questions: list[str]) -> list[str]:
    """Return what the untouched student answers."""
    family = load_student_family(STUDENT)
    model = family.load_model(STUDENT, dtype=torch.float32)
    rows = [{"id": "0", "question": question, "system": ""} for question in questions]
    return [generate_greedily(model, family, encode_prompts(family, [row], "t2t"), 24)[0].text for row in rows]


def test_eight_users_at_once_get_their_own_answers(address):
    """Prevents: answers of one user in the column of another, and an adapter that is off for somebody else."""
    questions = [f"What is two plus {number}?" for number in NUMBERS]
    with ThreadPoolExecutor(8) as users:
        found = list(users.map(lambda question: ask(address, question), questions))
    assert [base for _, base, _ in found] == expected_answers(questions)
    assert all(base != adapted for _, base, adapted in found)
    assert [ask(address, question) for question in questions] == found


def test_a_spoken_question_is_answered_and_bad_clips_are_refused_in_a_sentence(address, pairs, tmp_path):
    """Prevents: a traceback on the page, or minutes of work for a clip that the model cannot take."""
    samples, rate_hz = soundfile.read(io.BytesIO(pairs["test"][0]["speech"]["bytes"]))
    soundfile.write(tmp_path / "question.wav", samples, rate_hz)
    note, base, adapted = ask(address, "", str(tmp_path / "question.wav"))
    assert (note, bool(base), base != adapted) == ("", True, True)
    for file, message in write_bad_clips(tmp_path).items():
        note, base, adapted = ask(address, "", file)
        assert message in note
        assert (base, adapted) == ("", "")
    assert "type a question" in ask(address, "  ")[0]
    assert "4000 are taken" in ask(address, "x" * 5000)[0]


@pytest.mark.parametrize("path", ["/etc/passwd", "/proc/self/environ", "/dev/zero", str(APP)])
def test_no_file_of_the_server_is_taken_for_an_upload(address, path):
    """Prevents: strangers who read the server's files, a token among them, or stop it by one that never ends."""
    asked = {"data": ["", {"path": path, "meta": {"_type": "gradio.FileData"}}]}
    url, headers = f"{address}/gradio_api/call/ask", {"Content-Type": "application/json"}
    with urlopen(Request(url, json.dumps(asked).encode(), headers), timeout=20) as reply:
        event = json.loads(reply.read())["event_id"]
    with urlopen(f"{url}/{event}", timeout=20) as reply:
        assert reply.read().decode().startswith("event: error")
    assert ask(address, "What is two plus three?")[1] == expected_answers(["What is two plus three?"])[0]


def test_requirements_name_every_library_that_the_app_imports():
    """Prevents: a Space that fails at its start, where nobody looks."""
    required = {re.split(r"[>=\[]", line)[0] for line in (APP.parent / "requirements.txt").read_text().split()}
    come_along = {"numpy": "torch", "fastapi": "gradio", "uvicorn": "gradio", "httpx2": "huggingface_hub",
                  "yaml": "pyyaml", "pyarrow": "datasets", "tqdm": "transformers", "rich": "trl"}  # fmt: skip
    missing = {}
    for name, file in imported_files(APP).items():
        for library in third_party(file):
            if come_along.get(library, library) not in required:
                missing.setdefault(library, []).append(name)
    assert missing == {}


def imported_files(start: Path) -> dict[str, Path]:
    """Return the files that a script imports at once, directly or through others."""
    found: dict[str, Path] = {}
    waiting = [start]
    while waiting:
        file = waiting.pop()
        for node in ast.parse(file.read_text()).body:
            name = node.module if isinstance(node, ast.ImportFrom) else None
            if name and name.split(".")[0] in ("trainer_ext", "data_builders") and name not in found:
                module = ROOT / f"{name.replace('.', '/')}.py"
                if module.is_file():
                    found[name] = module
                    waiting.append(module)
    return {"app": start, **found}


def third_party(file: Path) -> set[str]:
    tops = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            tops.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            tops |= {alias.name.split(".")[0] for alias in node.names}
    return tops - sys.stdlib_module_names - {"trainer_ext", "data_builders"}


def test_a_space_is_pushed_and_runs_from_its_own_files(hub, adapter, monkeypatch, capsys, tmp_path):
    """Prevents: a Space that lacks the code, the arguments or the scores that its app needs."""
    hub.add_folder("tester/my-adapter", adapter)
    hub.add_folder("tester/lab-student", LAB / "student")
    words = ["recipes/space", "my-demo", "--adapter", "tester/my-adapter", "--report", str(adapter)]
    listed, _ = run_script("push.py", [*words, "--dry_run"], monkeypatch, capsys)
    assert run_script("push.py", words, monkeypatch, capsys)[1] == ""
    files = hub.files("tester/my-demo", "space")
    assert set(re.findall(r"^ *[\d,]+  (\S+)$", listed, re.M)) == set(files)
    card = SpaceCard(files["README.md"].decode()).data
    assert (card.sdk, card.app_file, card.models) == ("gradio", "app.py", ["tester/my-adapter"])
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    words = ["--config", str(tmp_path / "space.yaml"), "--model_name_or_path", "tester/lab-student"]
    here = {"PYTHONPATH": str(tmp_path), **environment(hub, home=tmp_path / "home")}
    with talk_to(hub, monkeypatch), serve_page(tmp_path / "app.py", *words, cwd=tmp_path, **here) as server:
        assert ask(server.endpoint, "What is two plus three?")[1] == expected_answers(["What is two plus three?"])[0]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_person_types_and_uploads_in_a_browser(address, pairs, tmp_path):
    """Prevents: a page that is blank, or whose buttons do nothing, or that tells somebody who opens it."""
    api = pytest.importorskip("playwright.sync_api")
    samples, rate_hz = soundfile.read(io.BytesIO(pairs["test"][0]["speech"]["bytes"]))
    soundfile.write(tmp_path / "question.wav", samples, rate_hz)
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page, requests, errors = browser.new_page(), [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.wait_for_selector("#question textarea")

        def read() -> tuple[str, str]:
            return page.input_value("#base textarea"), page.input_value("#adapted textarea")

        def click_and_read() -> tuple[str, str]:
            before = read()
            page.click("#ask")
            page.wait_for_function(
                """before => {
                    const [b, a] = ["base", "adapted"].map(id => document.querySelector(`#${id} textarea`).value);
                    return b && a && (b !== before[0] || a !== before[1]);
                }""",
                arg=list(before),
            )
            page.wait_for_timeout(1500)  # streamed
            return read()

        page.fill("#question textarea", "What is two plus three?")
        base, adapted = click_and_read()
        assert base == expected_answers(["What is two plus three?"])[0]
        assert base != adapted
        page.fill("#question textarea", "")
        page.set_input_files("#clip input[type=file]", str(tmp_path / "question.wav"))
        page.wait_for_selector("#clip button[aria-label='Clear']")
        spoken = click_and_read()
        assert spoken[0] != spoken[1]
        page.click("#clip button[aria-label='Clear']")
        page.set_input_files("#clip input[type=file]", next(iter(write_bad_clips(tmp_path))))
        page.wait_for_selector("#clip button[aria-label='Clear']")
        page.click("#ask")
        page.wait_for_selector("#note textarea")
        assert "600.0 s long" in page.input_value("#note textarea")
        assert "98.7" in page.content()
        assert page.frame_locator("iframe[title=Answers]").locator("#here").inner_text() == "every answer"
        outside = [url for url in requests if not url.startswith((address, "data:", "blob:"))]
        assert outside == []
        assert errors == []
        browser.close()
