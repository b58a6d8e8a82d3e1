"""Tests of files of questions: what was written arrives, and a malformed line is named."""

import pytest

from data_builders.questions.read import read_questions

LATE = '{"question": "a"}\n' * 3_000 + '{"question": "b", "reference": "x", "split": "test", "system": 5}\n'


def read(tmp_path, name, content):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_questions(str(file)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "question,reference\nWhat day comes after Monday, please,Tuesday\n", r"a\.csv, line 2 has 3 cells"),
        ("a.csv", 'question\n"Hello" is what?\n', r"a\.csv, line 2 cannot be read"),
        ("a.tsv", 'question\tx\n"Hello is what?\tb\nIs it "yes"?\tc\n', r"a\.tsv, line 3 cannot be read"),
        ("a.jsonl", '{"question": "a"}\n\n{"question": "b"\n', r"a\.jsonl, line 3 is not JSON"),
        ("a.jsonl", '["a"]\n', r"a\.jsonl, line 1 is no object"),
        ("a.jsonl", b'{"question": "\xff"}\n', "not UTF-8"),
        ("a.jsonl", '{"question": "a", "channels": 1}\n', "row 0: channels is no list"),
        ("a.jsonl", '{"question": "a", "channels": "T2T"}\n', "row 0: unknown channel 'T2T'"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, name, content, message):
    """Prevents: an unquoted comma that makes the answer the question, and rows that vanish behind a stray quote."""
    with pytest.raises(ValueError, match=message):
        read(tmp_path, name, content)


def test_a_column_may_begin_late_and_have_any_values(tmp_path):
    """Prevents: "Couldn't cast array" for test rows at the end of a file, the natural place."""
    rows = read(tmp_path, "late.jsonl", LATE)
    assert len(rows) == 3_001
    assert (rows[-1]["split"], rows[-1]["reference"], rows[-1]["system"]) == ("test", "x", "5")
    rows = read(tmp_path, "late.csv", "question,reference\n" + "a,1\n" * 3_000 + "b,x\n")
    assert (rows[0]["reference"], rows[-1]["reference"]) == ("1", "x")


def test_numbers_stay_as_they_were_written(tmp_path):
    """Prevents: a gold answer "3" that is read as 3.0 and never right, and 007 as 7."""
    rows = read(tmp_path, "a.csv", "question,reference,gold_response,split\nWhat?,3,007,test\nWho?,,NA,train\n")
    assert [(row["reference"], row["gold_response"]) for row in rows] == [("3", "007"), (None, "NA")]
    rows = read(tmp_path, "a.jsonl", '{"question": 42, "reference": 3.0}\n{"question": "a", "reference": 3.5}\n')
    assert [(row["question"], row["reference"]) for row in rows] == [("42", "3"), ("a", "3.5")]


def test_text_of_other_systems_is_read(tmp_path):
    """Prevents: a mark, Windows line ends, quotes over lines or half a surrogate pair that stop or change a row."""
    rows = read(tmp_path, "a.csv", b'\xef\xbb\xbfquestion,channels\r\n"one\r\ntwo, three",both\r\n\r\nb,t2t s2t\r\n')
    assert [row["question"] for row in rows] == ["one\r\ntwo, three", "b"]
    assert rows[0]["channels"] == ["t2t", "s2t"]
    assert read(tmp_path, "a.jsonl", '{"question": "a\\ud800b"}\n')[0]["question"] == "ab"
    assert [row["question"] for row in read(tmp_path, "a.txt", "one\r\ntwo\n")] == ["one", "two"]
