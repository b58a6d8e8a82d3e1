"""Tests of generated answers: batches, padding, how they end."""

import pytest

from tests.support.answers import answer_rows
from trainer_ext.evaluation.generation import MAX_LOGITS, cut_batches, encode_prompts, generate_greedily
from trainer_ext.evaluation.items import LENGTH, STOP


@pytest.mark.parametrize("channel", ["t2t", "s2t", "a2t"])
def test_an_answer_does_not_depend_on_its_batch(student, family, pairs, channel):
    """Prevents: left padding that shifts positions, or clips assigned to other rows."""
    rows = [{**row, "audio": row["speech"]} for row in pairs["test"]]
    batched = answer_rows(student, family, rows, channel, 24, batch_size=7)
    single = [generate_greedily(student, family, encode_prompts(family, [row], channel), 24)[0].text for row in rows]
    assert batched == single
    assert len(set(batched)) > 3


@pytest.mark.slow
@pytest.mark.parametrize("channel", ["t2t", "s2t"])
def test_two_hundred_answers_do_not_depend_on_their_batches(pristine_student, family, pairs, channel):
    """Prevents: as above, for rare lengths; batches in another order and of any mixture of lengths too."""
    rows = [row for split in ("train", "test") for row in pairs[split]]
    rows = [
        {**row, "question": f"{prefix}{row['question']}"} for row in rows for prefix in ("", "Well, ", "So: ", "Hm, ")
    ]
    rows = rows[:210]
    assert len(rows) == 210
    single = [
        generate_greedily(pristine_student, family, encode_prompts(family, [row], channel), 24)[0].text for row in rows
    ]
    assert answer_rows(pristine_student, family, rows, channel, 24, batch_size=16) == single
    mixed = []
    for start in range(0, len(rows), 15):  # in the rows' own order: short and long together
        inputs = encode_prompts(family, rows[start : start + 15], channel)
        mixed += [answer.text for answer in generate_greedily(pristine_student, family, inputs, 24)]
    assert mixed == single


def test_long_prompts_share_smaller_batches():
    """Prevents: running out of memory: logits of 32 whole prompts are 5 GB for questions of 20 seconds."""
    lengths = [10, 4000, 20, 4000, 10, 4000, 30]
    vocab_size = MAX_LOGITS // 8000
    batches = cut_batches(lengths, 4, vocab_size)
    assert sorted(position for batch in batches for position in batch) == list(range(len(lengths)))
    assert [len(batch) for batch in batches] == [4, 2, 1]
    assert cut_batches([9000], 4, vocab_size) == [[0]]  # one that is too long is asked alone
    assert cut_batches([], 4, vocab_size) == []


def test_an_answer_says_how_it_ended(student, family, pairs):
    """Prevents: a cut answer that passes for a finished one, and padding that counts as tokens."""
    inputs = encode_prompts(family, [pairs["test"][i] for i in range(4)], "t2t")
    whole = generate_greedily(student, family, inputs, 24)
    assert {answer.finish_reason for answer in whole} == {STOP}
    assert [answer.tokens for answer in whole] == [len(family.encode_response(answer.text)) for answer in whole]
    (cut, *_) = generate_greedily(student, family, inputs, 2)
    assert (cut.finish_reason, cut.tokens) == (LENGTH, 2)
    assert whole[0].text.startswith(cut.text)
