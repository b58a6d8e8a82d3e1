"""Tests of pushes to a real server: what arrives, what is refused, and every failure at every request."""

import logging
import re
import time

import httpx2
import pytest
from huggingface_hub.utils import hf_raise_for_status

from data_builders.hub.contents import Contents, sign_card
from data_builders.hub.folders import DATASET
from data_builders.hub.folders import make_upload as make_upload_of_folder
from data_builders.hub.push import BLOCK_BYTES, Upload, UploadFile, check_upload, collect_files, push
from data_builders.hub.repository import Repository, claim_repository
from data_builders.hub.requests import PushFailed, PushRefused, retry
from tests.support.hub.server import FAULTS
from tests.support.hub.tokens import FINE_GRAINED, READ, WRITE

ADAPTER = Contents("adapter", "Qwen/Qwen2.5-Omni-3B")
MANAGED = ["*.safetensors", "*.json", "README.md"]


def card(contents: Contents = ADAPTER) -> bytes:
    return f"---\ncrossmodal_kd:\n  kind: {contents.kind}\n  of: {contents.of}\n---\n# mine\n".encode()


def make_upload(weights: bytes = b"w" * 5000, **files: bytes) -> Upload:
    named = {"README.md": card(), "a.safetensors": weights, "a.json": b"{}"}
    named |= {name.replace("__", "."): content for name, content in files.items()}
    return Upload(ADAPTER, [UploadFile(path, content) for path, content in sorted(named.items())], MANAGED)


def run_push(upload: Upload, name: str = "mine", **settings) -> Repository:
    repository = claim_repository(Repository(name, **settings), upload.contents)
    push(upload, repository, "a push")
    return repository


def contents_of(upload: Upload) -> dict[str, bytes]:
    return {file.path: file.read() for file in upload.files}


def test_a_push_is_one_commit_and_a_second_one_none(hub):
    """Prevents: a repository whose card arrives in one commit and its weights in the next."""
    upload = make_upload()
    assert run_push(upload).id == "tester/mine"
    run_push(upload)
    assert hub.files("tester/mine") == contents_of(upload)
    assert len(hub.find("tester/mine").log) == 1


def test_files_of_an_earlier_push_go_and_those_of_other_people_stay(hub):
    """Prevents: stale shards that a data set loader would read, and a deleted LICENSE."""
    run_push(make_upload(old__json=b"1"))
    repository = hub.find("tester/mine")
    repository.add("main", "mine", {**repository.head.files, "demo.txt": repository.head.files["old.json"]})
    upload = make_upload(new__json=b"2")
    run_push(upload)
    assert hub.files("tester/mine") == {**contents_of(upload), "demo.txt": b"1"}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_push_survives_one_failure_of_any_request(hub, fault):
    """Prevents: a night's result that is lost to one bad gateway; create, validation and commit are not retried by
    huggingface_hub."""
    run_push(make_upload(b"v" * 5000))
    requests = len(hub.requests)
    for number in range(1000):
        upload = make_upload(b"%d" % number * 1000)
        hub.break_down(fault, number)
        before = len(hub.requests)
        run_push(upload, "tester/new" if number % 2 else "mine")
        assert hub.files("tester/new" if number % 2 else "tester/mine") == contents_of(upload)
        if len(hub.requests) - before <= number:
            break
        hub.store.repositories.pop(("models", "tester/new"), None)
    assert number > requests / 2


