"""Tests of pushes to a real server: what arrives, what is refused, and every failure at every request."""

import logging
import re

import pytest

from data_builders.hub.contents import Contents
from data_builders.hub.push import Upload, UploadFile, check_upload, collect_files, push
from data_builders.hub.repository import Repository, claim_repository
from data_builders.hub.requests import PushFailed, PushRefused
from tests.support.hub.server import FAULTS, FINE_GRAINED, READ, WRITE

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
        ("hf_unknown", "is not valid any more: run `hf auth login`"),
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
    (tmp_path / "secret.json").write_text("x")
    (tmp_path / "f" / "link.json").symlink_to(tmp_path / "secret.json")
    found = collect_files(tmp_path / "f", ["*.json", "data/*.parquet"])
    assert [file.path for file in found] == ["a.json", "data/b.parquet"]
    assert [file.path for file in collect_files(tmp_path / "f", ["notes/**"])] == ["notes/a.json"]


def test_a_text_with_the_token_or_a_path_of_this_machine_is_not_pushed(hub, tmp_path):
    """Prevents: a token in a config that a server repeated, and strangers who read the names of folders."""
    with pytest.raises(PushRefused, match=r"settings\.json contains the token"):
        check_upload(make_upload(settings__json=f'"{WRITE}"'.encode()), tmp_path)
    with pytest.raises(PushRefused, match=r"settings\.json names a folder of this machine"):
        check_upload(make_upload(settings__json=f'"{tmp_path}/x"'.encode()), tmp_path)
    with pytest.raises(PushRefused, match=r"has no README\.md that says"):
        check_upload(Upload(Contents("model", "x"), make_upload().files, MANAGED), tmp_path)
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
