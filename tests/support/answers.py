"""Answers of a model to rows of the data contract."""

from trainer_ext.evaluation.generation import cut_batches, encode_prompts, generate_greedily


def answer_rows(model, family, rows, channel, max_new_tokens, batch_size=16) -> list[str]:
    """Return one answer per row, in the order of the rows."""
    lengths = [len(encode_prompts(family, [row], channel)["input_ids"][0]) for row in rows]
    answers = {}
    for batch in cut_batches(lengths, batch_size, family.vocab_size):
        inputs = encode_prompts(family, [rows[i] for i in batch], channel)
        answers |= dict(zip(batch, generate_greedily(model.eval(), family, inputs, max_new_tokens), strict=True))
    return [answers[i].text for i in range(len(rows))]
