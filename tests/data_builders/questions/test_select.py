"""Tests of the selection of questions, its reasons, and the assignment of channels."""

import collections
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_builders.questions.duplicates import NearDuplicates
from data_builders.questions.select import select_questions
from data_builders.questions.speakability import SpeakabilityFilter
from data_builders.questions.text_normalization import normalize_for_tts
from data_builders.speech.recordings import recordings_per_split
from tests.support.lab import write_questions
from tests.support.open_orca import write_rows
from tests.support.settings import make_settings

LABELS = Path(__file__).with_name("speakability_labels.tsv")
OPEN_ORCA = {"columns": ["system=system_prompt", "gold_response=response"]}


def select(file, tmp_path, **changes):
    settings = make_settings(questions=str(file), cache_dir=str(tmp_path / "data"), **changes)
    recordings = recordings_per_split(settings.speech)
    cache_dir = Path(settings.pipeline.cache_dir)
    return select_questions(settings.questions, recordings, settings.pipeline.max_shard_size, cache_dir, quiet=True)


def make(tmp_path, rows, **changes):
    return select(write_questions(tmp_path / "questions.jsonl", rows), tmp_path, **changes)


def read(plan):
    return [row for shard in plan.shards for row in plan.read(shard)]


def test_the_filter_agrees_with_human_labels():
    """Prevents: hours of speech of tables and code, or a data set of trivia alone. The labels are older than the
    filter.
    """
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
        ("Yes", "too_short"),
        ("What is at www.example.com today?", "link"),
        ("What does print(sorted(x)) do?", "code"),
        ("| a | b |\n| 1 | 2 |\nWhich is more?", "table"),
        ("Which one? (A) this (B) that", "options"),
        ("The capital of France is ____.", "blank"),
        ("Was kostet ein Fahrrad in Deutschland im Durchschnitt?", "other_language"),
        ("Tell me " + "very " * 60 + "much", "too_long"),
        ("Why is 12345678901 a prime?", "numbers"),
    ],
)
def test_each_reason_names_its_defect(question, reason):
    """Prevents: a filter that removes the wrong rows unnoticed; people read the table of reasons."""
    assert SpeakabilityFilter(60, 25).find_reason(question) == reason


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("What is 25 + 17?", "What is twenty five plus seventeen?"),
        ("In 1969, who walked on the moon?", "In nineteen sixty nine, who walked on the moon?"),
        ("How far is 5 km in miles?", "How far is five kilometers in miles?"),
        ("What is 1,234 plus 1?", "What is one thousand two hundred and thirty four plus one?"),
        ("What is a [1] in a text?", "What is a [1] in a text?"),
        ("1,000 or 21,000 people?", "one thousand or twenty one thousand people?"),
        ("Who said “no”?", 'Who said "no"?'),
        ("Which animal barks?", "Which animal barks?"),
    ],
)
def test_numbers_and_units_are_spelled_out(written, spoken):
    """Prevents: voices that read "km" as letters, and digits that a recognizer's dictionary lacks."""
    assert normalize_for_tts(written) == spoken


def test_near_duplicates_are_found_and_similar_questions_are_kept(tmp_path):
    """Prevents: a thousand copies of one question in capitals, or dropping a question that differs in the decisive
    word.
    """
    seen = NearDuplicates(tmp_path / "seen.sqlite", similarity=0.8)
    assert seen.find("a", "What is the capital city of France in Europe?") is None
    assert seen.find("b", "what is the capital city of FRANCE, in Europe") == "a"
    assert seen.find("c", "What is the capital city of Spain in Europe?") is None
    assert seen.find("d", "What is the capital city of Spain, in Europe?") == "c"
    seen.close()


def test_every_dropped_question_is_listed_with_its_reason(tmp_path):
    """Prevents: three quarters of a corpus dropped without a trace."""
    file = tmp_path / "orca.jsonl"
    write_rows(file, 400)
    plan = select(file, tmp_path, **OPEN_ORCA)
    dropped = pq.read_table(plan.folder / "dropped.parquet").to_pylist()
    reasons = collections.Counter(row["code"] for row in dropped)
    assert {**reasons, "kept": len(read(plan)), "read": 400} == plan.counts
    assert len(dropped) + len(read(plan)) == 400
    asked = read(plan)
    assert all(row["gold_response"].startswith("That depends") for row in asked)
    assert {row["system"][:7] for row in asked} == {"", "You are"}


def test_channels_are_assigned_in_exact_counts(tmp_path):
    """Prevents: other counts than the paper's 22,456 and 44,753, and other channels for a row on another machine."""
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
    again = read(make(tmp_path, rows[::-1], filter_unspeakable=False, channel_shares=["both=1", "t2t=1"]))
    assert {r["id"]: r["channels"] for r in again} == {r["id"]: r["channels"] for r in both}
    other = read(make(tmp_path, rows, filter_unspeakable=False, seed=1, channel_shares=["both=1", "t2t=1"]))
    assert [r["channels"] for r in other] != [r["channels"] for r in both]


