"""Which questions stay, why the others go, and which channels they train."""

import collections
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_builders.arguments import BuildArguments
from data_builders.questions.duplicates import NearDuplicates
from data_builders.questions.select import select_questions
from data_builders.questions.speakability import SpeakabilityFilter
from data_builders.questions.text_normalization import normalize_for_tts
from tests.support.open_orca import write_rows

LABELS = Path(__file__).with_name("speakability_labels.tsv")
OPEN_ORCA = {"columns": ["system=system_prompt", "gold_response=response"]}


def make(tmp_path, rows, **changes):
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return select_questions(
        BuildArguments(questions=str(file), cache_dir=str(tmp_path / "data"), **changes), quiet=True
    )


def read(plan):
    return [row for shard in plan.shards for row in plan.read(shard)]


def test_the_filter_agrees_with_people():
    """Hours of speech of tables and code; or a data set of nothing but trivia. The labels are older than the filter."""
    judge = SpeakabilityFilter(max_words=60, max_seconds=25)
    lines = [line.rstrip("\n").split("\t") for line in LABELS.read_text().splitlines()]
    assert len(lines) >= 200
    speakable = {q.replace("\\n", "\n"): label == "yes" for label, _, q in lines}
    kept = {question for question in speakable if judge.find_reason(question) is None}
    right = sum(speakable[question] for question in kept)
    assert right / len(kept) >= 0.9
    assert right / sum(speakable.values()) >= 0.9


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ("", "empty"),
        ("Yes", "too short"),
        ("What is at www.example.com today?", "link"),
        ("What does print(sorted(x)) do?", "code"),
        ("| a | b |\n| 1 | 2 |\nWhich is more?", "table"),
        ("Which one? (A) this (B) that", "options"),
        ("The capital of France is ____.", "blank"),
        ("Was kostet ein Fahrrad in Deutschland im Durchschnitt?", "not English"),
        ("Tell me " + "very " * 60 + "much", "too long"),
        ("Why is 12345678901 a prime?", "numbers"),
    ],
)
def test_a_reason_says_what_is_wrong(question, reason):
    """A table of reasons is how a person sees that the filter eats the wrong rows."""
    assert SpeakabilityFilter(60, 25).find_reason(question) == reason


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("What is 25 + 17?", "What is twenty five plus seventeen?"),
        ("In 1969, who walked on the moon?", "In nineteen sixty nine, who walked on the moon?"),
        ("How far is 5 km in miles?", "How far is five kilometers in miles?"),
        ("Who said “no”?", 'Who said "no"?'),
        ("Which animal barks?", "Which animal barks?"),
    ],
)
def test_what_is_spoken_is_words(written, spoken):
    """Voices read "km" as letters, and a recognizer's dictionary has no digits."""
    assert normalize_for_tts(written) == spoken


def test_a_near_duplicate_is_found_and_a_like_question_is_not(tmp_path):
    """The same question in capitals, a thousand times over; or two questions that differ in the word that matters."""
    seen = NearDuplicates(tmp_path / "seen.sqlite", similarity=0.8)
    assert seen.find("a", "What is the capital city of France in Europe?") is None
    assert seen.find("b", "what is the capital city of FRANCE, in Europe") == "a"
    assert seen.find("c", "What is the capital city of Spain in Europe?") is None
    assert seen.find("d", "What is the capital city of Spain, in Europe?") == "c"
    seen.close()


def test_every_dropped_question_is_kept_aside_with_its_reason(tmp_path):
    """Three rows in four of a corpus, gone without a trace."""
    file = tmp_path / "orca.jsonl"
    write_rows(file, 400)
    plan = select_questions(
        BuildArguments(questions=str(file), cache_dir=str(tmp_path), **OPEN_ORCA), quiet=True
    )
    dropped = pq.read_table(plan.folder / "dropped.parquet").to_pylist()
    reasons = collections.Counter(row["reason"] for row in dropped)
    assert {**reasons, "kept": len(read(plan)), "read": 400} == plan.counts
    assert len(dropped) + len(read(plan)) == 400
    asked = read(plan)
    assert all(row["gold_response"].startswith("That depends") for row in asked)
    assert {row["system"][:7] for row in asked} == {"", "You are"}