@pytest.mark.parametrize("fault", FAULTS)
def test_a_push_that_fails_leaves_the_old_or_the_new_and_a_rerun_completes_it(hub, fault):
    """Prevents: a repository whose card promises weights that are not there."""
    old, clean = make_upload(b"old" * 1000), make_upload(b"new" * 1000)
    run_push(old)
    requests = len(hub.requests)
    for number in range(requests + 5):
        hub.repair()
        run_push(old)
        hub.break_down(fault, number, lasting=True)
        with pytest.raises(PushFailed, match="attempts failed"):
            run_push(clean)
        assert hub.files("tester/mine") in (contents_of(old), contents_of(clean))
        if hub.files("tester/mine") == contents_of(clean):
            break  # the commit was done; all that is left is the verification
        hub.repair()
        run_push(clean)
        assert hub.files("tester/mine") == contents_of(clean)
    assert number > 5


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("", "not logged in to the Hub: run `hf auth login`"),
        ("hf_unknown", "the Hub does not know this token"),
        (READ, "'a read token' of tester may only read: make one that may write"),
        (FINE_GRAINED, "the token may not write to tester/mine"),
    ],
)
def test_a_token_without_rights_is_named_before_any_work(hub, monkeypatch, token, message):
    """Prevents: a token that turns out to be read-only after a night of training."""
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(PushRefused, match=re.escape(message)):
        claim_repository(Repository("mine"), ADAPTER)
    hub.create("tester/mine")
    with pytest.raises(PushRefused, match=re.escape(message)):
        claim_repository(Repository("mine"), ADAPTER)
    assert not any("upload" in request for request in hub.requests)


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"README__md": "---\nlibrary_name: diffusers\n---\n# Cats\n"}, "'Cats', library_name diffusers"),
        ({"README__md": card(Contents("adapter", "Qwen/Qwen2-Audio-7B")).decode()}, "adapter of Qwen/Qwen2-Audio-7B"),
        ({"README__md": card(Contents("model", ADAPTER.of)).decode()}, "model of Qwen/Qwen2.5-Omni-3B"),
        ({"README__md": "---\n: [\n---\n"}, "a card of its own"),
        ({"model__safetensors": "x"}, "1 files without a card"),
    ],
)
def test_a_repository_of_something_else_is_not_overwritten(hub, files, found):
    """Prevents: `--hub_model_id` with a typing error that replaces another project's card and weights."""
    hub.create("tester/mine", **files)
    before = hub.files("tester/mine")
    with pytest.raises(PushRefused, match=re.escape(found)):
        claim_repository(Repository("mine"), ADAPTER)
    assert hub.files("tester/mine") == before
    run_push(make_upload(), overwrite=True)
    assert hub.files("tester/mine")["README.md"] == card()


def test_a_repository_that_was_only_made_is_taken(hub):
    """Prevents: a refusal of the empty repository that a person has just made on the website."""
    hub.create("tester/mine", README__md="---\nlicense: mit\n---\n", LICENSE="MIT")
    run_push(make_upload())
    assert hub.files("tester/mine")["README.md"] == card()


def test_a_public_repository_is_not_taken_for_a_private_one(hub):
    """Prevents: unpublished weights in a repository that was public all along."""
    hub.create("tester/mine")
    with pytest.raises(PushRefused, match="is public, and hub_private_repo is true"):
        claim_repository(Repository("mine", private=True), ADAPTER)
    run_push(make_upload(), "other", private=True)
    assert hub.find("tester/other").private


def test_a_push_to_a_branch_leaves_main_alone(hub):
    """Prevents: `hub_revision` that is ignored."""
    run_push(make_upload(b"first"))
    run_push(make_upload(b"second"), branch="v2")
    assert hub.files("tester/mine")["a.safetensors"] == b"first"
    assert hub.files("tester/mine", revision="v2")["a.safetensors"] == b"second"


def test_an_allow_list_takes_what_it_names_and_nothing_else(tmp_path):
    """Prevents: .env, trackers' folders and links to other places on the Hub."""
    for name in ("a.json", ".env", "wandb/run.json", "notes/a.json", "checkpoint-2/a.json", "data/b.parquet"):
        (tmp_path / "f" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "f" / name).write_text("x")
    found = collect_files(tmp_path / "f", ["*.json", "data/*.parquet"])
    assert [file.path for file in found] == ["a.json", "data/b.parquet"]
    assert [file.path for file in collect_files(tmp_path / "f", ["notes/**"])] == ["notes/a.json"]


