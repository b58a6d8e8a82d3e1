"""Tests of the prompts from WordNet."""

import re

import pytest
from wordnet_prompts import make_prompts

SENTENCES = [
    "the {} is in the house",
    "we saw the {} and the house",
    "a {} was near the house",
    "take the {} home to us",
]
NOUNS = ["dog", "cat", "bird", "tree", "house"]


@pytest.fixture
def wordnet(tmp_path):
    """A folder with the files of WordNet that are read."""
    examples = [sentence.format(noun) for sentence in SENTENCES for noun in NOUNS[:-1]]
    rare = ["the aardvark ate the zymurgy"]
    lines = [f'{n:08} n | gloss {n}; more; "{text}"' for n, text in enumerate([*examples, *rare])]
    (tmp_path / "data.noun").write_text("\n".join(lines))
    (tmp_path / "data.verb").write_text("  1 license text\n")
    (tmp_path / "data.adj").write_text("")
    index = [f"{noun} n 2 0 {n + 5:08} {n:08}  " for n, noun in enumerate([*NOUNS, "aardvark"])]
    (tmp_path / "index.noun").write_text("\n".join(["  1 license text 00000000", *index]))
    counts = [f"{noun}%1:00:00:: 1 {9 - n}" for n, noun in enumerate([*NOUNS, "aardvark"])] + ["run%2:00:00:: 1 50"]
    (tmp_path / "cntlist.rev").write_text("\n".join(counts))
    return tmp_path


def test_words_of_held_out_prompts_are_in_others(wordnet):
    """Prevents: a word error rate of words that nothing could have taught."""
    rows = make_prompts(wordnet, words=4, sentences=16, held_out=3, seed=0)
    words = {"train": set(), "test": set()}
    for row in rows:
        words[row["split"]] |= set(re.findall("[a-z]+", row["question"].lower()))
    assert words["test"] <= words["train"]
    assert len(rows) == len({row["question"] for row in rows}) == 4 * 6 + 16
    assert sum(row["split"] == "test" for row in rows) == 6


def test_rare_words_are_left_out_first(wordnet):
    """Prevents: a world of words that occur once."""
    rows = make_prompts(wordnet, words=10, sentences=16, held_out=1, seed=0)
    text = " ".join(row["question"] for row in rows)
    assert "zymurgy" not in text
    assert "aardvark" not in text  # no noun of the sentences
    assert " run" not in text


def test_a_question_that_a_definition_answers_has_it(wordnet):
    """Prevents: gold answers of another word, of a rare sense, or to questions that they do not answer."""
    rows = make_prompts(wordnet, words=4, sentences=16, held_out=1, seed=0)
    gold = {row["question"]: row["gold_response"] for row in rows}
    defined = {text: answer for text, answer in gold.items() if answer is not None}
    assert defined
    for question, answer in defined.items():
        noun = next(noun for noun in NOUNS if noun in re.findall("[a-z]+", question))
        assert answer == f"gloss {NOUNS.index(noun) + 5}."
    assert all(text.startswith(("What is", "What does", "Tell", "How")) for text in defined)
