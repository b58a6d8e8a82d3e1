"""Tests of stages that are run once for their settings, and of the rows of the adaptation."""

import collections

import pytest
from adapt import REPEAT, make_repeats, make_tasks
from datasets import concatenate_datasets
from stages import StageRunner


def run_two(folder, first, second, overwrite=False):
    """Run two stages; returns the names of those that did something."""
    done = []

    def work(name):
        def write(folders):
            done.append(name)
            text = (folders.previous / "made").read_text() if name == "second" else ""
            (folders.target / "made").write_text(f"{text}{name} {first if name == 'first' else second};")
            return {"figure": 1}

        return write

    runner = StageRunner(folder, overwrite)
    runner.run("first", {"setting": first}, work("first"))
    runner.run("second", {"setting": second}, work("second"))
    return done


def test_a_finished_stage_is_not_run_again(tmp_path):
    """Prevents: an hour of the same work after a kill in the next stage."""
    assert run_two(tmp_path, 1, 1) == ["first", "second"]
    assert run_two(tmp_path, 1, 1) == []


def test_other_settings_are_refused_until_asked_for(tmp_path):
    """Prevents: a trained stage replaced because of a typing error, or one that is kept behind another first stage."""
    run_two(tmp_path, 1, 1)
    with pytest.raises(ValueError, match=r"second was made with other settings .* --overwrite_output_dir true"):
        run_two(tmp_path, 1, 2)
    assert run_two(tmp_path, 1, 2, overwrite=True) == ["second"]
    assert run_two(tmp_path, 2, 2, overwrite=True) == ["first", "second"]
    assert (tmp_path / "second" / "made").read_text() == "first 2;second 2;"


def test_a_stage_that_fails_leaves_what_it_goes_on_from(tmp_path):
    """Prevents: half a model under the name of a whole one."""

    def fail(folders):
        folders.unfinished.mkdir()
        (folders.target / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        StageRunner(tmp_path, False).run("first", {}, fail)
    assert [path.name[:6] for path in tmp_path.iterdir()] == ["first."]
    StageRunner(tmp_path, False).run("first", {}, lambda folders: {})
    assert [path.name for path in tmp_path.iterdir()] == ["first"]


def test_rows_are_answered_repeated_and_asked_in_writing_in_their_shares(pairs):
    """Prevents: a model that can only repeat, or that answers a clip it is to repeat."""
    rows = concatenate_datasets([pairs["train"]] * 20)
    tasks = make_tasks(rows, repeat_share=0.4, text_share=0.2, seed=0)
    counts = collections.Counter()
    for before, after in zip(rows, tasks, strict=True):
        repeats = after["system"] == REPEAT
        assert after["teacher_response"] == (before["question"] if repeats else before["teacher_response"])
        assert after["channels"] in (["s2t"], ["t2t"])
        counts["repeat" if repeats else after["channels"][0]] += 1
        assert not (repeats and after["channels"] == ["t2t"])
    shares = {task: count / len(rows) for task, count in counts.items()}
    assert shares == pytest.approx({"repeat": 0.4, "s2t": 0.4, "t2t": 0.2}, abs=0.06)
    assert tasks["speech_seconds"] == rows["speech_seconds"]


def test_a_clip_to_repeat_is_compared_with_its_question(pairs):
    """Prevents: a word error rate against the answer."""
    rows = make_repeats(pairs["test"])
    assert rows["reference"] == rows["question"] == pairs["test"]["question"]
    assert set(rows["system"]) == {REPEAT}