def test_channels_are_dealt_to_exact_counts(tmp_path):
    """The paper's 22,456 and 44,753, in small; and the same row trains the same channel on every machine."""
    rows = [{"question": f"What would {i} horses say to {i + 1} cows?"} for i in range(300)]
    changes = {
        "filter_unspeakable": False,
        "max_rows": 200,
        "channel_shares": ["t2t=22456", "s2t=44753"],
    }
    dealt = read(make(tmp_path, rows, **changes))
    counts = collections.Counter(tuple(row["channels"]) for row in dealt)
    assert counts == {("t2t",): 67, ("s2t",): 133}
    both = read(make(tmp_path, rows, filter_unspeakable=False, channel_shares=["both=1", "t2t=1"]))
    shares = collections.Counter(tuple(row["channels"]) for row in both)
    assert 0.4 < shares["t2t", "s2t"] / 300 < 0.6
    again = read(
        make(tmp_path, rows[::-1], filter_unspeakable=False, channel_shares=["both=1", "t2t=1"])
    )
    assert {r["id"]: r["channels"] for r in again} == {r["id"]: r["channels"] for r in both}
    other = read(
        make(tmp_path, rows, filter_unspeakable=False, seed=1, channel_shares=["both=1", "t2t=1"])
    )
    assert [r["channels"] for r in other] != [r["channels"] for r in both]


def test_a_sample_is_drawn_by_row(tmp_path):
    """The first rows of a sorted corpus are no sample of it."""
    rows = [{"question": f"What is {i} plus {i}?"} for i in range(400)]
    half = read(make(tmp_path, rows, filter_unspeakable=False, sample_fraction=0.5))
    assert 150 < len(half) < 250
    more = read(make(tmp_path, rows, filter_unspeakable=False, sample_fraction=0.6))
    assert {row["id"] for row in half} < {row["id"] for row in more}


def test_shards_are_as_large_as_their_speech_will_be(tmp_path):
    """One shard of everything is no unit of work; one a row is a folder of a million files."""
    rows = [{"question": f"What is {i} plus {i}, do you think?"} for i in range(100)]
    plan = make(tmp_path, rows, filter_unspeakable=False, max_shard_size="500KB")
    assert 5 <= len(plan.shards) <= 12
    assert [row["question"] for row in read(plan)] == [row["question"] for row in rows]
    text = make(
        tmp_path, rows, filter_unspeakable=False, max_shard_size="500KB", channel_shares=["t2t=1"]
    )
    assert len(text.shards) == 1  # nobody speaks


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": ["question=text"]}, "no column 'text'"),
        ({"columns": ["prompt=question"]}, "no mapping; write field=column"),
        ({"channel_shares": ["speech=2"]}, "'speech=2' is no share"),
        ({"channel_shares": ["t2t=0"]}, "all shares are zero"),
        ({"max_shard_size": "big"}, "size as 500MB"),
        ({"shard": "2/2"}, "shard is i/N"),
        ({"speech_engine": "server"}, "go together"),
        ({"push_to_hub": True}, "hub_dataset_id"),
        ({"noise_snr_db": [20, 5]}, "lowest and highest"),
        ({"licenses": ["mit"]}, "write source=license"),
        ({"speech_engine": "server", "speech_base_url": "http://x"}, "needs speech_model"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_read(tmp_path, changes, message):
    """A night of work, then a typing error."""
    with pytest.raises(ValueError, match=message):
        make(tmp_path, [{"question": "Which animal barks?"}], **changes)
    assert not list(tmp_path.rglob("plan.json"))


def test_a_split_is_a_name_and_not_a_path(tmp_path):
    """It becomes the name of a file, and comes from somebody else's data."""
    with pytest.raises(ValueError, match=r"row 0: '\.\./x' is no name of a split"):
        make(tmp_path, [{"question": "Which animal barks?", "split": "../x"}])


def test_no_question_left_says_why(tmp_path):
    """An empty data set, found out by the trainer."""
    with pytest.raises(ValueError, match=r"no question is left; dropped: .*'too short': 1"):
        make(tmp_path, [{"question": "Well?"}])
    assert not list((tmp_path / "data" / "plans").glob("*"))