def test_a_link_out_of_the_folder_is_named(tmp_path):
    """Prevents: files of other places on the Hub, or weights that are left out, and deleted there, because they lie
    on another disk.
    """
    (tmp_path / "f").mkdir()
    (tmp_path / "secret.json").write_text("x")
    (tmp_path / "f" / "link.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(PushRefused, match=r"link\.json is a link out of its folder"):
        collect_files(tmp_path / "f", ["*.json"])


def test_an_edit_of_the_card_on_the_hub_is_not_lost(hub):
    """Prevents: a text that somebody wrote on the website, gone with the next push."""
    upload = make_upload()
    signed = [UploadFile(f.path, sign_card(f.read().decode()).encode()) if f.path == "README.md" else f
              for f in upload.files]  # fmt: skip
    upload = Upload(ADAPTER, signed, MANAGED)
    run_push(upload)
    run_push(upload)
    text = hub.files("tester/mine")["README.md"].decode() + "\nIt likes tea.\n"
    hub.create("tester/mine", README__md=text)
    with pytest.raises(PushRefused, match="has a card that was edited there"):
        run_push(upload)
    assert "tea" in hub.files("tester/mine")["README.md"].decode()
    run_push(upload, overwrite=True)
    assert "tea" not in hub.files("tester/mine")["README.md"].decode()


def test_what_is_replaced_is_gone_and_a_license_stays(hub):
    """Prevents: `config.json` of a full model beside an adapter, which loaders would take for the model."""
    hub.create("tester/mine", README__md="# Cats\n", config__bin="x", LICENSE="MIT")
    upload = make_upload()
    run_push(upload, overwrite=True)
    assert hub.files("tester/mine") == {**contents_of(upload), "LICENSE": b"MIT"}


def test_no_branch_is_made_in_a_repository_of_something_else(hub):
    """Prevents: traces of a refused push in other people's repositories."""
    hub.create("tester/mine", README__md="# Cats\n")
    with pytest.raises(PushRefused, match="holds something else"):
        run_push(make_upload(), branch="dev")
    assert list(hub.find("tester/mine").branches) == ["main"]


@pytest.mark.parametrize(
    ("headers", "waited"), [({"Retry-After": "40"}, 40.0), ({"ratelimit": '"api";r=0;t=200'}, 201.0), ({}, 2.0)]
)
def test_a_server_is_given_the_time_that_it_asks_for(monkeypatch, headers, waited):
    """Prevents: attempts that are all inside of one rate limit."""
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    replies = iter([429, 200])
    assert retry(lambda: respond(next(replies), headers), "the Hub") == "done"
    assert waits == [waited]


def test_a_server_that_asks_for_an_hour_is_told_at_once(monkeypatch):
    """Prevents: twenty minutes of waits that cannot help."""
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("waited"))
    with pytest.raises(PushFailed, match="asks to wait 60 minutes"):
        retry(lambda: respond(429, {"Retry-After": "3600"}), "the Hub")


def respond(status: int, headers: dict[str, str]) -> str:
    """Return "done", or raise what `huggingface_hub` raises for a status."""
    request = httpx2.Request("GET", "http://127.0.0.1/api")
    hf_raise_for_status(httpx2.Response(status, headers=headers, request=request))
    return "done"


@pytest.mark.parametrize(
    ("files", "contents", "message"),
    [
        ({"data/a.parquet": b"x"}, Contents("adapter", "x"), "is no dataset: its card says that it holds adapter of x"),
        ({}, Contents("dataset", "x"), r"has no data/\*\.parquet, without which nobody can use it"),
    ],
)
def test_a_folder_without_what_its_kind_needs_is_refused(tmp_path, files, contents, message):
    """Prevents: a repository without weights, and the deletion of those that were there."""
    (tmp_path / "README.md").write_bytes(card(contents))
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
    with pytest.raises(PushRefused, match=message):
        make_upload_of_folder(tmp_path, DATASET, "me/x")


def test_a_text_with_the_token_or_a_path_of_this_machine_is_not_pushed(hub, tmp_path):
    """Prevents: a token in a config that a server repeated, and strangers who read the names of folders."""
    with pytest.raises(PushRefused, match=r"settings\.json contains a token"):
        check_upload(make_upload(settings__json=f'"{WRITE}"'.encode()), tmp_path)
    with pytest.raises(PushRefused, match=r"settings\.json names a folder of this machine"):
        check_upload(make_upload(settings__json=f'"{tmp_path}/x"'.encode()), tmp_path)
    with pytest.raises(PushRefused, match=r"has no README\.md that says"):
        check_upload(Upload(Contents("model", "x"), make_upload().files, MANAGED), tmp_path)
    (tmp_path / "page.html").write_bytes(b" " * (BLOCK_BYTES - 10) + WRITE.encode())  # across two blocks
    page = UploadFile("page.html", tmp_path / "page.html")
    with pytest.raises(PushRefused, match=r"page\.html contains a token"):
        check_upload(Upload(ADAPTER, [*make_upload().files, page], MANAGED), tmp_path)
    check_upload(make_upload(), tmp_path)


def test_the_token_is_in_no_log(hub, caplog, monkeypatch):
    """Prevents: tokens in the logs that people attach to a bug report."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("HF_DEBUG", "1")
    run_push(make_upload())
    assert "upload" in caplog.text
    assert WRITE not in caplog.text


def test_the_token_is_in_no_message(hub, caplog):
    """Prevents: tokens in the message of a server that repeats what it was sent."""
    hub.refused["commit"] = (403, f"the token {WRITE} is not allowed")
    with pytest.raises(PushRefused) as refused:
        run_push(make_upload())
    assert "hf_***" in str(refused.value)
    assert WRITE not in str(refused.value) + caplog.text