def test_a_sample_is_drawn_by_row_hash(tmp_path):
    """Prevents: a sample of the first rows of a sorted corpus."""
    rows = [{"question": f"What is {i} plus {i}?"} for i in range(400)]
    half = read(make(tmp_path, rows, filter_unspeakable=False, sample_fraction=0.5))
    assert 150 < len(half) < 250
    more = read(make(tmp_path, rows, filter_unspeakable=False, sample_fraction=0.6))
    assert {row["id"] for row in half} < {row["id"] for row in more}


def test_shard_size_counts_the_expected_speech(tmp_path):
    """Prevents: one shard for everything, or a million shards of one row."""
    rows = [{"question": f"What is {i} plus {i}, do you think?"} for i in range(100)]
    plan = make(tmp_path, rows, filter_unspeakable=False, max_shard_size="500KB")
    assert 5 <= len(plan.shards) <= 12
    assert [row["question"] for row in read(plan)] == [row["question"] for row in rows]
    text = make(tmp_path, rows, filter_unspeakable=False, max_shard_size="500KB", channel_shares=["t2t=1"])
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
        ({"licenses": ["mit"]}, "licenses: write key=value"),
        ({"speech_engine": "server", "speech_base_url": "http://x"}, "needs speech_model"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_read(tmp_path, changes, message):
    """Prevents: a typing error that is reported after a night of work."""
    with pytest.raises(ValueError, match=message):
        make(tmp_path, [{"question": "Which animal barks?"}], **changes)
    assert not list(tmp_path.rglob("selection.json"))


def test_a_split_is_a_name_and_not_a_path(tmp_path):
    """Prevents: writing outside of the output folder: the split of a foreign data set becomes a file name."""
    with pytest.raises(ValueError, match=r"row 0: '\.\./x' is no name of a split"):
        make(tmp_path, [{"question": "Which animal barks?", "split": "../x"}])


def test_an_empty_selection_is_refused_with_its_reasons(tmp_path):
    """Prevents: an empty data set that only the trainer notices."""
    with pytest.raises(ValueError, match=r"no question is left; dropped: .*'too_short': 1"):
        make(tmp_path, [{"question": "Well?"}])
    assert not list((tmp_path / "data" / "selections").glob("*/"))


@pytest.mark.parametrize(
    ("question", "language", "reason"),
    [
        ("Was kostet ein Fahrrad in Deutschland im Durchschnitt?", "de", None),
        ("What is the average price of a bicycle in Germany?", "de", "other_language"),
        ("Сколько стоит велосипед в Германии в среднем?", "ru", None),
        ("北京今天的天气怎么样？", "zh", None),
        ("北京今天的天气怎么样？", "en", "other_language"),
        ("Was macht print(sorted(x)) in Python?", "de", "code"),
    ],
)
def test_questions_of_another_language_are_kept_on_demand(question, language, reason):
    """Prevents: a data set in German of which every row is "not English", with no way out."""
    assert SpeakabilityFilter(60, 25, language).find_reason(question) == reason


def test_text_is_normalized_in_its_language():
    """Prevents: German numbers that are read out in English."""
    assert normalize_for_tts("Was ist 25 + 17?", "de") == "Was ist 25 + 17?"
    assert "二十五" in normalize_for_tts("25加17等于多少？", "zh")


def test_a_share_of_the_questions_is_held_out_by_their_words(tmp_path):
    """Prevents: a question that is tested in one voice and trained in another, or under the name of another source."""
    rows = [{"question": f"What is {n} plus {n}?", "source": source} for n in range(300) for source in ("a", "b")]
    rows += [{"question": "Which animal barks?", "split": "train"}, {"question": "Which animal meows?", "split": "dev"}]
    held_out = read(make(tmp_path, rows, test_share=0.2))
    splits = collections.defaultdict(set)
    for row in held_out:
        splits[row["split"]].add(row["question"])
    assert 35 < len(splits["test"]) < 85
    assert not splits["test"] & splits["train"]
    assert "Which animal barks?" in splits["train"]
    assert splits["dev"] == {"Which animal meows?"}
    again = read(make(tmp_path, [*rows, {"question": "What is one more?"}], test_share=0.2))
    assert splits["test"] <= {row["question"] for row in again if row["split"] == "test"}
    assert {row["split"] for row in read(make(tmp_path, rows[:40]))} == {"train"}
    with pytest.raises(ValueError, match=r"test_share is in \[0, 1\), got 1"):
        make(tmp_path, rows, test_share=1)
