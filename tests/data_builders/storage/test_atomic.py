"""Tests that folders and files appear complete or not at all, whatever a killed process left."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data_builders.storage.atomic import (
    REPLACED,
    SUFFIX,
    atomic_folder,
    open_locked,
    temporary_path,
    write_atomic,
)


def list_names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_process_left_is_removed_and_what_another_writes_stays(tmp_path):
    """Prevents: folders that pile up, and a builder that dies because another one cleaned up."""
    target = tmp_path / "set"
    dead = temporary_path(target)
    dead.mkdir()
    with atomic_folder(target) as other:
        (other / "a").write_text("other")
        with atomic_folder(target) as folder:
            (folder / "a").write_text("first")
        assert not dead.exists()
        assert (target / "a").read_text() == "first"
    assert list_names(tmp_path) == ["set"]
    assert (target / "a").read_text() == "other"


def test_a_folder_whose_replacement_was_killed_gets_its_name_back(tmp_path):
    """Prevents: a finished data set deleted as a leftover, because the kill came between two renames."""
    target = tmp_path / "set"
    former = temporary_path(target, REPLACED)
    former.mkdir()
    (former / "a").write_text("former")
    with atomic_folder(target):
        assert (target / "a").read_text() == "former"
    assert list_names(tmp_path) == ["set"]


def test_a_file_that_a_killed_process_had_begun_is_removed_and_what_another_writes_stays(tmp_path):
    """Prevents: a .partial beside every report whose writer was killed, or a writer that dies because of a cleaner."""
    report = tmp_path / "report.json"
    dead = temporary_path(report)
    dead.write_bytes(b"{")
    foreign = tmp_path / "report.json.mine.partial"
    foreign.touch()
    with open_locked(report) as living:
        write_atomic(report, b"{}")
        assert sorted(list_names(tmp_path)) == sorted(["report.json", foreign.name, Path(living.name).name])
    write_atomic(report, b"[]")  # the other one is dead now
    assert list_names(tmp_path) == ["report.json", foreign.name]
    assert report.read_bytes() == b"[]"


def test_writers_of_one_file_do_not_delete_what_the_others_write(tmp_path):
    """Prevents: a FileNotFoundError because another writer took a file for a leftover before it was locked."""
    report = tmp_path / "report.json"
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(write_atomic, report, b"%d" % number) for number in range(400)]:
            done.result()
    assert list_names(tmp_path) == ["report.json"]


def test_a_link_to_a_folder_is_followed(tmp_path):
    """Prevents: an output_dir that is a link to another disk replaced by a folder on this one."""
    (tmp_path / "disk").mkdir()
    link = tmp_path / "set"
    link.symlink_to(tmp_path / "disk")
    for content in ("first", "second"):
        with atomic_folder(link) as folder:
            (folder / "a").write_text(content)
    assert link.is_symlink()
    assert (tmp_path / "disk" / "a").read_text() == "second"
    assert list_names(tmp_path) == ["disk", "set"]


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    """Prevents: .partial files that pile up on a full disk."""
    (tmp_path / "report.json").mkdir()
    with pytest.raises(OSError):
        write_atomic(tmp_path / "report.json", b"{}")
    assert not [name for name in list_names(tmp_path) if name.endswith(SUFFIX)]


def test_folders_of_other_names_stay(tmp_path):
    """Prevents: somebody's `set.mine.partial`, and the only copy of the data set `set.v2`, deleted as leftovers."""
    names = ["set.mine.partial", "set.backup.replaced", "set.v2.0123abcd.replaced"]
    for name in names:
        (tmp_path / name).mkdir()
    with atomic_folder(tmp_path / "set"):
        pass
    assert list_names(tmp_path) == sorted([*names, "set"])
