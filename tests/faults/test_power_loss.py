"""Attacks by loss of power: what is reported as saved is on the disk before anything older is deleted.

The calls are traced in this process: fsync, rename and deletion. A file is safe once it was synced, and its name once
its folder was synced after the rename.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from peft import LoraConfig

from data_builders.storage.atomic import atomic_folder, write_atomic
from data_builders.storage.call_cache import CallCache
from tests.support.processes import ENVIRONMENT
from trainer_ext.checkpoints.complete import CHECKSUMS


class Trace:
    """The calls of this process, in their order: (name, path)."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Path]] = []
        self.active = True
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple) -> None:
        if not self.active:
            return
        if event == "os.rename":
            self.calls.append(("rename", Path(os.fsdecode(arguments[1]))))
        elif event in ("shutil.rmtree", "os.remove"):
            self.calls.append(("delete", Path(os.fsdecode(arguments[0]))))

    def record_sync(self, path: Path) -> None:
        self.calls.append(("sync", path))

    def find(self, name: str, path: Path) -> list[int]:
        return [at for at, call in enumerate(self.calls) if call == (name, path)]


@contextmanager
def tracing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Trace]:
    """Trace fsync too, by the path behind its descriptor."""
    trace, fsync = Trace(), os.fsync

    def record(descriptor: int) -> None:
        fsync(descriptor)
        trace.record_sync(Path(f"/proc/self/fd/{descriptor}").readlink())

    monkeypatch.setattr(os, "fsync", record)
    try:
        yield trace
    finally:
        trace.active = False


def test_a_checkpoint_is_on_the_disk_before_the_older_one_is_deleted(make_trainer, family, tmp_path, monkeypatch):
    """Prevents: no checkpoint at all after a loss of power in the second of a rotation."""
    output = tmp_path / "run"
    trainer = make_trainer(
        peft_config=LoraConfig(target_modules=family.lora_target_modules),
        max_steps=3, save_strategy="steps", save_steps=1, save_total_limit=1,
    )  # fmt: skip
    with tracing(monkeypatch) as trace:
        trainer.train()
    for older, newer in ((1, 2), (2, 3)):
        (deleted,) = trace.find("delete", output / f"checkpoint-{older}")[-1:]
        folder = output / f"checkpoint-{newer}"
        synced = {path for name, path in trace.calls[:deleted] if name == "sync"}
        if newer == 3:
            files = [file for file in folder.rglob("*") if file.is_file() and file.name != CHECKSUMS]
            assert files
            assert set(files) <= synced
        (checksums,) = trace.find("rename", folder / CHECKSUMS)
        assert any(checksums < at < deleted for at in trace.find("sync", folder))
        assert any(checksums < at < deleted for at in trace.find("sync", output))


def test_the_saved_model_is_on_the_disk_when_it_is_reported(make_trainer, family, tmp_path, monkeypatch):
    """Prevents: "saved to", and an empty file after a loss of power."""
    trainer = make_trainer(peft_config=LoraConfig(target_modules=family.lora_target_modules), max_steps=1)
    trainer.train()
    with tracing(monkeypatch) as trace:
        trainer.save_model()
    output = tmp_path / "run"
    renamed = [path for name, path in trace.calls if name == "rename"]
    assert output / "adapter_model.safetensors" in renamed
    synced = [path.name for name, path in trace.calls if name == "sync"]
    for path in renamed:
        assert path.name in synced
        assert trace.find("sync", path.parent)[-1] > trace.find("rename", path)[-1]


def test_a_folder_is_on_the_disk_before_the_former_one_is_deleted(tmp_path, monkeypatch):
    """Prevents: neither the old data set nor the new one."""
    target = tmp_path / "set"
    for content in ("first", "second"):
        with tracing(monkeypatch) as trace, atomic_folder(target) as folder:
            (folder / "data").mkdir()
            (folder / "data" / "a").write_text(content)
            made = folder
    (placed,) = trace.find("rename", target)
    for path in (made / "data" / "a", made / "data", made):
        assert trace.find("sync", path)[0] < placed
    deleted = next(at for at, (name, path) in enumerate(trace.calls) if name == "delete" and path.name != made.name)
    assert placed < trace.find("sync", tmp_path)[-1] < deleted


def test_a_file_is_on_the_disk_when_it_has_its_name(tmp_path, monkeypatch):
    """Prevents: an empty report.json."""
    with tracing(monkeypatch) as trace:
        write_atomic(tmp_path / "a", b"1")
    assert [name for name, _ in trace.calls] == ["sync", "rename", "sync"]
    assert trace.calls[-1] == ("sync", tmp_path)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace traces what SQLite does")
@pytest.mark.faults
def test_a_cached_call_is_on_the_disk_when_it_is_counted(tmp_path):
    """Prevents: an answer that was paid for, counted and lost. SQLite's own calls are traced."""
    script = (
        "import sys; from pathlib import Path; from data_builders.storage.call_cache import CallCache; "
        "cache = CallCache(Path(sys.argv[1])); cache.put('a', b'1'); print('stored', flush=True)"
    )
    log = tmp_path / "trace"
    command = ["strace", "-f", "-e", "trace=fsync,fdatasync,write", "-o", str(log), sys.executable, "-c", script]
    subprocess.run([*command, str(tmp_path / "a.sqlite")], check=True, env=ENVIRONMENT)
    lines = log.read_text().splitlines()
    told = next(at for at, line in enumerate(lines) if "stored" in line)
    assert sum("sync(" in line for line in lines[:told]) >= 2
    assert CallCache(tmp_path / "a.sqlite").get("a") == b"1"
